"""Groups of parameters, each with its share of the learning rate, and with or without weight decay."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.training.patterns import first_match, refuse_unmatched

FACTOR = "lr_factor"
"""Key under which a group of an optimizer holds its share of the rate."""
OWN_RATE = "own_lr"
"""Key under which a group holds a rate of its own at which a stage begins, whatever the stage's."""

Named = Iterable[tuple[str, nn.Parameter]]
"""Parameters with their names within the backbone."""


@dataclass(frozen=True)
class Rates:
    """What is said of single parameters, whichever stage trains them.

    Attributes:
        factors: by pattern, the share of the stage's learning rate; the first that matches counts, and 1 where none does.
        decay_norms_and_biases: whether parameters of one dimension, and those called ``bias``, have weight decay, too.
    """

    factors: Mapping[str, float] = field(default_factory=dict)
    decay_norms_and_biases: bool = True

    def check(self, net: nn.Module) -> None:
        """Refuse factors that are no rates, and patterns that match nothing."""
        for pattern, factor in self.factors.items():
            if not factor > 0:
                raise UserError(
                    f"--model.lr_factors has {factor} for {pattern!r}, but a factor must be more than 0. To leave parameters "
                    "as they are, give --model.freeze."
                )
        refuse_unmatched("--model.lr_factors", self.factors, [name for name, _ in net.named_parameters()])

    def groups(self, parameters: Named, own: Sequence[nn.Parameter] = (), own_rate: float | None = None) -> list[Any]:
        """Return what an optimizer takes: the trained parameters, as a list or, where they are treated differently, in groups.

        Args:
            parameters: those of the nets.
            own: those of the loss.
            own_rate: the rate at which the loss's are trained, without weight decay; ``None`` for the stage's.

        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> made = Rates({"0.*": 0.1}, decay_norms_and_biases=False).groups(net.named_parameters())
        >>> [(group["lr_factor"], group.get("weight_decay"), len(group["params"])) for group in made]
        [(0.1, None, 1), (0.1, 0.0, 1), (1.0, None, 1), (1.0, 0.0, 1)]
        """
        if own and own_rate is not None:
            nets = self.groups(parameters)
            nets = nets if nets and isinstance(nets[0], dict) else [{"params": nets}]
            return [*nets, {"params": list(own), OWN_RATE: own_rate, "weight_decay": 0.0}]
        every = [*parameters, *((None, parameter) for parameter in own)]
        trained = [(name, parameter) for name, parameter in every if parameter.requires_grad]
        if not self.factors and self.decay_norms_and_biases:
            return [parameter for _, parameter in trained]
        found: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, parameter in trained:
            pattern = None if name is None else first_match(name, self.factors)
            factor = 1.0 if pattern is None else float(self.factors[pattern])
            decays = self.decay_norms_and_biases or name is None or not _is_norm_or_bias(name, parameter)
            found.setdefault((factor, decays), []).append(parameter)
        return [
            {"params": group, FACTOR: factor, **({} if decays else {"weight_decay": 0.0})}
            for (factor, decays), group in found.items()
        ]


def _is_norm_or_bias(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim <= 1 or name.rpartition(".")[2] == "bias"


def set_base_rate(optimizer: torch.optim.Optimizer, rate: float | None = None) -> None:
    """Give each group of an optimizer its share of a rate; ``None`` takes the rate that the optimizer was made with.

    A group with a rate of its own gets that; its share, which schedulers keep, is what it makes of the other.

    >>> one, other = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    >>> optimizer = torch.optim.SGD(Rates().groups([("one", one)], [other], own_rate=0.01), lr=0.1)
    >>> set_base_rate(optimizer, 0.02)
    >>> [group["lr"] for group in optimizer.param_groups], base_rate(optimizer)
    ([0.02, 0.01], 0.02)
    """
    for group in optimizer.param_groups:
        factor, own = group.get(FACTOR, 1.0), group.get(OWN_RATE)
        if rate is not None or own is not None or factor != 1:
            base = optimizer.defaults.get("lr") if rate is None else rate
            if not isinstance(base, int | float):
                needs = "--model.lr_factors needs" if own is None else "A loss with a learning rate of its own needs"
                raise UserError(
                    f"{needs} an optimizer with a learning rate, but {type(optimizer).__name__} has lr={base!r}."
                )
            if own is not None and base > 0:  # at a rate of 0 nothing has a share
                group[FACTOR] = factor = own / base
            group["lr"] = base * factor


def base_rate(optimizer: torch.optim.Optimizer) -> float:
    """Return the rate of which the groups of an optimizer have their shares."""
    group = min(
        optimizer.param_groups, key=lambda each: each.get(FACTOR, 1.0) != 1
    )  # one whose share is all, if there is
    return float(group["lr"]) / float(group.get(FACTOR, 1.0))


def keeps_shares(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the groups of an optimizer still have their shares of one rate."""
    base = base_rate(optimizer)
    return all(
        abs(float(group["lr"]) - base * group.get(FACTOR, 1.0)) <= 1e-9 * abs(base) for group in optimizer.param_groups
    )
