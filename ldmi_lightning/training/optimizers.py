"""A stage's optimizer and scheduler, made from what the stage says, and refused where they would work against it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ldmi_lightning.errors import UserError
from ldmi_lightning.schedulers import KnowsLength
from ldmi_lightning.training.groups import keeps_shares, set_base_rate
from ldmi_lightning.training.stages import Stage

NEGATIVE = "val/log_dmi"
"""What is negative always."""


def make_optimizer(
    stages: Mapping[str, Stage], name: str, groups: Sequence[Any], last_lr: float | None
) -> torch.optim.Optimizer:
    """Make a stage's optimizer: its own, or the first stage's at its last learning rate (Adam at 1e-3 where that has none).

    Args:
        stages: all stages, in order.
        name: the stage.
        groups: what is trained: see :meth:`ldmi_lightning.training.groups.Rates.groups`.
        last_lr: the learning rate of the first stage's last epoch; ``None`` where it was never run.
    """
    if stages[name].optimizer is not None:
        return own_optimizer(stages, name, groups)
    first = next(iter(stages))
    if stages[first].optimizer is None:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(groups, lr=1e-3)
        set_base_rate(optimizer)
        return optimizer
    optimizer = own_optimizer(stages, first, groups)
    if last_lr is not None:
        set_base_rate(optimizer, last_lr)
    return optimizer


def own_optimizer(stages: Mapping[str, Stage], name: str, groups: Sequence[Any]) -> torch.optim.Optimizer:
    """Make the optimizer that was given to a stage."""
    make = stages[name].optimizer
    assert make is not None
    try:
        optimizer = make(list(groups))
        set_base_rate(optimizer)
    except (TypeError, ValueError) as error:
        raise UserError(f"--model.{name}.optimizer cannot be made: {str(error).rstrip('.')}.") from error
    return optimizer


def with_scheduler(
    optimizer: torch.optim.Optimizer, name: str, stage: Stage, steps: Callable[[], int]
) -> OptimizerLRScheduler:
    """Return an optimizer with its stage's scheduler, as Lightning takes them.

    Args:
        optimizer: the stage's.
        name: of the stage.
        stage: what it is.
        steps: counts the optimizer's steps in it, for a scheduler that asks.
    """
    if stage.scheduler is None:
        return optimizer
    try:
        scheduler: Any = stage.scheduler(optimizer)
    except (TypeError, ValueError) as error:
        raise UserError(f"--model.{name}.scheduler cannot be made: {str(error).rstrip('.')}.") from error
    if isinstance(scheduler, ReduceLROnPlateau):
        _check_plateau(scheduler, name, stage)
    interval = stage.interval
    if isinstance(scheduler, KnowsLength):
        if scheduler.total_steps is None:
            scheduler.set_total_steps(steps())
        interval = "step"
    if not keeps_shares(optimizer):
        raise UserError(
            f"--model.{name}.scheduler sets one learning rate for all parameters, so that --model.lr_factors would have no "
            f"effect: take another scheduler than {type(scheduler).__name__}, such as "
            "ldmi_lightning.schedulers.WarmupCosine, or leave the factors out."
        )
    # Plateau schedulers are stepped by the module: Lightning would do it after the checkpoint, which then misses the step.
    return {
        "optimizer": optimizer,
        "lr_scheduler": {
            "scheduler": scheduler,
            "monitor": stage.selected_by,
            "reduce_on_plateau": False,
            "interval": interval,
        },
    }


def _check_plateau(scheduler: ReduceLROnPlateau, name: str, stage: Stage) -> None:
    if stage.interval == "step":
        raise UserError(
            f"--model.{name}.scheduler waits for {stage.selected_by}, which is known once an epoch, but interval is step: set "
            f"--model.{name}.interval epoch."
        )
    if scheduler.mode != stage.selecting_mode:
        raise UserError(
            f"--model.{name}.scheduler lowers the rate by mode {scheduler.mode!r}, but {stage.selected_by} is selected by "
            f"mode {stage.selecting_mode!r}. Set --model.{name}.scheduler.mode {stage.selecting_mode}."
        )
    if stage.selected_by == NEGATIVE:
        _refuse_relative(scheduler, name, stage)


def step_on_plateau(scheduler: Any, score: float, name: str, stage: Stage) -> None:
    """Step a plateau scheduler by its stage's score; leave any other alone."""
    if isinstance(scheduler, ReduceLROnPlateau):
        if score < 0:
            _refuse_relative(scheduler, name, stage)
        scheduler.step(score)


def _refuse_relative(scheduler: ReduceLROnPlateau, name: str, stage: Stage) -> None:
    """Refuse a threshold relative to a negative best: what counts as better would lie below it, or never be reached."""
    if scheduler.threshold_mode == "rel" and scheduler.threshold > 0:
        raise UserError(
            f"--model.{name}.scheduler measures progress relative to the best {stage.selected_by}, which is negative, so that "
            f"even a worse one would count as better. Set --model.{name}.scheduler.threshold_mode abs."
        )
