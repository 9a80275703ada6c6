"""The test of each stage's checkpoints, and the transition matrix T̂ that each stage implies."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor

from ldmi_lightning.commands.true_accuracy import limited, true_accuracy
from ldmi_lightning.datamodules import NoisyDataModule
from ldmi_lightning.datamodules.encoding.encoded import EncodedDataModule
from ldmi_lightning.datamodules.own_data import OwnData
from ldmi_lightning.likelihood import fit_transition
from ldmi_lightning.losses import DMILoss, TransitionLoss
from ldmi_lightning.runs.folder import LAST
from ldmi_lightning.training.module import LDMIModule
from ldmi_lightning.training.predictions import predict_split
from ldmi_lightning.training.stage_loop import StageCheckpoint

MOST_CLASSES = 250
"""Of more classes ``results.json`` holds no confusion matrix, and no U: it would have millions of lines."""

AS_GIVEN = "test labels as given"

SUMMARY = ("loss", "epochs", "best_epoch", "selected_by", "mode", "best_score")
FIGURES = {
    "test_acc": ("best", "test/acc"),
    "test_balanced_acc": ("best", "test/balanced_acc"),
    "test_acc_last": ("last", "test/acc"),
    "test_balanced_acc_last": ("last", "test/balanced_acc"),
}


def test_stages(
    trainer: pl.Trainer, module: LDMIModule, data: pl.LightningDataModule, checkpoint: StageCheckpoint
) -> dict[str, dict[str, Any]]:
    """Test each stage's last and best checkpoint on the test set; the module is left with the chosen stage's best.

    Only that stage's figures reach the loggers, as ``test/acc`` and ``test/balanced_acc`` of the run.

    Returns:
        For each stage, in order, ``loss``, ``epochs``, ``best_epoch``, what it was ``selected_by``, the ``mode`` (``max`` or
        ``min``) and ``best_score`` of that, and the figures; ``None`` for what cannot be known. Of the best epoch, ``confusion``
        on the test set (counts, row = true class, column = prediction), ``joint``, which is U on the noisy validation set, T̂ and
        its ``transition_error``: that of the loss where it has one, and after DMI the most likely one, with the ``temperature``
        that makes posteriors of the outputs. Never after cross-entropy, whose outputs are probabilities of NOISY labels.
        Where the test labels are as given, ``true_acc`` beside ``test_acc``: see
        :func:`~ldmi_lightning.commands.true_accuracy.true_accuracy`.
    """
    summaries = module.stage_summaries()
    chosen = module.chosen or list(summaries)[-1]
    loggers, trainer.loggers = trainer.loggers, []
    testable = is_overridden("test_dataloader", data, pl.LightningDataModule)
    tested: dict[str, dict[str, Any]] = {}
    for name in sorted(summaries, key=lambda each: each == chosen):
        measured: dict[str, dict[str, float]] = {}
        for which in ("last", "best"):
            # Rank 0 alone sees them for certain: the run's folder may be on its machine.
            path = trainer.strategy.broadcast(_checkpoint(checkpoint, name, which, name == list(summaries)[-1]))
            if testable and path is not None:
                trainer.loggers = loggers if (name, which) == (chosen, "best") else []
                trainer.test(module, datamodule=data, ckpt_path=path, verbose=False, weights_only=True)
                measured[which] = {key: float(value) for key, value in trainer.callback_metrics.items()}
        kept = {key: summaries[name][key] for key in SUMMARY}
        figures = {key: measured.get(which, {}).get(metric) for key, (which, metric) in FIGURES.items()}
        tested[name] = kept | {key: None if value is None else round(value, 6) for key, value in figures.items()}
        tested[name]["confusion"] = as_lists(module.tested if "best" in measured else None)
        tested[name]["joint"] = as_lists(summaries[name]["best_joint"])
        # The test of the best checkpoint, the last one, has loaded the weights and the matrix of that epoch.
        found = estimate(trainer, module, data, name, loaded="best" in measured)
        if found is not None:
            tested[name] |= {**compare_with_injected(found[0], data), "temperature": found[1]}
        if "best" in measured and kind_of_test_labels(data) == AS_GIVEN:
            tested[name] |= true_accuracy(trainer, module, data, name)
    trainer.loggers = loggers
    return {name: tested[name] for name in summaries}


def as_lists(matrix: Tensor | None) -> list[list[float]] | None:
    """Return a matrix as ``results.json`` holds it, to 8 digits; ``None`` where it is not known, or too large.

    >>> import torch
    >>> as_lists(torch.tensor([[1 / 3, 0.0], [0.5, 1 / 6]], dtype=torch.float64)), as_lists(torch.eye(251))
    ([[0.33333333, 0.0], [0.5, 0.16666667]], None)
    """
    if matrix is None or len(matrix) > MOST_CLASSES:
        return None
    return [[value if isinstance(value, int) else float(f"{value:.8g}") for value in row] for row in matrix.tolist()]


def kind_of_test_labels(data: pl.LightningDataModule) -> str:
    """Say what the test labels are: clean where that is known, else as they were given.

    >>> from ldmi_lightning.datamodules import DigitsDataModule
    >>> kind_of_test_labels(DigitsDataModule())
    'clean test labels'
    """
    given = data.data if isinstance(data, EncodedDataModule) else data
    known = isinstance(given, NoisyDataModule) and given.labels_are_true("test")
    if isinstance(given, OwnData):
        known = given.labels_are_known("test")
    return "clean test labels" if known else AS_GIVEN


def _checkpoint(checkpoint: StageCheckpoint, stage: str, which: Any, is_newest: bool) -> Path | None:
    """Return a stage's checkpoint; the last of one that was resumed with fewer epochs than it had run is the newest."""
    path = checkpoint.path_of(stage, which)
    if not path.is_file() and which == "last" and is_newest:
        path = path.with_name(LAST)
    return path if path.is_file() else None


