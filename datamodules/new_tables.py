"""New samples in a table, CSV, parquet or JSON, read some rows at a time."""

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldmi_lightning.csv_file import any_length, delimiter_of, read_csv
from ldmi_lightning.errors import UserError

from .hub import UnreadableDataset, reasons
from .known_inputs import KnownInputs
from .own_data import shorten
from .sources import BUILDERS

INPUT = "--input"


class Chunk(NamedTuple):
    """Some samples, in order.

    Attributes:
        keys: what each is called: its path below the folder, or its number from 0.
        samples: N of them, as :class:`~ldmi_lightning.datamodules.new_data.NewData` takes them.
        labels: what stands in the column of labels; ``None`` where there is no such column.
    """

    keys: Sequence[str | int]
    samples: Any
    labels: list[Any] | None


class Place(NamedTuple):
    """A place with new samples.

    Attributes:
        key: what its samples are called by: ``"path"`` or ``"row"``.
        chunks: yields so many samples at a time.
        label_names: names that the column of labels counts through; ``None`` for labels as they stand there.
        has_labels: whether there is a column of labels.
        left_out: what lies there and is no sample is counted there, while it is read.
        notes: what was found out about it, to say it.
    """

    key: str
    chunks: Callable[[int], Iterator[Chunk]]
    label_names: list[str] | None
    has_labels: bool
    left_out: Counter[str]
    notes: list[str]


def pieces(every: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Yield what there is, so many at a time.

    >>> list(pieces(iter("abc"), 2))
    [['a', 'b'], ['c']]
    """
    while piece := list(islice(every, size)):
        yield piece


def _columns(names: Sequence[str], data: KnownInputs, kind: str, place: Path) -> list[str]:
    """Return the columns of the inputs, or refuse a table that lacks one."""
    asked = [*data.text_columns] if kind == "texts" else [data.image_column or ""] if kind == "images" else None
    if asked is None:  # numbers
        found = [name for name in names if name != data.label_column]
        ((_, shape),) = (data.input_kinds or {}).values()
        if kind == "ids" or len(shape) != 1:
            raise UserError(
                f"{INPUT} {place} is a table, but the run reads samples of shape {tuple(shape)}. Give an array (.npy)."
            )
        if len(found) != shape[0]:
            raise UserError(
                f"{INPUT} {place} has {len(found)} columns beside {data.label_column}, {shorten(found)}, but the run reads "
                f"{shape[0]} numbers a sample. Give those columns, in the order of training."
            )
        return found
    for name in asked:
        if name not in names:
            raise UserError(f"{INPUT} {place} has no column {name}, which the run reads, but {shorten(list(names))}.")
        if list(names).count(name) > 1:
            raise UserError(
                f"{INPUT} {place} names the column {name} more than once: which of them? Rename the others."
            )
    return asked


def _samples(rows: Sequence[Sequence[Any]], kind: str, columns: Sequence[str], first: int, place: Path) -> Any:
    """Return the cells of inputs as samples."""
    if kind == "images":
        return [_image(cell) for (cell,) in rows]
    if kind == "texts":
        return [cells[0] if len(cells) == 1 else tuple(cells) for cells in rows]
    numbers = np.empty((len(rows), len(columns)), np.float32)
    for at, cells in enumerate(rows):
        for column, (name, cell) in enumerate(zip(columns, cells, strict=True)):
            try:
                numbers[at, column] = np.nan if cell is None or cell == "" else cell
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"{INPUT} {place}: column {name} holds {str(cell)[:40]!r} in row {first + at}, but the run reads numbers."
                ) from error
    return numbers


def _image(cell: Any) -> Path | bytes:
    if isinstance(cell, dict):
        return cell["bytes"] if cell.get("bytes") is not None else Path(cell.get("path") or "")
    return Path(cell or "")


def open_csv(place: Path, data: KnownInputs, kind: str) -> Place:
    """Look at a CSV file, of which no more than a chunk is in memory."""
    asked = [*data.text_columns, data.label_column]
    notes: list[str] = []
    names = next(_rows(place, asked, data.encoding, notes))
    columns = _columns(names, data, kind, place)
    where = [list(names).index(name) for name in columns]
    label = list(names).index(data.label_column) if data.label_column in names else None

    def chunks(size: int) -> Iterator[Chunk]:
        rows, first = islice(_rows(place, asked, data.encoding, notes), 1, None), 0
        for some in pieces(rows, size):
            samples = _samples([[row[at] for at in where] for row in some], kind, columns, first, place)
            labels = None if label is None else [row[label] for row in some]
            yield Chunk(range(first, first + len(some)), samples, labels)
            first += len(some)

    return Place("row", chunks, None, label is not None, Counter(), notes)


def _rows(place: Path, asked: Sequence[str], encoding: str, notes: list[str]) -> Iterator[list[str]]:
    """Yield the names of a CSV file's columns, and then its rows, one at a time; :func:`read_csv` says what is wrong with it."""
    names: list[str] = []
    try:
        with place.open(
            encoding="utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding, newline=""
        ) as file:
            first = next((line for line in file if line.strip()), "")
            delimiter = delimiter_of(first, asked)
            if delimiter != "," and not notes:
                notes.append(f"{place.name}: columns are divided by {delimiter!r}, as its first line shows.")
            file.seek(0)
            with any_length():
                for row in csv.reader(file, delimiter=delimiter, strict=True):
                    if len(row) != len(names) and not any(map(str.strip, row)):
                        continue
                    if not names:
                        names = [name.strip() for name in row]
                        yield names
                    elif len(row) < len(names) or any(map(str.strip, row[len(names) :])):
                        raise ValueError
                    else:
                        yield row
    except (csv.Error, ValueError, LookupError) as error:  # which read_csv puts into words
        read_csv(place, asked, encoding, what=f"{INPUT} {place}")
        raise UserError(f"{INPUT} {place} cannot be read ({error}).") from error
    if not names:
        raise UserError(f"{INPUT} {place} is empty: its first line names no column.")


def open_dataset(place: Path, data: KnownInputs, kind: str) -> Place:
    """Look at a parquet or JSON file, which ``datasets`` streams."""
    import datasets

    suffix = place.suffix.lower()
    builder = next(name for suffixes, name in BUILDERS.items() if suffix in suffixes)
    try:
        with reasons():
            table = datasets.load_dataset(builder, data_files={"train": str(place)}, split="train", streaming=True)
            first = next(iter(table.take(1)), None)
    except UnreadableDataset as error:
        raise UserError(f"{INPUT} {place} cannot be read ({error}).") from error
    if first is None:
        raise UserError(f"{INPUT} {place} holds no row.")
    columns = _columns(list(first), data, kind, place)
    features: Any = table.features or {}
    names = getattr(features.get(data.label_column), "names", None)
    has_labels = data.label_column in first
    if kind == "images" and isinstance(features.get(columns[0]), datasets.Image):
        table = table.cast_column(columns[0], datasets.Image(decode=False))

    def chunks(size: int) -> Iterator[Chunk]:
        at = 0
        for some in pieces(iter(table), size):
            samples = _samples([[row.get(name) for name in columns] for row in some], kind, columns, at, place)
            labels = [row.get(data.label_column) for row in some] if has_labels else None
            yield Chunk(range(at, at + len(some)), samples, labels)
            at += len(some)

    return Place("row", chunks, names, has_labels, Counter(), [])
