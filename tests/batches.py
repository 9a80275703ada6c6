"""The batches of some epochs, and whether they are the same: shared by the tests of streamed data."""

from typing import Any

import torch

from ldmi_lightning.batch import Batch
from ldmi_lightning.inputs import tensors_in


def epochs(loader: Any, count: int = 2) -> list[Batch]:
    found = []
    for epoch in range(count):
        loader.set_epoch(epoch)
        found += list(loader)
    return found


def equal(some: list[Batch], others: list[Batch]) -> bool:
    """Whether inputs, their types, labels and indices are equal, batch by batch; neither may have more of them."""
    return all(_same(one, other) for one, other in zip(some, others, strict=True))


def _same(one: Batch, other: Batch) -> bool:
    pairs = zip(tensors_in(one.x), tensors_in(other.x), strict=True)
    names = ("y", "index", "y_clean")
    return all(torch.equal(a, b) and a.dtype == b.dtype for (_, a), (_, b) in pairs) and all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in names
    )
