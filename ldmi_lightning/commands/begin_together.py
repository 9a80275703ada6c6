"""See that all processes of a run begin it, or go on with it, at the same place."""

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from ldmi_lightning.errors import UserError


class BeginTogether(Callback):
    """Refuses a run whose processes would not go on from one checkpoint, since they do not see the same files.

    Args:
        epochs: epochs that this process goes on after.
        place: the checkpoint that it goes on from, or the folder in which it has found none.
    """

    def __init__(self, epochs: int, place: str | Path | None) -> None:
        self.epochs, self.place = epochs, place

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Compare with rank 0, before a checkpoint is restored."""
        if stage != "fit" or trainer.world_size == 1:
            return
        epochs, place = trainer.strategy.broadcast((self.epochs, str(self.place)))
        if epochs != self.epochs:
            raise UserError(
                f"Rank 0 {_goes_on(epochs, place)}, but rank {trainer.global_rank} {_goes_on(self.epochs, self.place)}. "
                "Give --run_folder a place that all machines see, or copy its last.ckpt to the same place on each."
            )


def _goes_on(epochs: int, place: str | Path | None) -> str:
    return f"goes on after epoch {epochs} of {place}" if epochs else f"finds nothing to go on from in {place}"
