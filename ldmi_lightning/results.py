"""What is left of a run: the clean test of each stage's checkpoints, a table and `results.json`."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor

import ldmi_lightning
from ldmi_lightning.batch import LabelledData
from ldmi_lightning.callbacks import StageCheckpoint
from ldmi_lightning.datamodules import NoisyDataModule
from ldmi_lightning.losses import TransitionLoss
from ldmi_lightning.module import LDMIModule
from ldmi_lightning.stages import STAGES

FIGURES = {
    "test_acc": ("best", "test/acc"),
    "test_balanced_acc": ("best", "test/balanced_acc"),
    "test_acc_last": ("last", "test/acc"),
    "test_balanced_acc_last": ("last", "test/balanced_acc"),
}


def test_stages(
    trainer: pl.Trainer, module: LDMIModule, data: pl.LightningDataModule, checkpoint: StageCheckpoint
) -> dict[str, dict[str, Any]]:
    """Test each stage's last and best checkpoint on the clean test set; the module is left with the last stage's best.

    Only the last test reaches the loggers, as ``test/acc`` and ``test/balanced_acc`` of the run.

    Returns:
        For each stage ``loss``, ``epochs``, ``best_epoch``, ``selected_by`` and the figures; ``None`` for what cannot be
        known. Where the loss has a transition matrix, that of the best epoch and its ``transition_error``, too.
    """
    summaries = module.stage_summaries()
    loggers, trainer.loggers = trainer.loggers, []
    testable = is_overridden("test_dataloader", data, pl.LightningDataModule)
    tested: dict[str, dict[str, Any]] = {}
    for name, summary in summaries.items():
        measured: dict[str, dict[str, float]] = {}
        for which in ("last", "best"):
            path = checkpoint.path_of(name, which)
            if not (testable and path.is_file()):
                continue
            if which == "best" and name == list(summaries)[-1]:
                trainer.loggers = loggers
            trainer.test(module, datamodule=data, ckpt_path=path, verbose=False, weights_only=True)
            measured[which] = {key: float(value) for key, value in trainer.callback_metrics.items()}
        kept = {key: summary[key] for key in ("loss", "epochs", "best_epoch", "selected_by")}
        figures = {key: measured.get(which, {}).get(metric) for key, (which, metric) in FIGURES.items()}
        tested[name] = kept | {key: None if value is None else round(value, 6) for key, value in figures.items()}
        # The test of the best checkpoint, the last one, has loaded the matrix of that epoch.
        if isinstance(loss := module.losses[name], TransitionLoss):
            tested[name] |= _compared(loss.transition, data)
    trainer.loggers = loggers
    return tested


def _compared(transition: Tensor, data: pl.LightningDataModule) -> dict[str, Any]:
    """Return T̂ and its error: the mean over true classes of the L1 distance to the injected row; ``None`` if unknown."""
    injected = None
    if isinstance(data, NoisyDataModule) and data.labels_are_true("train"):
        injected = data.noise.transition_matrix(len(transition))
    error = None if injected is None else float(abs(transition.cpu().numpy() - injected).sum(axis=1).mean())
    return {
        "transition": transition.round(decimals=6).tolist(),
        "transition_error": None if error is None else round(error, 6),
    }


def collect(
    module: LDMIModule, data: pl.LightningDataModule, stages: dict[str, Any], seed: int, wall_time_s: float
) -> dict[str, Any]:
    """Return the content of ``results.json``, in plain JSON types."""
    return {
        "data": type(data).__name__,
        "seed": seed,
        "noise": data.noise_report() if isinstance(data, LabelledData) else None,
        "stages": dict.fromkeys(STAGES) | stages,
        "versions": {
            "ldmi_lightning": ldmi_lightning.__version__,
            "torch": torch.__version__,
            "pytorch_lightning": version("pytorch_lightning"),
        },
        "wall_time_s": round(wall_time_s, 1),
    }


def write_json(results: dict[str, Any], path: Path) -> None:
    """Write so that the file is never seen half-written."""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    unfinished.replace(path)


def table(stages: Mapping[str, Mapping[str, Any] | None]) -> str:
    """Return the stages' figures as a table to print.

    >>> print(table({"warmup": {"loss": "CELoss", "epochs": 2, "best_epoch": 1, "selected_by": "val/acc",
    ...                         "test_acc": 0.5, "test_balanced_acc": None, "test_acc_last": 0.25}}))
    stage   loss    epochs  best epoch  selected by  test acc  balanced acc  last epoch's test acc
    warmup  CELoss       2           1  val/acc        0.5000             –                 0.2500
    """
    heads = [
        "stage",
        "loss",
        "epochs",
        "best epoch",
        "selected by",
        "test acc",
        "balanced acc",
        "last epoch's test acc",
    ]
    keys = ["loss", "epochs", "best_epoch", "selected_by", "test_acc", "test_balanced_acc", "test_acc_last"]
    rows = [[name, *(_cell(stage[key]) for key in keys)] for name, stage in stages.items() if stage is not None]
    left = {0, 1, 4}
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left or row is heads else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [heads, *rows]
    )


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
