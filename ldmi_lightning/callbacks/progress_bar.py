"""A progress bar that names the stage."""

from typing import TYPE_CHECKING, Any, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from pytorch_lightning.trainer.states import TrainerFn

if TYPE_CHECKING:
    from ldmi_lightning.module import LDMIModule


class StageProgressBar(TQDMProgressBar):
    """Lightning's progress bar for training, with ``warmup 3/20`` for the epoch, and none for validation.

    Args:
        refresh_rate: batches between two refreshes; 50 cost nothing.
    """

    def __init__(self, refresh_rate: int = 50) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=False)  # one line for all epochs

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Name the stage and its epoch, which begins now."""
        super().on_train_epoch_start(trainer)
        module = cast("LDMIModule", trainer.lightning_module)
        self.train_progress_bar.set_description(module.describe_epoch())

    def init_validation_tqdm(self) -> Tqdm:
        """Keep the bar of a validation within ``fit`` silent."""
        return Tqdm(disable=True) if self.trainer.state.fn == TrainerFn.FITTING else super().init_validation_tqdm()

    def init_test_tqdm(self) -> Tqdm:
        """Leave no bar behind for each of the tests that follow a fit."""
        bar = super().init_test_tqdm()
        bar.leave = False
        return bar

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Leave out Lightning's version number of the run, which says nothing here."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
