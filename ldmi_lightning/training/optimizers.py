"""A stage's optimizer and scheduler, made from what the stage says, and refused where they would work against it."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ldmi_lightning.errors import UserError
from ldmi_lightning.training.stages import Stage

NEGATIVE = "val/log_dmi"
"""What is negative always."""


def make_optimizer(
    stages: Mapping[str, Stage], name: str, parameters: Iterable[nn.Parameter], last_lr: float | None
) -> torch.optim.Optimizer:
    """Make a stage's optimizer: its own, or the first stage's at its last learning rate (Adam at 1e-3 where that has none).

    Args:
        stages: all stages, in order.
        name: the stage.
        parameters: what is trained.
        last_lr: the learning rate of the first stage's last epoch; ``None`` where it was never run.
    """
    parameters = list(parameters)
    if stages[name].optimizer is not None:
        return own_optimizer(stages, name, parameters)
    first = next(iter(stages))
    if stages[first].optimizer is None:
        return torch.optim.Adam(parameters, lr=1e-3)
    optimizer = own_optimizer(stages, first, parameters)
    for group in optimizer.param_groups if last_lr is not None else ():
        group["lr"] = last_lr
    return optimizer


def own_optimizer(stages: Mapping[str, Stage], name: str, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Make the optimizer that was given to a stage."""
    make = stages[name].optimizer
    assert make is not None
    try:
        return make([parameter for parameter in parameters if parameter.requires_grad])
    except (TypeError, ValueError) as error:
        raise UserError(f"--model.{name}.optimizer cannot be made: {str(error).rstrip('.')}.") from error


def with_scheduler(optimizer: torch.optim.Optimizer, name: str, stage: Stage) -> OptimizerLRScheduler:
    """Return an optimizer with its stage's scheduler, as Lightning takes them."""
    if stage.scheduler is None:
        return optimizer
    scheduler = stage.scheduler(optimizer)
    if isinstance(scheduler, ReduceLROnPlateau):
        if scheduler.mode != stage.selecting_mode:
            raise UserError(
                f"--model.{name}.scheduler lowers the rate by mode {scheduler.mode!r}, but {stage.selected_by} is selected by "
                f"mode {stage.selecting_mode!r}. Set --model.{name}.scheduler.mode {stage.selecting_mode}."
            )
        if stage.selected_by == NEGATIVE:
            _refuse_relative(scheduler, name, stage)
    # Plateau schedulers are stepped by the module: Lightning would do it after the checkpoint, which then misses the step.
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": scheduler, "monitor": stage.selected_by, "reduce_on_plateau": False},
    }


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
