"""CSV files: reading every cell as the text that it is, with nothing guessed in silence, and writing what is harmless."""

import codecs
import csv
import io
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.errors import UserError
from ldmi_lightning.file_kinds import what_it_is

DELIMITERS = (",", ";", "\t", "|")
LINE_END = re.compile(r"\r\n|\r|\n")
FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""How a cell begins that a spreadsheet would run, or one that was made harmless before."""
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
ODD = re.compile(r"[^0-9,\r\n-]")
"""What does not occur in a table of whole numbers."""


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


def read_csv(
    path: Path,
    columns: Sequence[str],
    encoding: str = "utf-8",
    *,
    what: str | None = None,
    option: str | None = None,
    skip_blank: bool = False,
) -> CSVColumns:
    r"""Read those of the columns that are there; the first line names all of them.

    Rows end at ``\n``, ``\r`` or ``\r\n`` alone, so that other characters that break lines may stand in a text. Columns are
    divided by a comma, or by a semicolon, tab or bar where the first line shows it. Empty lines are skipped, and so are empty
    cells beyond the columns that the first line names.

    Args:
        path: the file.
        columns: the columns that are asked for.
        encoding: how its characters are stored; a byte-order mark is skipped.
        what: what the file is called in messages; ``None`` for its name.
        option: the option that sets ``encoding``, to name it in messages; ``None`` where there is none.
        skip_blank: whether rows whose cells are all blank are skipped, as spreadsheets leave them at the end of a list. A row
            of texts may be blank.

    Raises:
        UserError: if the file is empty, or stored otherwise, a column is named twice, a row has more or fewer cells than the
            first line, or a quotation mark stands where none may.
        OSError: if it cannot be read.
    """
    what = what or path.name
    text = decoded(path.read_bytes(), what, encoding, option)
    if not text.strip():
        raise UserError(f"{what} is empty: its first line names no column {columns[0]}.")
    delimiter = delimiter_of(text, columns)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    lines: list[int] = []
    cells: dict[str, list[str]] = {}
    longer: list[int] = []
    with any_length():
        begins = 1
        try:
            for row in reader:
                line, begins = begins, reader.line_num + 1
                if not row:
                    continue
                if not names:
                    names = [name.strip() for name in row]
                    cells = {name: [] for name in _asked(names, columns, what)}
                    taken = [(names.index(name), column) for name, column in cells.items()]
                    continue
                if (skip_blank or len(row) != len(names)) and not any(map(str.strip, row)):
                    continue
                if len(row) != len(names):
                    _refuse_length(row, names, f"{what}, line {line}")
                    longer.append(line)
                lines.append(line)
                for place, column in taken:
                    column.append(row[place])
        except csv.Error as error:
            raise UserError(
                f"{what}, line {begins} cannot be read ({error}). Put a text that holds quotation marks in double quotes, and "
                "double those within it."
            ) from error
    notes = [] if delimiter == "," else [f"{what}: columns are divided by {delimiter!r}, as its first line shows."]
    if longer:
        notes.append(f"{what}: empty cells at the end of {len(longer)} rows, first in line {longer[0]}, are left out.")
    return CSVColumns(cells, lines, names, notes)


@contextmanager
def any_length() -> Iterator[None]:
    """Let a cell be as long as a book."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _asked(names: Sequence[str], columns: Sequence[str], what: str) -> list[str]:
    for name in columns:
        if names.count(name) > 1:
            raise UserError(
                f"{what} names the column {name} {names.count(name)} times in its first line: which of them? Rename or remove "
                "the others."
            )
    return [name for name in dict.fromkeys(columns) if name in names]


def _refuse_length(row: Sequence[str], names: Sequence[str], where: str) -> None:
    if len(row) < len(names) or any(map(str.strip, row[len(names) :])):
        raise UserError(
            f"{where} has {len(row)} cell{'s' if len(row) > 1 else ''}, but the first line names {len(names)} "
            f"column{'s' if len(names) > 1 else ''}. Put a text that holds the divider of the columns in double quotes."
        )


def delimiter_of(text: str, columns: Sequence[str]) -> str:
    """Return what divides the columns: by which the first line names most of those asked for, or else most of any."""
    line = LINE_END.split(text.lstrip("\r\n"), maxsplit=1)[0]

    def found(delimiter: str) -> tuple[int, int]:
        names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
        return sum(name in names for name in columns), len(names)

    return max(DELIMITERS, key=found)  # the first of equals


