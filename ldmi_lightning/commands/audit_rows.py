"""The rows of an audit, out of a datamodule and of what runs have said of its rows."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.audit.rows import Rows
from ldmi_lightning.datamodules import NoisyDataModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.originals import Original, Originals
from ldmi_lightning.runs.outputs import Predicted

SPLITS = ("train", "val")


def joined(parts: Sequence[Predicted]) -> Predicted:
    """Return what was predicted of several parts as one, by original index.

    >>> one, two = (Predicted(*(np.array([i]),) * 3, np.eye(2)[[i]]) for i in (1, 0))
    >>> joined([one, two]).index.tolist()
    [0, 1]
    """
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    return Predicted(*(column[order] for column in columns))


def check_whole(told: Predicted, data: NoisyDataModule, remedy: str) -> list[str]:
    """Return a note where rows are missing; refuse rows that are there twice, or have other labels than the data has now.

    Args:
        told: what was predicted, by original index.
        data: after ``setup``, without a fold.
        remedy: what to do where it does not fit.
    """
    index = np.concatenate([data.splits[name].original_index.numpy() for name in SPLITS])
    labels = np.concatenate([data.splits[name].y.cpu().numpy() for name in SPLITS])
    order = np.argsort(index, kind="stable")
    index, labels = index[order], labels[order]
    at = np.minimum(np.searchsorted(index, told.index), len(index) - 1)
    if (index[at] != told.index).any() or (labels[at] != told.given).any() or (np.diff(told.index) == 0).any():
        raise UserError(
            f"The rows or labels of the data are not those that the runs have had: it has changed since. {remedy}"
        )
    missing = len(index) - len(told.index)
    return [f"{missing:,} of {len(index):,} rows could not be read, and are left out."] if missing else []


def rows_of(told: Predicted, data: NoisyDataModule, seen: NDArray[np.bool_]) -> Rows:
    """Return what is known of the rows that were predicted.

    Args:
        told: what was predicted, shape ``(N,)`` throughout.
        data: after ``setup``.
        seen: whether the model that gave a row's outputs was trained on its label, shape ``(N,)``.
    """
    index = [data.splits[name].original_index.numpy() for name in SPLITS]
    order = np.argsort(np.concatenate(index), kind="stable")
    places = order[np.searchsorted(np.concatenate(index)[order], told.index)]
    originals = [data.originals(name) for name in SPLITS]
    votes = votes_on(data, told.index)
    return Rows(
        index=told.index,
        split=np.where(places < len(index[0]), *SPLITS),
        seen=seen,
        class_names=[str(name) for name in data.class_names],
        originals=Originals(len(places), reader(originals, places)),
        true=told.clean if (told.clean >= 0).any() else None,
        votes=votes,
        annotators=[] if votes is None else names_of(data, votes.shape[1]),
    )


def votes_on(data: NoisyDataModule, index: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Return the votes on rows, by original index, shape ``(N, A)``; ``None`` where each row has one label."""
    splits = [data.splits[name] for name in SPLITS]
    people = next((split.votes.shape[1] for split in splits if split.votes is not None), None)
    if people is None:
        return None
    votes = np.concatenate(
        [np.full((len(split.y), people), -1) if split.votes is None else split.votes.cpu().numpy() for split in splits]
    )
    every = np.concatenate([split.original_index.numpy() for split in splits])
    order = np.argsort(every, kind="stable")
    return np.asarray(votes[order[np.searchsorted(every[order], index)]], np.int64)


def names_of(data: NoisyDataModule, people: int) -> list[str]:
    """Return what annotators are called; their numbers, from 0, where nobody says."""
    names = [str(name) for name in data.noise.annotators]
    return names if len(names) == people else [str(number) for number in range(people)]


def reader(
    originals: Sequence[Sequence[Original | None]], places: NDArray[np.int64]
) -> Callable[[int], Original | None]:
    """Return what reads the original of a row, by its place in the splits one after the other."""
    train, val = originals

    def read(row: int) -> Original | None:
        place = int(places[row])
        return train[place] if place < len(train) else val[place - len(train)]

    return read
