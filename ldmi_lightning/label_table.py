"""CSV files of labels: a label for each sample, numbers or names of classes, and maybe its index and its clean label."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.csv_file import original_text, read_csv, read_numbers
from ldmi_lightning.errors import UserError

COLUMNS = ("index", "label", "clean")
WHOLE = re.compile(r"([+-]?[0-9]+)(?:\.0*)?")
NO_LABEL = ("nan", "none", "null", "na", "n/a", "<na>")
"""How tables write that there is none."""

Written = NDArray[np.int64] | NDArray[np.str_]
"""Whole numbers, or texts as they stand in the file, without the blanks around them."""


class LabelTable(NamedTuple):
    """The labels of N rows, in the order of the file.

    Attributes:
        label: shape ``(N,)``.
        index: which sample each row is of, not negative, no two alike, shape ``(N,)``; ``None`` where nobody wrote it down.
        clean: the label as the data set gives it, shape ``(N,)``; ``None`` where nobody wrote it down.
        notes: what was found out about the file, to say it.
    """

    label: Written
    index: NDArray[np.int64] | None  # type: ignore[assignment]  # tuple.index is not needed here
    clean: Written | None
    notes: Sequence[str] = ()


def read_label_table(
    path: Path,
    *,
    what: str,
    needed: Sequence[str],
    index_name: str = "the index",
    encoding: str = "utf-8",
    option: str | None = None,
) -> LabelTable:
    """Read the columns ``label``, ``index`` and ``clean`` of a CSV file, in any order; further columns are not read.

    Args:
        path: the file.
        what: what it is called in messages.
        needed: the columns that must be there.
        index_name: what an index is called in messages.
        encoding: how its characters are stored.
        option: the option that sets ``encoding``, to name it in messages; ``None`` where there is none.

    Raises:
        UserError: it cannot be read, lacks a column, or has a row without a label or with an index that cannot be one.
    """
    try:
        numbers = read_numbers(path, COLUMNS, encoding, what=what, option=option)
        if numbers and all(name in numbers for name in needed):
            columns: dict[str, Written] = dict(numbers)
            notes: Sequence[str] = ()
        else:
            columns, notes = _read_texts(path, what, needed, encoding, option)
    except OSError as error:
        raise UserError(f"{what} cannot be read ({error.strerror}).") from error
    index = columns.get("index")
    if index is not None:
        _check_index(index, what, index_name)
    return LabelTable(columns["label"], index, columns.get("clean"), notes)  # type: ignore[arg-type]  # numbers


def _read_texts(
    path: Path, what: str, needed: Sequence[str], encoding: str, option: str | None
) -> tuple[dict[str, Written], Sequence[str]]:
    found = read_csv(path, COLUMNS, encoding, what=what, option=option, skip_blank=True)
    for name in needed:
        if name not in found.cells:
            raise UserError(
                f"{what} cannot be read: its first line names no column {name}, but {','.join(found.names)[:80]!r}. Name the "
                f"column{'s' if len(needed) > 1 else ''} {','.join(needed)}."
            )
    columns: dict[str, Written] = {}
    for name, cells in found.cells.items():
        texts = [cell.strip() for cell in cells]
        columns[name] = (_indices if name == "index" else _labels)(texts, found.lines, name, what)
    return columns, found.notes


def _labels(cells: list[str], lines: Sequence[int], name: str, what: str) -> Written:
    """Return a column as whole numbers; as text where any of them is none, since it may be the name of a class."""
    if "" in cells:
        raise UserError(
            f"{what} cannot be read: line {lines[cells.index('')]} has no {name}: write one, or leave the line out."
        )
    known = {cell: whole_number(cell) for cell in set(cells)}
    if None in known.values():
        return np.array(cells, dtype=np.str_)
    return np.array([known[cell] for cell in cells], dtype=np.int64)


def _indices(cells: list[str], lines: Sequence[int], name: str, what: str) -> NDArray[np.int64]:
    numbers = [whole_number(cell) for cell in cells]
    for line, number, cell in zip(lines, numbers, cells, strict=True):
        if number is None:
            raise UserError(
                f"{what} cannot be read: line {line} has the {name} {cell!r}, which is no whole number from 0 on. Count the "
                "samples from 0."
            )
    return np.array(numbers, dtype=np.int64)


def _check_index(index: Written, what: str, called: str) -> None:
    values, counts = np.unique(index, return_counts=True)
    if len(values) and int(values[0]) < 0:
        raise UserError(f"{what} has the index {values[0]}, but an index counts from 0.")
    if (counts > 1).any():
        raise UserError(f"{what} has {called} {values[counts > 1][0]} more than once: keep one label for each sample.")


def whole_number(cell: str) -> int | None:
    """Return a whole number below 2**63 that a cell holds, also where a table has written it as a float; ``None`` for all else.

    >>> whole_number("3"), whole_number("3.0"), whole_number("2.5"), whole_number("nan")
    (3, 3, None, None)
    """
    matched = WHOLE.fullmatch(cell.strip())
    return number if matched and abs(number := int(matched[1])) < 2**63 else None


def named_class(name: str, class_names: Sequence[str]) -> list[int]:
    """Return the classes that a name may mean: none, one, or two where one is called what a spreadsheet's cell has for the other.

    >>> named_class("dog", ["cat", "dog"]), named_class("'=a", ["=a", "b"]), named_class("'=a", ["=a", "'=a"])
    ([1], [0], [1, 0])
    """
    return [class_names.index(each) for each in dict.fromkeys((name, original_text(name))) if each in class_names]
