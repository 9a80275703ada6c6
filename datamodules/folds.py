"""Folds: which training and validation rows a run never sees, so that what it says of them is held out."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.errors import UserError
from ldmi_lightning.seeding import derived_seed

LEARNT_FROM = ("train", "val")
DRAW = 7
"""Tells the stream that deals rows out from that of the noise, which has the run's seed, too."""


class Fold(NamedTuple):
    """One of several folds.

    Attributes:
        number: which, from 1.
        of: how many there are.
        seed: of the draw; the same in all folds.
        group: what tells which rows stay together: a column of the data's table, or a CSV file; ``None`` for nothing.

    >>> str(Fold(2, 5, seed=1))
    '2/5'
    """

    number: int
    of: int
    seed: int
    group: str | None = None

    def __str__(self) -> str:
        """Write it as ``--fold`` takes it."""
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str, seed: int, group: str | None = None) -> "Fold":
        """Read ``K/N``.

        Raises:
            UserError: it is none.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal()):
            raise UserError(f"--fold takes K/N, such as 1/5 for the first of five folds, but got {text}.")
        fold = cls(int(number), int(of), seed, group)
        if fold.of < 2:
            raise UserError(
                f"--fold {text}: with {fold.of} fold{'s' if fold.of != 1 else ''} nothing is left to train on. Take 2 at least."
            )
        if not 1 <= fold.number <= fold.of:
            raise UserError(f"--fold {text}: folds are counted from 1, so that K of K/N lies in 1..{fold.of}.")
        return fold


# -- which row is in which fold ---------------------------------------------------------------------------------------


def deal(
    strata: NDArray[np.int64], folds: int, seed: int, groups: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Deal rows out to folds, so that each fold has its share of every stratum, and the rows of a group stay together.

    Groups are dealt out from the largest to the smallest, equal ones of one stratum at random; what is left over of them goes to
    the folds that have fewest rows of the stratum so far, and then fewest rows. Without groups no two folds differ by more
    than one row of a stratum.

    Args:
        strata: of each row, not negative, shape ``(N,)``; that of a group is the most common of its rows.
        folds: number of folds.
        seed: of the draw.
        groups: number of each row's group, shape ``(N,)``; ``None`` where each row is one by itself.

    Returns:
        The fold of each row, from 0, shape ``(N,)``.

    >>> np.bincount(deal(np.array([0, 0, 0, 0, 1, 1]), 2, seed=0), minlength=2).tolist()
    [3, 3]
    >>> dealt = deal(np.zeros(6, int), 2, seed=0, groups=np.array([7, 7, 7, 8, 8, 8]))
    >>> sorted([dealt[:3].tolist(), dealt[3:].tolist()])
    [[0, 0, 0], [1, 1, 1]]
    """
    of_row = np.arange(len(strata)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(of_row)
    stratum = strata if groups is None else _most_common(strata, of_row)
    shuffled = np.random.RandomState(derived_seed(seed, DRAW) % 2**32).permutation(len(sizes))
    order = shuffled[np.lexsort((stratum[shuffled], -sizes[shuffled]))]
    alike = np.flatnonzero(np.diff(stratum[order], prepend=-1) | np.diff(sizes[order], prepend=0))
    held, rows = np.zeros((folds, int(strata.max(initial=0)) + 1), np.int64), np.zeros(folds, np.int64)
    fold = np.empty(len(sizes), np.int64)
    for same in np.split(order, alike[1:]):
        label, size = stratum[same[0]], sizes[same[0]]
        fewest = np.lexsort((rows, held[:, label]))
        fold[same] = np.resize(fewest, len(same))
        dealt = np.bincount(fold[same], minlength=folds) * size
        held[:, label] += dealt
        rows += dealt
    return fold[of_row]


def _most_common(strata: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the most common stratum of each group, the lowest of several, shape ``(G,)``.

    >>> _most_common(np.array([3, 1, 1, 2, 0]), np.array([0, 0, 0, 1, 1])).tolist()
    [1, 0]
    """
    kinds = int(strata.max()) + 1
    pairs, counts = np.unique(groups * kinds + strata, return_counts=True)
    order = np.lexsort((pairs, -counts, pairs // kinds))
    first = np.flatnonzero(np.diff(pairs[order] // kinds, prepend=-1))
    common: NDArray[np.int64] = pairs[order[first]] % kinds
    return common


def fold_of_rows(
    labels: Mapping[str, NDArray[np.int64]],
    index: Mapping[str, NDArray[np.int64]],
    fold: Fold,
    group_of: Callable[[NDArray[np.int64]], NDArray[np.str_]] | None = None,
) -> dict[str, NDArray[np.int64]]:
    """Return the fold of each training and validation row, from 1: stratified by label, and by split within a label.

    Nothing but labels, original indices, splits and groups counts, and the order of the rows does not.

    Args:
        labels: labels as given, by split.
        index: original indices.
        fold: how many folds there are, and the seed; which one makes no difference.
        group_of: tells the names of the groups of rows, by original index; ``None`` where each row is one by itself.

    Raises:
        UserError: rows share an original index, or are too few, or a group is larger than a fold.
    """
    every = np.concatenate([index[name] for name in LEARNT_FROM])
    label = np.concatenate([labels[name] for name in LEARNT_FROM])
    part = np.repeat(np.arange(len(LEARNT_FROM)), [len(index[name]) for name in LEARNT_FROM])
    order = np.argsort(every, kind="stable")
    if (np.diff(every[order]) == 0).any():
        raise UserError(
            "Two training or validation rows have the same original index, so that folds cannot tell them apart. Let load() "
            "number all samples of the data set apart."
        )
    if len(every) < fold.of:
        raise UserError(f"{len(every)} rows cannot be dealt out to {fold.of} folds. Take fewer folds.")
    groups = None
    if group_of is not None:
        names, groups = np.unique(group_of(every[order]), return_inverse=True)
        _refuse_large(names, groups, fold)
    strata = label * len(LEARNT_FROM) + part
    dealt = np.empty(len(every), np.int64)
    dealt[order] = deal(strata[order], fold.of, fold.seed, groups) + 1
    return dict(zip(LEARNT_FROM, np.split(dealt, [len(index[LEARNT_FROM[0]])]), strict=True))


def _refuse_large(names: NDArray[np.str_], groups: NDArray[np.int64], fold: Fold) -> None:
    sizes = np.bincount(groups)
    share, largest = -(-len(groups) // fold.of), int(sizes.argmax())
    if sizes[largest] <= share:
        return
    most = len(groups) // int(sizes[largest])
    remedy = f"Take {most} folds at most, or divide the group." if most > 1 else "Divide the group."
    raise UserError(
        f"--group {fold.group}: {names[largest]} holds {sizes[largest]:,} of {len(groups):,} rows, but one of {fold.of} folds "
        f"has {share:,}. {remedy}"
    )


def check_rest(
    labels: Mapping[str, NDArray[np.int64]],
    dealt: Mapping[str, NDArray[np.int64]],
    fold: Fold,
    class_names: Sequence[str],
) -> None:
    """Refuse folds, whichever is held out, without which a class is left out of training, or nothing to validate on."""
    classes = len(class_names)
    counts = np.bincount(labels["train"], minlength=classes)
    for number in range(1, fold.of + 1):
        held = np.bincount(labels["train"][dealt["train"] == number], minlength=classes)
        for label in np.flatnonzero((held == counts) & (counts > 0))[:1]:
            raise UserError(
                f"Fold {number}/{fold.of} holds all training rows of the class {class_names[label]} ({counts[label]:,}): what "
                "has never been seen cannot be learnt. Add samples of it, or leave the class out."
            )
        if (dealt["val"] == number).all():
            raise UserError(
                f"Fold {number}/{fold.of} holds all {len(dealt['val']):,} validation rows, so that no epoch could be selected. "
                "Keep more rows for validation."
            )
