"""What a W&B run says of itself: its configuration, the noise, and each stage's best epoch."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import WandbLogger

from ldmi_lightning.batch import LabelledData


class Scored(Protocol):
    """How far a stage has come."""

    stage: str
    best_epoch: int | None
    best_score: float | None


@runtime_checkable
class SelectsEpochs(Protocol):
    """A module that selects the best epoch of each stage, as :class:`~ldmi_lightning.LDMIModule` does."""

    improved: bool
    """Whether the last validation found the best weights of the stage so far."""

    @property
    def progress(self) -> Scored:
        """How far the running stage has come."""


class WandbRecord(Callback):
    """Put the configuration and the noise into the run's config, and the stages' best epochs into its summary.

    Curves stand over ``epoch``, which a resumed run continues. Does nothing without a WandbLogger.

    Args:
        config: the whole configuration, in plain types.
    """

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self.config = dict(config or {})

    @staticmethod
    def _runs(trainer: pl.Trainer) -> list[Any]:
        if not trainer.is_global_zero:
            return []
        return [logger.experiment for logger in trainer.loggers if isinstance(logger, WandbLogger)]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Describe the run before it trains."""
        data = getattr(trainer, "datamodule", None)
        noise = data.noise_report() if isinstance(data, LabelledData) else None
        for run in self._runs(trainer):
            run.define_metric("epoch")
            for name in ("train/*", "val/*", "joint/*", "test/*", "lr", "stage"):
                run.define_metric(name, step_metric="epoch")
            run.config.update({**self.config, "noise": noise}, allow_val_change=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the running stage's best epoch in the summary."""
        if not (trainer.training or trainer.validating) or trainer.sanity_checking:
            return
        if not (isinstance(pl_module, SelectsEpochs) and pl_module.improved):
            return
        progress = pl_module.progress
        for run in self._runs(trainer):
            run.summary.update(
                {
                    f"{progress.stage}/best_epoch": progress.best_epoch,
                    f"{progress.stage}/best_score": progress.best_score,
                }
            )

    @classmethod
    def record_transitions(cls, trainer: pl.Trainer, stages: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep each stage's transition matrix and its error, as ``results.json`` has them, in the summary."""
        for run in cls._runs(trainer):
            for name, stage in stages.items():
                run.summary.update({f"{name}/{key}": stage[key] for key in stage if key.startswith("transition")})
