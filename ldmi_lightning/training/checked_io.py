"""Checkpoints are checked before Lightning reads them, from Python as from the command line."""

import errno
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.plugins.io import CheckpointIO, TorchCheckpointIO
from pytorch_lightning.strategies import Strategy

from ldmi_lightning import checkpoints


class CheckedIO(CheckpointIO):
    """Refuses damaged files, and those that could run code; all else is done as before.

    The run's folder is rank 0's: where another rank does not see a file, rank 0 reads it for all.

    Args:
        inner: what reads and writes the Trainer's checkpoints.
        strategy: the Trainer's, which knows the other ranks.
    """

    def __init__(self, inner: CheckpointIO, strategy: Strategy) -> None:
        self.inner, self.strategy = inner, strategy

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Raises:
            PermissionError: the folder may not be written to, which Lightning keeps to itself, or takes for an old fsspec.
        """
        try:
            self.inner.save_checkpoint(checkpoint, path, storage_options)
        except RuntimeError as error:
            if not isinstance(error.__cause__, PermissionError):
                raise
        if isinstance(self.inner, TorchCheckpointIO) and "://" not in str(path) and not Path(path).exists():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint that is intact, on all ranks together; one at a URL is left to what reads it."""
        if "://" in str(path):
            return self.inner.load_checkpoint(path, *args, **kwargs)
        read_by_each = self.strategy.reduce_boolean_decision(Path(path).is_file())
        found: dict[str, Any] = {}
        if read_by_each or self.strategy.is_global_zero:
            checkpoints.refuse_damaged(path)
            found = self.inner.load_checkpoint(path, *args, **kwargs)
        return found if read_by_each else self.strategy.broadcast(found)

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
        strategy.checkpoint_io = CheckedIO(strategy.checkpoint_io, strategy)
