"""Which rows are held out to select by, and how often an epoch passes over the others."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.datamodules.splits import shuffled_by_class

BATCHES_AN_EPOCH = 64
"""Where rows are few, an epoch passes over them as often as fits into so many batches."""
HELD_OUT_PER_CLASS = 5
"""Fewer held-out rows for each class than that select nothing: the choice between stages splits them in five."""


class Split(NamedTuple):
    """Rows to train on, and rows to select by.

    Attributes:
        train: positions, int64, shape ``(N,)``, in order.
        val: the same.
        said: what the user should know of it, with ``{k}`` for the name of class k; empty for nothing.
    """

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    said: str = ""


def split_rows(labels: NDArray[np.int64], share: float, seed: int) -> Split:
    """Hold rows out, class by class: of each class that has two or more at least one, and never all.

    A class of one row is trained on and held out too. Where less than :data:`HELD_OUT_PER_CLASS` rows for each class would be
    held out, all rows are both.

    Args:
        labels: ``0..C-1``, each of which occurs, shape ``(N,)``.
        share: of each class, between 0 and 1.
        seed: of the draw.

    >>> split = split_rows(np.array([0, 1] * 20), 0.25, seed=0)
    >>> len(split.train), (split.val % 2).tolist().count(0), split.said
    (30, 5, '')
    >>> split_rows(np.array([0, 1, 1]), 0.25, seed=0).val.tolist()
    [0, 1, 2]
    """
    counts = np.bincount(labels)
    held_out = np.minimum(np.maximum(np.rint(share * counts), 1), counts - 1)
    if held_out.sum() < HELD_OUT_PER_CLASS * len(counts):
        rows = np.arange(len(labels))
        return Split(
            rows,
            rows,
            f"of {len(labels)} rows, val_share={share:g} holds out {held_out.sum():.0f}, too few to select by (5 for each of "
            f"{len(counts)} classes): epochs, stages and T are selected and estimated on the training rows instead. Give more "
            "rows, or a larger val_share.",
        )
    order, rank = shuffled_by_class(labels, seed)
    held = rank < held_out[labels[order]]
    alone = np.flatnonzero(counts == 1)
    val = np.concatenate([order[held], np.flatnonzero(counts[labels] == 1)])
    names = ", ".join(f"{{{label}!r}}" for label in alone[:5]) + (", …" if len(alone) > 5 else "")
    said = f"a single row has the label {names}: it is trained on, and selects too. Give each class two rows or more."
    return Split(np.sort(order[~held]), np.sort(val), said if len(alone) else "")


def repeated(rows: NDArray[np.int64], batch_size: int) -> NDArray[np.int64]:
    """Return rows as often as an epoch passes over them: once, or as often as fits into :data:`BATCHES_AN_EPOCH` batches.

    >>> len(repeated(np.arange(100), batch_size=32)), len(repeated(np.arange(5000), batch_size=32))  # 20 times, once
    (2000, 5000)
    """
    return np.tile(rows, max(1, BATCHES_AN_EPOCH * min(batch_size, len(rows)) // len(rows)))