def estimate(
    trainer: pl.Trainer, module: LDMIModule, data: pl.LightningDataModule, stage: str, loaded: bool
) -> tuple[NDArray[np.float64], float] | None:
    """Return T̂ of a stage, shape ``(C, C)``, and the temperature of its outputs; ``None`` for one whose outputs imply none.

    Args:
        trainer: has tested the module.
        module: holds the stage's best epoch, if ``loaded``.
        data: its validation set is predicted, as far as the Trainer limits it.
        stage: its name.
        loaded: whether the module holds that epoch.
    """
    loss = module.losses[stage]
    if isinstance(loss, TransitionLoss):
        return np.asarray(loss.transition.detach().cpu().numpy(), dtype=np.float64), 1.0
    if not (isinstance(loss, DMILoss) and loaded and is_overridden("val_dataloader", data, pl.LightningDataModule)):
        return None
    device = module.device
    module.to(trainer.strategy.root_device)  # Lightning takes the module off a GPU after each test
    held_out = predict_split(module, limited(data.val_dataloader(), trainer.limit_val_batches))
    module.to(device)
    found = fit_transition(held_out.probs.double().numpy(), held_out.y.numpy()) if len(held_out.y) else None
    return None if found is None else (found.transition, found.temperature)


def compare_with_injected(transition: NDArray[np.float64], data: pl.LightningDataModule) -> dict[str, Any]:
    """Return T̂ and its error: the mean over true classes of the L1 distance to the injected row; ``None`` if unknown."""
    injected = None
    if isinstance(data, NoisyDataModule) and data.labels_are_true("train"):
        injected = data.noise.transition_matrix(len(transition))
    error = None if injected is None else float(abs(transition - injected).sum(axis=1).mean())
    return {
        "transition": transition.round(6).tolist(),
        "transition_error": None if error is None else round(error, 6),
    }
