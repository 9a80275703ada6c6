"""Schedulers of the learning rate that know by themselves how many steps their stage has."""

import math
from typing import Any, Protocol, runtime_checkable

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ldmi_lightning.errors import UserError


@runtime_checkable
class KnowsLength(Protocol):
    """A scheduler that is stepped after each step of the optimizer, and told how many of them its stage has.

    Attributes:
        total_steps: the number that the user gave; where it is ``None``, the scheduler is told the stage's.
    """

    total_steps: int | None

    def set_total_steps(self, steps: int) -> None:
        """Take the number of steps."""


class WarmupCosine(LRScheduler):
    r"""A rate that rises in a line, and then falls as a cosine, over the steps of a stage.

    Step :math:`k` of :math:`T`, from 0, of which :math:`W = \mathrm{round}(\text{warmup} \cdot T)` rise, has the rate

    .. math:: \eta_k = \eta \cdot \frac{k + 1}{W + 1} \; (k < W), \qquad
        \eta_k = \eta \cdot \Big(f + (1 - f) \frac{1 + \cos \pi \frac{k - W}{T - W}}{2}\Big) \; (k \ge W),

    where :math:`\eta` is the optimizer's and :math:`f` the ``floor``. Each parameter group keeps its share of the rate.

    It is stepped after each step of the optimizer, whatever the stage's ``interval`` says, and the stage tells it
    :math:`T`: its epochs at most times the batches of an epoch, of which accumulated ones are one.

    Args:
        optimizer: whose rate it sets.
        warmup: share of the steps in which the rate rises, from 0 to less than 1.
        total_steps: T; ``None`` for the stage's own.
        floor: share of the rate at which it ends, from 0 to 1.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> scheduler, rates = WarmupCosine(optimizer, warmup=0.25, total_steps=4), []
    >>> for _ in range(4):
    ...     rates.append(round(optimizer.param_groups[0]["lr"], 2))
    ...     optimizer.step()
    ...     scheduler.step()
    >>> rates
    [0.5, 1.0, 0.75, 0.25]
    """

    def __init__(
        self, optimizer: Optimizer, warmup: float = 0.1, total_steps: int | None = None, floor: float = 0.0
    ) -> None:
        if not 0 <= warmup < 1:
            raise UserError(f"warmup is a share of the stage's steps, from 0 to less than 1, but got {warmup}.")
        if not 0 <= floor <= 1:
            raise UserError(f"floor is a share of the learning rate, from 0 to 1, but got {floor}.")
        if total_steps is not None and total_steps < 1:
            raise UserError(f"total_steps must be at least 1, or null for the stage's own, but got {total_steps}.")
        self.warmup, self.floor, self.total_steps = warmup, floor, total_steps
        self.steps = total_steps
        super().__init__(optimizer)

    def set_total_steps(self, steps: int) -> None:
        """Take the stage's number of steps."""
        self.steps = steps
        self._set_rates()

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each parameter group at the step that comes next."""
        factor = 1.0 if self.steps is None else warmup_cosine(self.last_epoch, self.steps, self.warmup, self.floor)
        return [base * factor for base in self.base_lrs]

    def get_last_lr(self) -> list[float | Tensor]:
        """Return the rate of each parameter group as it stands."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take how far a checkpoint had come; the settings, and the number of steps, are those that were given now."""
        own = {"warmup": self.warmup, "floor": self.floor, "total_steps": self.total_steps, "steps": self.steps}
        super().load_state_dict({**state_dict, **own})
        self._set_rates()

    def _set_rates(self) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate


def warmup_cosine(step: int, steps: int, warmup: float, floor: float) -> float:
    """Return the share of the rate at a step, from 0, of ``steps``; from there on it stays at the floor.

    >>> [round(warmup_cosine(k, 4, 0.25, 0.0), 2) for k in range(6)]
    [0.5, 1.0, 0.75, 0.25, 0.0, 0.0]
    """
    rising = min(round(warmup * steps), steps - 1)
    if step < rising:
        return (step + 1) / (rising + 1)
    share = min((step - rising) / (steps - rising), 1.0)
    return floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2
