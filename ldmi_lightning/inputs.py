"""Inputs of samples: a tensor, or a tuple or dict of them that share their first dimension, such as ids and attention mask."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ldmi_lightning.errors import UserError

KINDS = "a tensor, or a tuple or dict of tensors"


def map_tensors(function: Callable[[Tensor], Any], x: Any) -> Any:
    """Return inputs of the same structure, with ``function`` applied to each tensor.

    Args:
        function: maps a tensor to what takes its place.
        x: a tensor, or a tuple, list or dict of such inputs; a dict comes back as a plain one.

    Raises:
        UserError: something else is in it.

    >>> map_tensors(len, {"ids": torch.zeros(2, 3), "pair": (torch.zeros(2), torch.zeros(2, 1))})
    {'ids': 2, 'pair': (2, 2)}
    """
    if isinstance(x, Tensor):
        return function(x)
    if isinstance(x, Mapping):
        return {name: map_tensors(function, part) for name, part in x.items()}
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(map_tensors(function, part) for part in x))
    if isinstance(x, tuple | list):
        return type(x)(map_tensors(function, part) for part in x)
    raise UserError(f"Inputs must be {KINDS}, but hold a {type(x).__name__}.")


def tensors_in(x: Any, name: str = "x") -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor of inputs, in order, with where it stands.

    >>> [where for where, _ in tensors_in({"ids": torch.zeros(2), "pair": (torch.zeros(2), torch.zeros(2))})]
    ['x.ids', 'x.pair.0', 'x.pair.1']
    """
    if isinstance(x, Tensor):
        yield name, x
        return
    if not isinstance(x, Mapping | tuple | list):
        raise UserError(f"Inputs must be {KINDS}, but {name} is a {type(x).__name__}.")
    for key, part in x.items() if isinstance(x, Mapping) else enumerate(x):
        yield from tensors_in(part, f"{name}.{key}")


def in_memory(x: Any) -> bool:
    """Whether inputs are tensors, rather than something that is read piece by piece, such as image files.

    >>> in_memory((torch.zeros(2), torch.zeros(2))), in_memory("photos")
    (True, False)
    """
    return isinstance(x, Tensor | Mapping | tuple | list)


def num_samples(x: Any) -> int:
    """Return the length of the first dimension, which all tensors share.

    Raises:
        UserError: they do not, or there is none.

    >>> num_samples((torch.zeros(3, 2), torch.zeros(3)))
    3
    """
    found = {name: len(tensor) if tensor.ndim else None for name, tensor in tensors_in(x)}
    lengths = set(found.values())
    if len(lengths) != 1 or None in lengths:
        said = ", ".join(
            f"{name} {length if length is not None else 'a single value'}" for name, length in found.items()
        )
        raise UserError(
            f"Inputs must share their first dimension, one entry for each sample, but there are: {said or 'no tensors'}."
        )
    return int(lengths.pop() or 0)


def take(x: Any, where: Tensor | slice) -> Any:
    """Return the samples at ``where``: int64 positions on the inputs' device, shape ``(B,)``, or a slice, which shares memory.

    >>> take({"ids": torch.tensor([1, 2, 3])}, torch.tensor([2, 0]))
    {'ids': tensor([3, 1])}
    """
    return map_tensors(lambda each: each[where] if isinstance(where, slice) else each.index_select(0, where), x)


def concatenate(parts: Sequence[Any]) -> Any:
    """Return inputs of one structure, one after the other; rows of token ids are padded with 0 to the longest.

    >>> concatenate([(torch.zeros(2),), (torch.ones(1),)])
    (tensor([0., 0., 1.]),)
    >>> concatenate([torch.tensor([[1, 2]]), torch.tensor([[3]])])
    tensor([[1, 2],
            [3, 0]])
    """
    columns = [[tensor for _, tensor in tensors_in(part)] for part in parts]
    joined = iter([_one_after_the_other(column) for column in zip(*columns, strict=True)])
    return map_tensors(lambda _: next(joined), parts[0])


def _one_after_the_other(tensors: Sequence[Tensor]) -> Tensor:
    if all(each.ndim == 2 and not each.is_floating_point() for each in tensors):
        longest = max(each.shape[1] for each in tensors)
        tensors = [pad(each, (0, longest - each.shape[1])) for each in tensors]
    return torch.cat(list(tensors))
