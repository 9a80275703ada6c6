"""Every private name of Lightning or torch that the package needs, each with its reason; tests/test_compat.py holds them.

A new version may change any of them: then the test of that name fails, and says so.
"""

from collections.abc import Iterable
from typing import cast
from weakref import WeakKeyDictionary

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.core.mixins.hparams_mixin import _given_hyperparameters
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher
from torch import nn

CLAIMED: WeakKeyDictionary[pl.Trainer, int] = WeakKeyDictionary()
"""The ``max_epochs`` that the stages have given to a Trainer, so that a second ``fit`` does not take it for the user's."""


class SeesTrainer(pl.LightningModule):
    """A module that is told of its Trainer before Lightning changes what the user gave to it.

    Lightning replaces ``max_epochs=None`` by 1000, with a warning, before any hook runs: whether the user gave a length can be
    seen only where the Trainer is set.
    """

    @property
    def trainer(self) -> pl.Trainer:
        """The Trainer."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: pl.Trainer | None) -> None:
        if trainer is not None and trainer.lightning_module is self:  # and not a part of someone else's module
            self.meet_trainer(trainer)
        pl.LightningModule.trainer.fset(self, trainer)  # type: ignore[attr-defined]

    def meet_trainer(self, trainer: pl.Trainer) -> None:
        """Look at the Trainer as the user made it."""


def trainer_of(module: pl.LightningModule) -> pl.Trainer | None:
    """Return a module's Trainer, or ``None`` where it has none; Lightning's own property raises then."""
    try:
        return module.trainer
    except RuntimeError:
        return None


def callbacks_of(trainer: pl.Trainer) -> list[Callback]:
    """Return the Trainer's list of callbacks, which Lightning sets but does not declare."""
    return cast(list[Callback], trainer.callbacks)  # type: ignore[attr-defined]


def is_fast_dev_run(trainer: pl.Trainer) -> bool:
    """Whether the Trainer runs a few batches only (set, but not declared)."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def made_by_command_line() -> bool:
    """Whether LightningCLI makes the module just now, so that its hyperparameters are the configuration.

    Private: ``_given_hyperparameters``. From Python the arguments are objects, which must not be saved; Lightning has no
    public way to tell the two apart.
    """
    return _given_hyperparameters.get() is not None


def copies_processes(trainer: pl.Trainer) -> bool:
    """Whether the strategy is one of ``ddp_spawn``, ``ddp_fork`` and ``ddp_notebook``.

    Private: ``_MultiProcessingLauncher``, which alone tells them from ``ddp`` once the Trainer is made.
    """
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def begin_batches_anew(trainer: pl.Trainer) -> None:
    """Begin the first epoch of a resumed run again.

    Private: ``_data_fetcher``. Lightning has begun it before the epoch was seeded and its sampler told, so that someone else's
    shuffled loader would give the batches of another epoch.
    """
    if trainer.fit_loop.is_resuming and trainer.fit_loop._data_fetcher is not None:
        iter(trainer.fit_loop._data_fetcher)


def leave_out_of_ddp(module: nn.Module, names: Iterable[str]) -> None:
    """Let DDP neither copy these parameters and buffers between ranks nor wait for their gradients.

    Private: ``_ddp_params_and_buffers_to_ignore``, which DDP reads from the module that it wraps. A loss keeps its state equal
    on all ranks by itself (a buffer of a million entries would cost 4 ms a step), and DDP stops where a stage leaves a
    parameter without a gradient.
    """
    module._ddp_params_and_buffers_to_ignore = list(names)  # type: ignore[assignment]
