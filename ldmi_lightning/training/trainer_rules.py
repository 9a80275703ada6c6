"""What the stages ask of a Lightning Trainer: its length, its callbacks, and why it was told to stop."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from ldmi_lightning.errors import UserError
from ldmi_lightning.method import Method
from ldmi_lightning.training.compat import CLAIMED, callbacks_of, copies_processes, is_fast_dev_run


def claim_length(trainer: pl.Trainer, epochs: int) -> None:
    """Let the stages say how long training lasts; refuse a length that the user gave to the Trainer.

    It has to happen before ``fit`` begins, since Lightning then replaces ``max_epochs=None`` by 1000. A length that an
    earlier ``fit`` has claimed is not the user's.
    """
    given, shortest = trainer.fit_loop.max_epochs, trainer.fit_loop.min_epochs
    for name, value, free in (
        ("max_epochs", given, given is None or given == CLAIMED.get(trainer)),
        ("max_steps", trainer.max_steps, trainer.max_steps == -1),
        ("min_epochs", shortest, not shortest),
        ("min_steps", trainer.min_steps, not trainer.min_steps),
    ):
        if not free:
            raise UserError(
                f"{name}={value} was given to the Trainer, but the stages alone say how long training lasts: leave it "
                "out and set --model.warmup.epochs and --model.robust.epochs."
            )
    set_length(trainer, epochs)


def set_length(trainer: pl.Trainer, epochs: int) -> None:
    """Tell the Trainer how many epochs the stages have, as things stand now."""
    trainer.fit_loop.max_epochs = CLAIMED[trainer] = epochs


def start_anew(trainer: pl.Trainer) -> None:
    """Let a Trainer that has fitted before, and stands at its end, begin again; a checkpoint is restored after this."""
    if is_fast_dev_run(trainer):
        trainer.fit_loop.epoch_loop.max_steps = -1  # so that each stage runs its batches
    trainer.fit_loop.epoch_progress.reset()
    trainer.should_stop = False


ACROSS_STAGES = "over the whole fit, across stages: leave it out; the best epoch of each stage is what is kept"


def refuse_callbacks(trainer: pl.Trainer) -> None:
    """Refuse callbacks that change the weights, or train, behind the stages' back; before any of them is set up."""
    remedies: dict[type, str] = {
        StochasticWeightAveraging: f"averages weights {ACROSS_STAGES}",
        WeightAveraging: f"averages weights {ACROSS_STAGES}",
        LearningRateFinder: (
            "trains before the stages begin, also for Tuner.lr_find: try a rate with --model.warmup.optimizer.lr and one "
            "epoch, with a Trainer of its own"
        ),
        BatchSizeFinder: (
            "trains before the stages begin, also for Tuner.scale_batch_size: set --data.batch_size, and try it with "
            "--trainer.fast_dev_run, with a Trainer of its own"
        ),
        BaseFinetuning: (
            "changes which parameters are trained behind the stages' back: give --model.freeze for those that are never "
            "trained, or --model.lr_factors for those that are trained more slowly"
        ),
    }
    for callback in callbacks_of(trainer):
        for kind, remedy in remedies.items():
            if isinstance(callback, kind):
                raise UserError(f"{type(callback).__name__} {remedy}.")


def check_strategy(trainer: pl.Trainer, methods: Iterable[Method]) -> None:
    """Refuse what would silently train something else than the stages say."""
    if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy | ModelParallelStrategy):
        raise UserError(
            f"{type(trainer.strategy).__name__} spreads the weights over devices, but the stages hand over whole weights. "
            "Use --trainer.strategy ddp, which fits models that one device can hold."
        )
    if copies_processes(trainer):
        raise UserError(
            "ddp_spawn, ddp_fork and ddp_notebook bring the weights back from the processes that they start, but not how "
            "the stages went. Use --trainer.strategy ddp, in a script; in a notebook use a single device."
        )
    if (parts := _accumulated(trainer)) > 1 and any(method.needs_whole_batch for method in methods):
        raise UserError(
            f"accumulate_grad_batches={parts} averages determinants of parts of a batch, which is not the determinant of "
            "the batch. Use --model.robust.loss.memory 0.99, or a larger --data.batch_size."
        )
    if (share := trainer.overfit_batches) > 0:  # type: ignore[attr-defined]
        raise UserError(
            f"overfit_batches={share} has no effect on batches that are drawn anew in each epoch. Use "
            "--trainer.limit_train_batches."
        )


def steps_of(trainer: pl.Trainer, epochs: int) -> int:
    """Return how many steps of the optimizer so many epochs have, on each rank: batches that are accumulated are one.

    Raises:
        UserError: it cannot be known.
    """
    if trainer.train_dataloader is None:
        trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches
    if batches == float("inf"):
        raise UserError(
            "The scheduler asks how many steps its stage has, but the training loader does not know its length: give the "
            "scheduler total_steps."
        )
    if any(isinstance(each, GradientAccumulationScheduler) for each in callbacks_of(trainer)):
        raise UserError(
            "The scheduler asks how many steps its stage has, but a GradientAccumulationScheduler changes it from epoch to "
            "epoch: give the scheduler total_steps."
        )
    return math.ceil(batches / trainer.accumulate_grad_batches) * epochs


def _accumulated(trainer: pl.Trainer) -> int:
    """Return how many batches a step's gradient is averaged over at most."""
    scheduled = [each.scheduling for each in callbacks_of(trainer) if isinstance(each, GradientAccumulationScheduler)]
    return max(trainer.accumulate_grad_batches, *(parts for each in scheduled for parts in each.values()), 1)


def drop_default_checkpoint(trainer: pl.Trainer) -> None:
    """Take Lightning's untouched default ModelCheckpoint out; one that the user made stays."""
    callbacks = callbacks_of(trainer)
    callbacks[:] = [each for each in callbacks if not _is_untouched_default(each, trainer)]


def _is_untouched_default(callback: object, trainer: pl.Trainer) -> bool:
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


def restart_early_stopping(trainer: pl.Trainer) -> None:
    """Let a user's EarlyStopping begin anew, as it would in a fit of its own."""
    for callback in callbacks_of(trainer):
        if isinstance(callback, EarlyStopping):
            callback.wait_count = callback.stopped_epoch = 0
            worst = torch.tensor(torch.inf)
            callback.best_score = worst if callback.monitor_op == torch.lt else -worst


def is_everything(limit: float) -> bool:
    """Whether a ``limit_..._batches`` leaves all batches: in Lightning 1.0 does, and 1 is one batch.

    >>> is_everything(1.0), is_everything(1)
    (True, False)
    """
    return isinstance(limit, float) and limit == 1


def settings_of(trainer: pl.Trainer) -> dict[str, Any]:
    """Return the Trainer's settings that change what is learnt, under the names of the options."""
    return {
        "trainer.limit_train_batches": trainer.limit_train_batches,
        "trainer.limit_val_batches": trainer.limit_val_batches,
        "trainer.gradient_clip_val": trainer.gradient_clip_val,
        "trainer.accumulate_grad_batches": trainer.accumulate_grad_batches,
        "trainer.precision": trainer.precision,
    }
