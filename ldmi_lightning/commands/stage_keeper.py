"""Keep each stage that ends in the cache of stages that runs share."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from ldmi_lightning.errors import UserError
from ldmi_lightning.runs.stage_cache import StageCache

if TYPE_CHECKING:
    from ldmi_lightning.training.module import LDMIModule


class StageKeeper(Callback):
    """Keep a stage when the next one has begun, or the run ends.

    Args:
        cache: where it is kept.
        folder: the run's folder, in which its checkpoints are by then.
    """

    def __init__(self, cache: StageCache, folder: Path) -> None:
        self.cache = cache
        self.folder = folder
        self._looked_at: set[str] = set()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the stage that has ended before."""
        self._keep(pl_module, cast("LDMIModule", pl_module).progress.finished)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the last stage."""
        progress = cast("LDMIModule", pl_module).progress
        self._keep(pl_module, [*progress.finished, *([progress.stage] if progress.over else [])])

    def _keep(self, pl_module: pl.LightningModule, stages: Iterable[str]) -> None:
        for stage in stages:
            if stage in self._looked_at:
                continue
            self._looked_at.add(stage)
            try:
                self.cache.keep(stage, self.folder)
            except (OSError, UserError) as error:  # the run itself has lost nothing
                reason = str(getattr(error, "strerror", None) or error).rstrip(".")
                pl_module.print(f"{stage} is not kept in {self.cache.folder}: {reason}.")
