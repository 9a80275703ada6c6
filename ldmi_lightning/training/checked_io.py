"""Checkpoints are checked before Lightning reads them, from Python as from the command line."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.plugins.io import CheckpointIO

from ldmi_lightning import checkpoints


class CheckedIO(CheckpointIO):
    """Refuses damaged files, and those that could run code; all else is done as before.

    Args:
        inner: what reads and writes the Trainer's checkpoints.
    """

    def __init__(self, inner: CheckpointIO) -> None:
        self.inner = inner

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint."""
        self.inner.save_checkpoint(checkpoint, path, storage_options)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint that is intact; one on another machine is left to what reads it."""
        if "://" not in str(path):
            checkpoints.refuse_damaged(path)
        return self.inner.load_checkpoint(path, *args, **kwargs)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint."""
        self.inner.remove_checkpoint(path)

    def teardown(self) -> None:
        """Finish what is being written."""
        self.inner.teardown()


def check_what_is_read(trainer: pl.Trainer) -> None:
    """Let a Trainer's checkpoints be checked before they are read."""
    strategy = trainer.strategy
    if not isinstance(strategy.checkpoint_io, CheckedIO):
        strategy.checkpoint_io = CheckedIO(strategy.checkpoint_io)
