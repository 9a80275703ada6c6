"""What the samples of a split were before they became numbers: what the stored inputs show, and texts by original index."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ldmi_lightning.originals import Original, Originals

from .loaders import Split
from .streamed import Streamed

WHITE = 255
"""The value of white in most uint8 images."""
BETWEEN = " | "
"""Stands between the two texts of a pair."""


def originals_of(split: Split, known: Callable[[int], Original | None], white: int = WHITE) -> Originals:
    """Return the originals of a split's samples, each read when it is asked for.

    Args:
        split: the samples.
        known: what the data set itself knows of the sample with an original index, which counts first; ``None`` for nothing.
        white: the value of white, where the inputs are images in memory.

    >>> x = torch.tensor([[[[0, 16]]]], dtype=torch.uint8)
    >>> split = Split(x, torch.tensor([0]), torch.tensor([0]), torch.tensor([7]))
    >>> originals_of(split, lambda index: None, white=16)[0].value.tolist()
    [[0, 255]]
    >>> originals_of(split, lambda index: Original("text", f"number {index}"))[0].value
    'number 7'
    """

    def read(position: int) -> Original | None:
        found = known(int(split.original_index[position]))
        return found if found is not None else stored_original(split.x, position, white)

    return Originals(len(split), read)


def stored_original(x: object, position: int, white: int = WHITE) -> Original | None:
    """Return what the stored inputs tell of one sample: an image file, or a picture; ``None`` for all else."""
    if isinstance(x, Streamed):
        return x.original(position)
    if not isinstance(x, Tensor) or x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] not in (1, 3):
        return None
    pixels = x[position].cpu().permute(1, 2, 0).squeeze(2)
    if white != WHITE:
        pixels = pixels.to(torch.float32).mul(WHITE / white).round().clamp(0, WHITE).to(torch.uint8)
    return Original("image", pixels.contiguous().numpy())


def texts_by_index(tables: Sequence[Any], columns: Sequence[str]) -> Callable[[int], Original]:
    """Return what reads the text of a row, or the texts of several columns, as they are given; nothing is copied.

    Args:
        tables: each a ``datasets.Dataset``; rows are counted through them, one after the other.
        columns: the columns of texts.

    >>> import datasets
    >>> one, two = ({"a": ["x", "y"], "b": ["1", "2"]}, {"a": ["z"], "b": ["3"]})
    >>> texts_by_index([datasets.Dataset.from_dict(each) for each in (one, two)], ["a", "b"])(2).value
    'z | 3'
    """
    held = [table.select_columns(list(columns)).with_format("arrow")[:] for table in tables]
    begins = list(accumulate(map(len, held), initial=0))

    def read(index: int) -> Original:
        which = bisect_right(begins, index) - 1
        row = index - begins[which]
        return Original("text", BETWEEN.join(str(held[which][column][row].as_py()) for column in columns))

    return read


def originals_among(index: Tensor, splits: Sequence[tuple[Tensor, Originals]]) -> Originals:
    """Return the originals of samples that are somewhere in several splits.

    Args:
        index: original indices of the samples, shape ``(N,)``.
        splits: original indices of the samples of each split, and their originals; no index is there twice.

    >>> letters = Originals(2, lambda position: Original("text", "ab"[position]))
    >>> originals_among(torch.tensor([9]), [(torch.tensor([8, 9]), letters)])[0].value
    'b'
    """
    every = torch.cat([each for each, _ in splits])
    order = every.argsort()
    places = order[torch.searchsorted(every[order], index)].tolist()
    begins = list(accumulate((len(each) for each, _ in splits), initial=0))

    def read(position: int) -> Original | None:
        which = bisect_right(begins, places[position]) - 1
        found: Original | None = splits[which][1][places[position] - begins[which]]
        return found

    return Originals(len(index), read)
