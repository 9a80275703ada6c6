"""Which rows of a data set's splits a split of features is made of: all of one, or, with folds, some of several."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldmi_lightning.datamodules.loaders import Split

from .features import SplitFeatures


class Unencoded:
    """Inputs of a split that have not been encoded yet.

    Args:
        parts: for each part, of which there may be several, the split of the data set and the positions there, shape ``(n,)``.
    """

    def __init__(self, *parts: tuple[str, Tensor]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(len(where) for _, where in self.parts)

    def __getitem__(self, where: NDArray[np.int64]) -> "Unencoded":
        ((name, rows),) = self.parts
        return Unencoded((name, rows[torch.from_numpy(where)]))

    def __add__(self, other: "Unencoded") -> "Unencoded":
        return Unencoded(*self.parts, *other.parts)


def unencoded(name: str, split: Split) -> Split:
    """Return a split of a data set whose inputs have not been encoded yet."""
    return Split(Unencoded((name, torch.arange(len(split)))), split.y, split.y_clean, split.original_index, split.votes)


def rows_of(found: SplitFeatures, where: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return the features of some rows of a split.

    Args:
        found: the features of all rows that could be read.
        where: positions in the split, ascending, shape ``(n,)``.

    Returns:
        The features of those of them that could be read, shape ``(m, D)``; of their augmented passes, if there are any; and
        which they are, bool, shape ``(n,)``.

    >>> found = SplitFeatures(torch.tensor([[0.0], [2.0]]), None, kept=torch.tensor([0, 2]))
    >>> plain, _, read = rows_of(found, torch.tensor([1, 2]))
    >>> plain.tolist(), read.tolist()
    ([[2.0]], [False, True])
    """
    kept = torch.arange(len(found.plain)) if found.kept is None else found.kept
    read = torch.isin(where, kept)
    if int(read.sum()) == len(kept):  # all of them: nothing is copied
        return found.plain, found.augmented, read
    at = torch.searchsorted(kept, where[read])
    return found.plain[at], None if found.augmented is None else found.augmented[at], read