def decoded(content: bytes, what: str, encoding: str = "utf-8", option: str | None = None) -> str:
    r"""Return the text of a file without its byte-order mark, or say what it is instead.

    Args:
        content: the file's bytes.
        what: what it is called in messages.
        encoding: how its characters are stored.
        option: the option that sets ``encoding``; ``None`` where there is none.

    Raises:
        UserError: it is in another encoding, or what a failed download leaves.

    >>> decoded(b"\xef\xbb\xbfa", "it.csv")
    'a'
    >>> decoded("äh".encode("latin-1"), "it.csv")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ldmi_lightning.errors.UserError: it.csv is not UTF-8: the byte 0xe4 in line 1 is no character there. ...
    """
    if kind := what_it_is(content):
        raise UserError(f"{what} is {kind}.")
    try:
        codecs.lookup(encoding)  # which an empty file would not need
        return content.decode(encoding).removeprefix("\ufeff")
    except LookupError as error:
        raise UserError(
            f"{option or 'The encoding'} {encoding} is not known. Give one such as utf-8, latin-1 or cp1252."
        ) from error
    except UnicodeError as error:
        at = getattr(error, "start", 0)
        line = len(re.split(rb"\r\n|\r|\n", content[:at]))
        raise UserError(
            f"{what} is not {encoding.upper()}: the byte 0x{content[at]:02x} in line {line} is no character there. "
            f"{_remedy(content, at, encoding, option)}"
        ) from error


def _remedy(content: bytes, at: int, encoding: str, option: str | None) -> str:
    """Say what a file probably is that the encoding cannot read, and what to do."""
    with suppress(UnicodeError):
        content.decode()
        return f"It is UTF-8: leave {option or 'the encoding'} out."
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    likely, value = ("UTF-16", "utf-16") if wide else ("Latin-1", "latin-1")
    if value == encoding:
        return f"Save it as UTF-8, and leave {option or 'the encoding'} out."
    shown = "" if wide else f" (which has {chr(content[at])!r} there)"
    return f"It is probably {likely}{shown}: {f'set {option} {value}, or save' if option else 'save'} it as UTF-8."


def read_numbers(
    path: Path, columns: Sequence[str], encoding: str = "utf-8", *, what: str | None = None, option: str | None = None
) -> dict[str, NDArray[np.int64]] | None:
    """Read those of the columns that are there from a file that holds nothing but whole numbers, ten times as fast.

    Returns:
        int64 of shape ``(N,)`` by the name of the column; ``None`` where the file holds anything else, is divided otherwise than
        by commas, or is at fault: :func:`read_csv` reads it, or says what is wrong.
    """
    text = decoded(path.read_bytes(), what or path.name, encoding, option)
    head, end, rest = re.split(r"(\r\n|\r|\n|$)", text, maxsplit=1)
    names = [name.strip() for name in head.split(",")]
    if not end or any(names.count(name) > 1 for name in columns) or ODD.search(rest) or not rest.strip():
        return None
    try:
        with warnings.catch_warnings():
            # NumPy before 2.4 reads what is no integer of 64 bits through a float, with a warning.
            warnings.simplefilter("error", DeprecationWarning)
            table = np.loadtxt(io.StringIO(rest, newline=""), np.int64, comments=None, delimiter=",", ndmin=2)
    except (ValueError, DeprecationWarning):
        return None
    if table.shape[1] != len(names):
        return None
    return {name: table[:, names.index(name)] for name in columns if name in names}


def safe_cell(text: str) -> str:
    """Return a text as a cell that no spreadsheet runs as a formula: after a single quote, where it would; numbers stay.

    Texts that begin with single quotes before such a character get one more, so that :func:`original_text` gives each back.

    >>> [safe_cell(text) for text in ("cat", "=1+1", "@home", "-3", "+1.5e-3", "-a", "'=1")]
    ['cat', "'=1+1", "'@home", '-3', '+1.5e-3', "'-a", "''=1"]
    """
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def original_text(cell: str) -> str:
    """Return the text of which :func:`safe_cell` has made a cell.

    >>> [original_text(cell) for cell in ("cat", "'=1+1", "-3", "''=1", "'tis")]
    ['cat', '=1+1', '-3', "'=1", "'tis"]
    """
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
