"""Keep each stage that ends in the cache of stages that runs share."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from ldmi_lightning.stage_cache import StageCache

if TYPE_CHECKING:
    from ldmi_lightning.module import LDMIModule


class StageKeeper(Callback):
    """Keep a stage when the next one begins, or the run ends.

    Args:
        cache: where it is kept.
        folder: the run's folder, in which its checkpoints are by then.
    """

    def __init__(self, cache: StageCache, folder: Path) -> None:
        self.cache = cache
        self.folder = folder

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the stage that has just ended; Lightning calls it before the module begins the next one."""
        self._keep(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the last stage."""
        self._keep(pl_module)

    def _keep(self, pl_module: pl.LightningModule) -> None:
        progress = cast("LDMIModule", pl_module).progress
        if not progress.over:
            return
        try:
            self.cache.keep(progress.stage, self.folder)
        except OSError as error:  # the run itself has lost nothing
            pl_module.print(f"{progress.stage} is not kept in {self.cache.folder}: {error.strerror}.")
