"""Rows without a label: refused with their places, or left out and counted."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.errors import UserError

from .labels import GivenLabels


class Labelled(NamedTuple):
    """The labels that there are.

    Attributes:
        given: those of each split that has any, without the rows that have none.
        kept: positions in the split of the rows that have one, int64, shape ``(M,)``.
        notes: what was left out, to say it.
    """

    given: dict[str, GivenLabels]
    kept: dict[str, NDArray[np.int64]]
    notes: list[str]


def without_unlabelled(
    given: Mapping[str, GivenLabels],
    class_names: Sequence[str] | None,
    *,
    drop: bool = False,
    remedy: str = "Leave such samples out.",
    where: Callable[[str, Sequence[int]], str] = lambda split, rows: "",
) -> Labelled:
    """Keep the rows that have a label: not ``None``, NaN or a blank, nor -1 where no class is called so.

    Args:
        given: labels by split. One that has none at all is left out whole, but for ``"train"``.
        class_names: names of the classes, where they are given.
        drop: leave rows out, and count them, where others of their split have a label; otherwise they are refused.
        remedy: what to do about a refused row.
        where: names the places of some rows of a split.

    >>> from .labels import given_labels
    >>> labelled = without_unlabelled({"train": given_labels([0, -1, 1], "y")}, None, drop=True)
    >>> labelled.kept["train"].tolist(), labelled.notes
    ([0, 2], ['y has no label for 1 of 3 samples, which is left out.'])
    """
    found = Labelled({}, {}, [])
    for split, part in given.items():
        gone = part.unlabelled(class_names)
        if gone.all() and len(gone) and split != "train":
            continue
        if gone.any() and (gone.all() or not drop):
            raise _refusal(part, gone, where(split, np.flatnonzero(gone).tolist()), remedy)
        if gone.any():
            left_out = "which is left out" if gone.sum() == 1 else "which are left out"
            found.notes.append(f"{part.what} has no label for {gone.sum():,} of {len(gone):,} samples, {left_out}.")
        found.given[split] = part.without(gone)
        found.kept[split] = np.flatnonzero(~gone)
    return found


def _refusal(part: GivenLabels, gone: NDArray[np.bool_], where: str, remedy: str) -> UserError:
    first = int(gone.argmax())
    minus_one = not part.missing[first]
    return UserError(
        f"{part.what} has no label for {gone.sum():,} of {len(gone):,} samples{where and f' ({where})'}, first the label "
        f"{-1 if minus_one else None} (sample {first}). {remedy}"
        + (" Where -1 is a class, name all in class_names, such as ['-1', '1']." if minus_one else "")
    )
