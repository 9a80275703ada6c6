"""What the stages ask of a Lightning Trainer: its length, its callbacks, and why it was told to stop."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    Callback,
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    Timer,
)
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher

from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import Loss

_CLAIMED = "_ldmi_max_epochs"
SHOWN_AND_KEPT = ("logger", "default_root_dir", "enable_progress_bar", "enable_model_summary", "log_every_n_steps")
"""The Trainer's settings of what a run shows and keeps, which leave its weights alone."""


def is_fast_dev_run(trainer: pl.Trainer) -> bool:
    """Whether the Trainer runs a few batches only."""
    return bool(getattr(trainer, "fast_dev_run", False))


def callbacks_of(trainer: pl.Trainer) -> list[Callback]:
    """Return the Trainer's callbacks (which Lightning sets, but does not declare)."""
    return cast(list[Callback], vars(trainer)["callbacks"])


def claim_length(trainer: pl.Trainer, epochs: int) -> None:
    """Let the stages say how long training lasts; refuse a length that the user gave to the Trainer.

    It has to happen before ``fit`` begins, since Lightning then replaces ``max_epochs=None`` by 1000. A length that an
    earlier ``fit`` has claimed is not the user's.
    """
    given = trainer.fit_loop.max_epochs
    for name, value, free in (
        ("max_epochs", given, given is None or given == vars(trainer).get(_CLAIMED)),
        ("max_steps", trainer.max_steps, trainer.max_steps == -1),
    ):
        if not free:
            raise UserError(
                f"{name}={value} was given to the Trainer, but the stages alone say how long training lasts: leave it "
                "out and set --model.warmup.epochs and --model.robust.epochs."
            )
    trainer.fit_loop.max_epochs = epochs
    setattr(trainer, _CLAIMED, epochs)


def check_strategy(trainer: pl.Trainer, losses: Sequence[Loss]) -> None:
    """Refuse what would silently train something else than the stages say."""
    if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy | ModelParallelStrategy):
        raise UserError(
            f"{type(trainer.strategy).__name__} spreads the weights over devices, but the stages hand over whole weights. "
            "Use --trainer.strategy ddp, which fits models that one device can hold."
        )
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise UserError(
            "ddp_spawn, ddp_fork and ddp_notebook bring the weights back from the processes that they start, but not how "
            "the stages went. Use --trainer.strategy ddp, in a script; in a notebook use a single device."
        )
    if (parts := _accumulated(trainer)) > 1 and any(loss.needs_whole_batch for loss in losses):
        raise UserError(
            f"accumulate_grad_batches={parts} averages determinants of parts of a batch, which is not the determinant of "
            "the batch. Use --model.robust.loss.memory 0.99, or a larger --data.batch_size."
        )
    if (share := vars(trainer)["overfit_batches"]) > 0:
        raise UserError(
            f"overfit_batches={share} has no effect on batches that are drawn anew in each epoch. Use "
            "--trainer.limit_train_batches."
        )


def _accumulated(trainer: pl.Trainer) -> int:
    """Return how many batches a step's gradient is averaged over at most."""
    scheduled = [each.scheduling for each in callbacks_of(trainer) if isinstance(each, GradientAccumulationScheduler)]
    return max(trainer.accumulate_grad_batches, *(parts for each in scheduled for parts in each.values()), 1)


def drop_default_checkpoint(trainer: pl.Trainer) -> None:
    """Take Lightning's untouched default ModelCheckpoint out; one that the user made stays."""
    vars(trainer)["callbacks"] = [each for each in callbacks_of(trainer) if not _is_untouched_default(each, trainer)]


def _is_untouched_default(callback: Callback, trainer: pl.Trainer) -> bool:
    if type(callback) is not ModelCheckpoint:
        return False
    # A validation or test before the fit has already filled in where it would write.
    resolved = {str(Path(folder) / "checkpoints") for folder in (trainer.log_dir, trainer.default_root_dir) if folder}
    plain = (str, int, float, bool, type(None))
    return callback.dirpath in {None, *resolved} and all(
        getattr(callback, name) == value
        for name, value in vars(ModelCheckpoint()).items()
        if isinstance(value, plain) and not name.startswith("_") and name != "dirpath"
    )


def out_of_time(trainer: pl.Trainer) -> bool:
    """Whether ``max_time`` has stopped the Trainer, rather than a user's EarlyStopping, which sets the same flag."""
    remaining = [timer.time_remaining() for timer in callbacks_of(trainer) if isinstance(timer, Timer)]
    if not remaining:
        return False
    # Each rank has a clock of its own; rank 0's counts, as in Lightning's Timer.
    return trainer.strategy.broadcast(any(seconds is not None and seconds <= 0 for seconds in remaining))


def go_on_with_next_stage(trainer: pl.Trainer) -> None:
    """Take back a user's EarlyStopping: it ended a stage, and begins anew with the next."""
    trainer.should_stop = False
    for callback in callbacks_of(trainer):
        if isinstance(callback, EarlyStopping):
            callback.wait_count = callback.stopped_epoch = 0
            worst = torch.tensor(torch.inf)
            callback.best_score = worst if callback.monitor_op == torch.lt else -worst


def begin_batches_anew(trainer: pl.Trainer) -> None:
    """Begin the first epoch of a resumed run again: Lightning has, before the epoch was seeded and its sampler told."""
    if trainer.fit_loop.is_resuming and trainer.fit_loop._data_fetcher is not None:
        iter(trainer.fit_loop._data_fetcher)


def is_everything(limit: float) -> bool:
    """Whether a ``limit_..._batches`` leaves all batches: in Lightning 1.0 does, and 1 is one batch.

    >>> is_everything(1.0), is_everything(1)
    (True, False)
    """
    return isinstance(limit, float) and limit == 1


def settings_of(trainer: pl.Trainer) -> dict[str, Any]:
    """Return the Trainer's settings that change what is learnt, under the names of the options."""
    names = ("limit_train_batches", "limit_val_batches", "gradient_clip_val", "accumulate_grad_batches", "precision")
    return {f"trainer.{name}": getattr(trainer, name, None) for name in names}
