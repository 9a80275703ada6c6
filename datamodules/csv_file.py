"""Reading a CSV file of one's own: every cell as the text that it is, and nothing guessed in silence."""

import codecs
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ldmi_lightning.errors import UserError
from ldmi_lightning.file_kinds import what_it_is

from .own_data import shorten

DELIMITERS = (",", ";", "\t", "|")


class CSVColumns(NamedTuple):
    """Some columns of a CSV file.

    Attributes:
        cells: by the name of the column, N texts as they stand there.
        lines: the line of the file on which each row begins, N of them, from 1.
        names: of all columns.
        notes: what was found out about the file, to say it.
    """

    cells: dict[str, list[str]]
    lines: list[int]
    names: list[str]
    notes: list[str]


def read_csv(path: Path, columns: Sequence[str], encoding: str = "utf-8") -> CSVColumns:
    r"""Read those of the columns that are there; the first line names all of them.

    Rows end at ``\n``, ``\r`` or ``\r\n`` alone, so that other characters that break lines may stand in a text. Columns are
    divided by a comma, or by a semicolon, tab or bar where the first line shows it. Empty lines are skipped.

    Args:
        path: the file.
        columns: the columns that are asked for.
        encoding: how its characters are stored; a byte-order mark is skipped.

    Raises:
        UserError: if the file is stored otherwise, a column is named twice, a row has more or fewer cells than the first line,
            or a quotation mark stands where none may.
    """
    text = decoded(path.read_bytes(), path.name, encoding)
    delimiter = _delimiter(text, columns)
    records = _records(text, path.name, delimiter)
    _, first = next(records, (1, []))
    names = [name.strip() for name in first]
    if twice := [name for name in columns if names.count(name) > 1]:
        raise UserError(f"{path.name} names the column {twice[0]} twice in its first line: which of them? Rename one.")
    wanted = {name: names.index(name) for name in columns if name in names}
    cells: dict[str, list[str]] = {name: [] for name in wanted}
    lines = []
    for line, row in records:
        if len(row) != len(names):
            raise UserError(
                f"{path.name}, line {line} has {len(row)} cells, but the first line names {len(names)} columns. Put a text that "
                "holds the divider of the columns in double quotes."
            )
        lines.append(line)
        for name, place in wanted.items():
            cells[name].append(row[place])
    notes = [] if delimiter == "," else [f"{path.name}: columns are divided by {delimiter!r}, as its first line shows."]
    return CSVColumns(cells, lines, names, notes)


def decoded(content: bytes, name: str, encoding: str = "utf-8") -> str:
    r"""Return the text of a file without its byte-order mark.

    >>> decoded(b"\xef\xbb\xbfa", "it.csv")
    'a'
    """
    if kind := what_it_is(content):
        raise UserError(f"{name} is {kind}.")
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise UserError(
            f"--data.encoding {encoding} is not known. Give one such as utf-8, latin-1 or cp1252."
        ) from error
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeError as error:
        at = getattr(error, "start", 0)
        line = content.count(b"\n", 0, at) + 1
        wide = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        likely, option = ("UTF-16", "utf-16") if wide else ("Latin-1", "latin-1")
        remedy = f"It is probably {likely}: set --data.encoding {option}, or save it as UTF-8."
        raise UserError(
            f"{name} is not {encoding.upper()}: the byte 0x{content[at]:02x} in line {line} is no character there. "
            + (remedy if option != encoding else "Save it as UTF-8, and leave --data.encoding out.")
        ) from error


def _delimiter(text: str, columns: Sequence[str]) -> str:
    """Return what divides the columns: by which the first line names most of those asked for, or else most of any."""
    line = text.lstrip("\r\n").partition("\n")[0].partition("\r")[0]

    def found(delimiter: str) -> tuple[int, int]:
        names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
        return sum(name in names for name in columns), len(names)

    return max(DELIMITERS, key=found)  # the first of equals


def _records(text: str, name: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each row begins, and its cells."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    limit = csv.field_size_limit(sys.maxsize)  # a text may be as long as a book
    begins = 1
    try:
        for row in reader:
            if row:
                yield begins, row
            begins = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{name}, line {begins} cannot be read ({error}). Put a text that holds quotation marks in double quotes, and "
            "double those within it."
        ) from error
    finally:
        csv.field_size_limit(limit)


def place(name: str, lines: Sequence[int], rows: Sequence[int]) -> str:
    """Name the lines of some rows.

    >>> place("a.csv", [2, 3, 5], [0, 2])
    'a.csv, lines 2, 5'
    """
    return f"{name}, line{'s' if len(rows) > 1 else ''} {shorten([lines[row] for row in rows])}"
