"""The nets that a module trains: the backbone, a second one like it, and weights to begin with."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ldmi_lightning.checkpoints import misfit
from ldmi_lightning.errors import UserError
from ldmi_lightning.ranks import is_distributed
from ldmi_lightning.seeding import base_seed, derived_seed
from ldmi_lightning.training.foreign_weights import read_any_weights

SECOND_NET = 2
"""What the second net's seed is derived from, beside the base seed."""
PREFIXES = ("backbone.", "module.", "_orig_mod.", "net.", "model.")
"""What other code puts before the names of a net's weights: wrappers of PyTorch's, and common attributes."""
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

MISFIT = re.compile(
    r"expected input\[|cannot be multiplied|should be the same|Expected .*input|scalar types|same dtype|Kernel size can't"
)
"""What PyTorch's layers say of inputs that are not for them."""


def check_logits(net: nn.Module, num_classes: int) -> None:
    """See that whatever a net returns has one logit for each class."""
    net.register_forward_hook(partial(_refuse_other_shapes, num_classes))


def _refuse_other_shapes(num_classes: int, net: nn.Module, _: object, logits: Tensor) -> None:
    if logits.ndim != 2 or logits.shape[1] != num_classes:
        raise UserError(
            f"The backbone {type(net).__name__} must return logits of shape (N, {num_classes}), one for each class, but "
            f"returned shape {tuple(logits.shape)}. Change its last layer, or num_classes."
        )


def explain_misfit(error: RuntimeError, net: nn.Module, x: Any) -> None:
    """Raise a line in the place of what a layer says of inputs that are not for it; leave any other error alone.

    >>> x = torch.zeros(2, 5)
    >>> try:
    ...     nn.Linear(3, 2)(x)
    ... except RuntimeError as error:
    ...     explain_misfit(error, nn.Linear(3, 2), x)
    Traceback (most recent call last):
    ldmi_lightning.errors.UserError: The backbone Linear cannot take this data, float32 of shape (2, 5): ...(2x5 and 3x2)...
    """
    said = str(error).partition("\n")[0]
    if MISFIT.search(said):
        what = (
            f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}"
            if isinstance(x, Tensor)
            else "its inputs"
        )
        raise UserError(
            f"The backbone {type(net).__name__} cannot take this data, {what}: {said.rstrip('.')}. Give another one "
            "(--model.backbone), or other data."
        ) from error


def second_like(net: nn.Module, build: Callable[[], nn.Module] | None = None) -> nn.Module:
    """Return a net of the same build with weights of its own, drawn from a seed of its own.

    Args:
        net: the first net.
        build: makes one; ``None`` copies the first and draws the weights of each of its parts anew.

    Raises:
        UserError: a part of the net has weights that it cannot draw anew.

    >>> one = nn.Linear(2, 2)
    >>> second_like(one).weight.shape, bool((second_like(one).weight == one.weight).any())
    (torch.Size([2, 2]), False)
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(base_seed(), SECOND_NET))
        if build is not None:
            return build()
        second, done = deepcopy(net), set[nn.Module]()
        for name, part in second.named_modules():
            reset = getattr(part, "reset_parameters", None)
            if part in done:
                continue
            if callable(reset):
                reset()
                done.update(
                    part.modules()
                )  # a part that draws its weights itself knows best, such as one that is pretrained
            elif next(part.parameters(recurse=False), None) is not None:
                raise UserError(
                    f"A method of two nets draws the second one's weights anew, but {name or 'the backbone'} "
                    f"({type(part).__name__}) has no reset_parameters(): give it one, or override build_backbone()."
                )
    return second


def has_batch_norm(net: nn.Module, but: Collection[nn.Module] = ()) -> bool:
    """Whether a net normalises by its batch, some parts left out of account.

    >>> net = nn.Sequential(nn.BatchNorm1d(2))
    >>> has_batch_norm(net), has_batch_norm(net, but=[net[0]])
    (True, False)
    """
    return any(isinstance(part, BATCH_NORMS) and part not in but for part in net.modules())


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Average the gradients that DDP was told to leave alone over the ranks, in one sum; all ranks call it."""
    grads = [each.grad for each in parameters if each.grad is not None]
    if not (is_distributed() and grads):
        return
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def without_prefix(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return weights under a net's own names, and what was taken off the front of each name to get there.

    >>> one = {"weight": torch.zeros(1)}
    >>> without_prefix({"module.net.weight": torch.ones(1)}, one)
    ({'weight': tensor([1.])}, 'module.net.')
    >>> without_prefix({"bias": torch.ones(1)}, one)[1]
    ''
    """
    found, taken = dict(weights), ""
    while misfit(found, own):
        prefix = next((each for each in PREFIXES if found and all(name.startswith(each) for name in found)), None)
        if prefix is None:
            return dict(weights), ""
        found, taken = {name.removeprefix(prefix): value for name, value in found.items()}, taken + prefix
    return found, taken


class Given(NamedTuple):
    """Weights to begin with.

    Attributes:
        weights: under the net's own names.
        lr: the learning rate that they were trained to; ``None`` where it is unknown.
        under: key of the dict in the file under which they were found; empty where there was none.
        prefix: what was taken off their names.
        new_head: names of those that stay as they are in the net, since the file has them for another number of classes.
    """

    weights: dict[str, Tensor]
    lr: float | None
    under: str
    prefix: str
    new_head: list[str]


def given_weights(path: str, net: nn.Module, num_classes: int) -> Given:
    """Return weights for a net from a file; a head for another number of classes stays the net's own.

    Raises:
        UserError: the file cannot be used, or holds weights of another net.
    """
    weights, lr, under = read_any_weights(path)
    own = net.state_dict()
    weights, prefix = without_prefix(weights, own)
    head = head_of_other_classes(weights, own, num_classes)
    weights = {**weights, **{name: own[name] for name in head}}
    if fault := misfit(weights, own):
        raise UserError(f"--model.warm_start {path} holds weights of another backbone: {fault}.")
    return Given(weights, lr, under, prefix, head)


def head_of_other_classes(saved: Mapping[str, Tensor], own: Mapping[str, Tensor], num_classes: int) -> list[str]:
    """Return the names of the weights that are those of a head for another number of classes; none if anything else differs.

    >>> own = {"body.weight": torch.zeros(4, 4), "fc.weight": torch.zeros(3, 4), "fc.bias": torch.zeros(3)}
    >>> head_of_other_classes({**own, "fc.weight": torch.zeros(10, 4), "fc.bias": torch.zeros(10)}, own, num_classes=3)
    ['fc.weight', 'fc.bias']
    """
    if saved.keys() != own.keys():
        return []
    differ = [name for name in own if saved[name].shape != own[name].shape]
    sizes = {(saved[name].shape[:1], own[name].shape[:1]) for name in differ}
    alike = all(saved[name].shape[1:] == own[name].shape[1:] for name in differ)
    return differ if alike and len(sizes) == 1 and next(iter(sizes))[1] == (num_classes,) else []


def tensor_names(module: nn.Module, prefix: str) -> list[str]:
    """Return the names of all parameters and buffers."""
    return [f"{prefix}{name}" for named in (module.named_parameters(), module.named_buffers()) for name, _ in named]
