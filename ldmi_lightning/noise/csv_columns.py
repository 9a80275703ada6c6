"""Columns of a small CSV file: whole rows or none, with what is wrong said by its line."""

import codecs
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.file_kinds import what_it_is

ODD = re.compile(r"[^0-9,\r\n-]")
"""What does not occur in a table of whole numbers."""
WHOLE = re.compile(r"([+-]?[0-9]+)(?:\.0*)?")


class MissingColumn(ValueError):
    """A file whose first line does not name a column.

    Attributes:
        names: what it names.
    """

    def __init__(self, message: str, names: Sequence[str]) -> None:
        super().__init__(message)
        self.names = list(names)


class Columns(NamedTuple):
    """Some columns of a file.

    Attributes:
        lines: the line at which each row ends, counted from 1.
        values: the cells of each column by its name, without blanks at either end.
    """

    lines: list[int]
    values: dict[str, list[str]]


def read_columns(path: Path, needed: Sequence[str], wanted: Sequence[str] = ()) -> Columns:
    r"""Read columns that a file's first line names; others are not looked at, and blank lines skipped.

    Lines end at ``\r``, ``\n`` or both, and nowhere else, except within quotes. A byte order mark is left out.

    Args:
        path: a file in UTF-8.
        needed: columns that it must have.
        wanted: columns that it may have.

    Raises:
        MissingColumn: if it does not name a column that is needed.
        ValueError: if it is no such file; the message, one line, follows the file's name and a colon.
        OSError: if it cannot be read.
    """
    text = decoded(path.read_bytes())
    if not text.strip():
        raise MissingColumn(f"it is empty: its first line names no column {needed[0]}", [])
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [name.strip() for name in next(reader)]
        places = _places(names, needed, wanted, text)
        found = Columns([], {name: [] for name in places})
        cells = list(found.values.values())
        for row in reader:
            if not any(map(str.strip, row)):
                continue
            if len(row) != len(names) and (len(row) < len(names) or any(cell.strip() for cell in row[len(names) :])):
                values = "value" if len(row) == 1 else "values"
                raise ValueError(
                    f"line {reader.line_num} has {len(row)} {values}, but the first line names {len(names)} columns"
                )
            found.lines.append(reader.line_num)
            for column, place in zip(cells, places.values(), strict=True):
                column.append(row[place].strip())
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} is no CSV ({error})") from error
    return found


def _places(names: list[str], needed: Sequence[str], wanted: Sequence[str], text: str) -> dict[str, int]:
    columns = [name for name in (*needed, *wanted) if name in names]
    if missing := [name for name in needed if name not in names]:
        first = re.split(r"[\r\n]", text, maxsplit=1)[0]
        raise MissingColumn(
            f"its first line names no column {missing[0]}, but {first[:80]!r}. Name the columns {','.join(needed)}.",
            names,
        )
    if twice := [name for name in columns if names.count(name) > 1]:
        raise ValueError(f"its first line names the column {twice[0]} {names.count(twice[0])} times. Keep one.")
    return {name: names.index(name) for name in columns}


def read_numbers(path: Path, needed: Sequence[str], wanted: Sequence[str] = ()) -> dict[str, NDArray[np.int64]] | None:
    """Read the same columns of a file that holds nothing but whole numbers, ten times as fast.

    Returns:
        int64 of shape ``(N,)`` by the name of the column; ``None`` where the file holds anything else, or is at fault, which
        :func:`read_columns` then says.
    """
    head, end, rest = re.split(r"(\r\n|\r|\n|$)", decoded(path.read_bytes()), maxsplit=1)
    names = [name.strip() for name in head.split(",")]
    columns = [name for name in (*needed, *wanted) if name in names]
    if not end or any(names.count(name) != 1 for name in (*needed, *columns)) or ODD.search(rest) or not rest.strip():
        return None
    try:
        table = np.loadtxt(io.StringIO(rest, newline=""), np.int64, comments=None, delimiter=",", ndmin=2)
    except ValueError:
        return None
    return {name: table[:, names.index(name)] for name in columns} if table.shape[1] == len(names) else None


def decoded(content: bytes) -> str:
    """Return text in UTF-8, with or without a byte order mark, or say what it is instead.

    Raises:
        ValueError: it is in another encoding, or what a failed download leaves.

    >>> decoded("äh".encode("latin-1"))
    Traceback (most recent call last):
    ValueError: it is not UTF-8, but maybe Latin-1 (byte 0xE4 in line 1, which would be 'ä'). Save it as UTF-8.
    """
    if kind := what_it_is(content):
        raise ValueError(f"it is {kind}")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("it is UTF-16. Save it as UTF-8.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(re.split(rb"\r\n|\r|\n", content[: error.start]))
        byte = content[error.start]
        raise ValueError(
            f"it is not UTF-8, but maybe Latin-1 (byte 0x{byte:02X} in line {line}, which would be {chr(byte)!r}). "
            "Save it as UTF-8."
        ) from error


def whole_number(cell: str) -> int | None:
    """Return a whole number that a cell holds, also where a table has written it as a float; ``None`` for all else.

    >>> whole_number("3"), whole_number("3.0"), whole_number("2.5"), whole_number("nan")
    (3, 3, None, None)
    """
    matched = WHOLE.fullmatch(cell.strip())
    return int(matched[1]) if matched else None


def whole_numbers(cells: Sequence[str], lines: Sequence[int], name: str) -> NDArray[np.int64]:
    """Return a column of whole numbers, shape ``(N,)``.

    Raises:
        ValueError: a cell holds none; the message names its line.

    >>> whole_numbers(["3", "4.0"], [2, 3], "index").tolist()
    [3, 4]
    """
    try:
        return np.array(list(map(int, cells)), dtype=np.int64)
    except (ValueError, OverflowError):
        pass
    numbers = [whole_number(cell) for cell in cells]
    for line, number, cell in zip(lines, numbers, cells, strict=True):
        if number is None or abs(number) >= 2**63:
            raise ValueError(f"line {line} has the {name} {cell!r}, which is no whole number")
    return np.array(numbers, dtype=np.int64)
