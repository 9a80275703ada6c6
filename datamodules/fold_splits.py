"""A datamodule without a fold: its rows leave training and validation for a split of their own."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldmi_lightning.csv_file import read_csv, read_numbers
from ldmi_lightning.errors import UserError
from ldmi_lightning.inputs import concatenate, in_memory, take
from ldmi_lightning.saying import say

from .folds import LEARNT_FROM, Fold, check_rest, fold_of_rows
from .loaders import Split

FOLD = "fold"
"""The name of the split of the rows that are held out."""


# -- groups -----------------------------------------------------------------------------------------------------------


def groups_in_file(path: Path, index: NDArray[np.int64]) -> NDArray[np.str_]:
    """Return the group of each row from a CSV file with the columns ``index`` and ``group``.

    Args:
        path: the file.
        index: original indices of the rows, shape ``(N,)``.

    Raises:
        UserError: a column is missing, an index is no whole number or stands there twice, or a row has no group.
    """
    what, columns = f"--group {path}", ["index", "group"]
    numbers = read_numbers(path, columns, what=what)
    if numbers is not None and len(numbers) == len(columns):
        places, cells = numbers["index"], numbers["group"].astype(np.str_)
    else:
        table = read_csv(path, columns, what=what, skip_blank=True)
        if missing := [name for name in columns if name not in table.cells]:
            raise UserError(
                f"{what} has no column {missing[0]}, but {', '.join(table.names)}. Its first line must name index and group."
            )
        for line, cell in zip(table.lines, table.cells["index"], strict=True):
            if not cell.strip().isdecimal():
                raise UserError(f"{what}, line {line}: index must be a whole number from 0, but got {cell!r}.")
        places, cells = np.array(table.cells["index"], np.int64), np.array(table.cells["group"])
    if twice := [place for place, count in Counter(places.tolist()).items() if count > 1][:1]:
        raise UserError(f"{what} has the index {twice[0]} more than once: which group is it in? Leave one line of it.")
    order = np.argsort(places)
    at = np.minimum(np.searchsorted(places[order], index), max(len(places) - 1, 0))
    there = places[order][at] == index if len(places) else np.zeros(len(index), bool)
    found = np.where(there, cells[order][at], "") if len(places) else np.full(len(index), "")
    return _whole(found, index, what)


def groups_in_column(column: Sequence[Any], index: NDArray[np.int64], name: str) -> NDArray[np.str_]:
    """Return the group of each row from a column of the data's table, which is in the order of the original index."""
    found = np.array(["" if cell is None else str(cell) for cell in column])
    return _whole(found[index], index, f"--group {name}")


def _whole(found: NDArray[np.str_], index: NDArray[np.int64], what: str) -> NDArray[np.str_]:
    empty = np.flatnonzero(np.char.strip(found) == "")
    if len(empty):
        raise UserError(
            f"{what} gives no group for {len(empty):,} of {len(index):,} training and validation rows, first for index "
            f"{index[empty[0]]}. Give each row one; a row that belongs to no other takes a name of its own."
        )
    return found


# -- a datamodule without a fold --------------------------------------------------------------------------------------


class Folds(Protocol):
    """What is asked of a datamodule that holds a fold out."""

    fold: Fold | None
    splits: dict[str, Split]
    class_names: Sequence[str]

    def column(self, name: str) -> Sequence[Any]:
        """Return a column of the data's table, by original index."""


def hold_out(data: Any, fold: Fold) -> None:
    """Let a :class:`~ldmi_lightning.datamodules.NoisyDataModule` hold a fold out, after ``setup``, whatever its class does there.

    The rows of the fold leave the splits ``"train"`` and ``"val"`` and make up the split ``"fold"``; labels, noise among them,
    are what they are without folds.
    """
    set_up = data.setup

    def setup(stage: str) -> None:
        set_up(stage)
        data.leave_out()

    data.fold, data.setup = fold, setup


def dealt_out(data: Folds, fold: Fold) -> dict[str, NDArray[np.int64]]:
    """Return the fold of each training and validation row of a datamodule, from 1, in the order of its splits.

    Raises:
        UserError: rows cannot be dealt out to so many folds, or one of these cannot be left out.
    """
    labels = {name: data.splits[name].y.cpu().numpy() for name in LEARNT_FROM}
    index = {name: data.splits[name].original_index.numpy() for name in LEARNT_FROM}

    def group_of(rows: NDArray[np.int64]) -> NDArray[np.str_]:
        name = str(fold.group)
        return (
            groups_in_file(Path(name), rows)
            if Path(name).is_file()
            else groups_in_column(data.column(name), rows, name)
        )

    dealt = fold_of_rows(labels, index, fold, None if fold.group is None else group_of)
    check_rest(labels, dealt, fold, data.class_names)
    return dealt


def without_fold(data: Folds, fold: Fold) -> dict[str, Split]:
    """Return the splits of a datamodule without a fold, and the fold itself as one more; the datamodule is left alone."""
    splits = {name: data.splits[name] for name in LEARNT_FROM}
    where = {name: torch.from_numpy(each == fold.number) for name, each in dealt_out(data, fold).items()}
    held = [_rows(splits[name], where[name].nonzero().flatten()) for name in LEARNT_FROM]
    rest = {name: _rows(splits[name], (~where[name]).nonzero().flatten()) for name in LEARNT_FROM}
    out = _joined([each for each in held if len(each)])
    say(
        f"Fold {fold}: {len(out):,} of {sum(map(len, splits.values())):,} training and validation rows are held out, seed "
        f"{fold.seed}{f', rows of one {fold.group} together' if fold.group else ''}."
    )
    return {**data.splits, **rest, FOLD: out}


def fold_identity(fold: Fold | None, splits: Mapping[str, Split]) -> dict[str, str]:
    """Return what must be the same of a fold when its run is resumed; nothing where there is none."""
    if fold is None:
        return {}
    rows = hashlib.sha256(splits[FOLD].original_index.numpy().tobytes()).hexdigest()
    return {"fold": str(fold), "fold (rows, SHA-256)": rows}


def _rows(split: Split, where: Tensor) -> Split:
    x = take(split.x, where.to(_device_of(split.x))) if in_memory(split.x) else split.x[where.numpy()]
    return Split(x, *split.labels(where))


def _device_of(x: Any) -> torch.device:
    while not isinstance(x, Tensor):
        x = next(iter(x.values() if isinstance(x, Mapping) else x))
    return x.device


def _joined(splits: Sequence[Split]) -> Split:
    """Return splits of one structure, one after the other."""
    first, *others = splits
    if not others:
        return first
    (other,) = others
    x = concatenate([first.x, other.x]) if in_memory(first.x) else first.x + other.x
    y, y_clean, index = (
        torch.cat([getattr(each, key) for each in splits]) for key in ("y", "y_clean", "original_index")
    )
    return Split(x, y, y_clean, index, _joined_votes(splits))


def _joined_votes(splits: Sequence[Split]) -> Tensor | None:
    """Return the votes of all splits; where one has none, as a validation set that was labelled by hand, -1 throughout."""
    known = next((each.votes for each in splits if each.votes is not None), None)
    if known is None:
        return None
    none = [known.new_full((len(each), known.shape[1]), -1) for each in splits]
    return torch.cat([each.votes if each.votes is not None else rest for each, rest in zip(splits, none, strict=True)])
