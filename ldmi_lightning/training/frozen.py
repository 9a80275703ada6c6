"""Parts of the backbone that are not trained: their parameters stay, and they work as in evaluation."""

from collections.abc import Sequence

import torch
from torch import nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.training.patterns import first_match, refuse_unmatched


def freeze(net: nn.Module, patterns: Sequence[str]) -> None:
    """Leave the parameters whose names match a pattern out of training.

    Args:
        net: the backbone.
        patterns: of names within it; see :mod:`ldmi_lightning.training.patterns`.

    Raises:
        UserError: a pattern matches nothing, or nothing is left to train.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 2))
    >>> freeze(net, ["0.*"])
    >>> [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    ['2.weight', '2.bias']
    """
    named = dict(net.named_parameters())
    refuse_unmatched("--model.freeze", patterns, list(named))
    for name, parameter in named.items():
        if first_match(name, patterns) is not None:
            parameter.requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in named.values()):
        raise UserError(
            f"--model.freeze {', '.join(patterns)} leaves nothing of the backbone to train: leave the head out of the patterns."
        )


def frozen_parts(net: nn.Module) -> list[nn.Module]:
    """Return the largest parts of a net that have parameters, of which none is trained.

    >>> net = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), nn.Linear(2, 2))
    >>> freeze(net, ["0.*"])
    >>> [type(part).__name__ for part in frozen_parts(net)]
    ['Sequential']
    """
    parameters = list(net.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        return [net]
    return [part for child in net.children() for part in frozen_parts(child)]


def copy_frozen(net: nn.Module, other: nn.Module) -> None:
    """Give the frozen parts of a net, weights and statistics, to another of the same build."""
    frozen = {id(part) for part in frozen_parts(net)}
    theirs = dict(other.named_modules())
    with torch.no_grad():
        for name, part in net.named_modules():
            if id(part) in frozen:
                theirs[name].load_state_dict(part.state_dict())
        for (_, parameter), (_, same) in zip(net.named_parameters(), other.named_parameters(), strict=True):
            if not parameter.requires_grad:
                same.copy_(parameter)


def describe_frozen(net: nn.Module) -> str:
    """Say how much of a net is not trained; empty if all of it is.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> freeze(net, ["0.*"])
    >>> describe_frozen(net)
    'freeze: 2 of 4 parameters of the backbone (6 of 12 numbers) are not trained, and parts made of them stay in eval mode.'
    """
    parameters = list(net.parameters())
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    if not frozen:
        return ""
    counts = [sum(parameter.numel() for parameter in group) for group in (frozen, parameters)]
    return (
        f"freeze: {len(frozen)} of {len(parameters)} parameters of the backbone ({counts[0]:,} of {counts[1]:,} numbers) are "
        "not trained, and parts made of them stay in eval mode."
    )
