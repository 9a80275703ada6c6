"""New samples in a place: a folder of images, an image, an array or a table, read some at a time; labels may be missing."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ldmi_lightning.errors import UserError
from ldmi_lightning.file_kinds import kind_of_file

from .image_listing import iter_images
from .images import SUFFIXES
from .known_inputs import KnownInputs
from .new_data import KINDS
from .new_tables import INPUT, Chunk, Place, open_csv, open_dataset, pieces
from .sources import CSV, JSON, PARQUET


def open_place(place: Path, data: KnownInputs, kind: str) -> Place:
    """Look at a place, and refuse one that does not hold what a run reads.

    Args:
        place: a folder or a file.
        data: the run's data set.
        kind: what its inputs are; see :func:`~ldmi_lightning.datamodules.known_inputs.kind_of`.
    """
    suffix = place.suffix.lower()
    if not place.exists():
        raise UserError(f"{INPUT} {place} is not there. {wanted(data, kind)}")
    if place.is_dir() or suffix in SUFFIXES:
        if kind != "images":
            what = "a folder" if place.is_dir() else "an image"
            raise UserError(f"{INPUT} {place} is {what}, but the run reads {KINDS[kind]}. {wanted(data, kind)}")
        return _images(place)
    if kind == "several":
        raise UserError(f"The run reads {KINDS[kind]}, which no file holds. {wanted(data, kind)}")
    if suffix == ".npy":
        if kind == "texts":
            raise UserError(f"{INPUT} {place} is an array, but the run reads texts. {wanted(data, kind)}")
        return _array(place)
    if suffix not in (*CSV, *JSON, *PARQUET):
        raise UserError(f"{INPUT} {place} is none of the kinds of files that are read. {wanted(data, kind)}")
    if kind == "images" and (data.image_column is None or suffix in CSV):
        raise UserError(f"{INPUT} {place} is a table, but the run reads images. {wanted(data, kind)}")
    if kind_found := kind_of_file(place):
        raise UserError(f"{INPUT} {place} is {kind_found}.")
    return (open_csv if suffix in CSV else open_dataset)(place, data, kind)


def wanted(data: KnownInputs, kind: str) -> str:
    """Say what to give."""
    tables = "a CSV, TSV, parquet or JSON file"
    if kind == "texts":
        columns = " and ".join(data.text_columns)
        return f"Give {tables} with the column{'s' if len(data.text_columns) > 1 else ''} {columns}."
    if kind == "images":
        more = "" if data.image_column is None else f", a parquet or JSON file with the column {data.image_column}"
        return f"Give a folder of images, one image{more}, or an array (.npy)."
    if kind == "numbers":
        return f"Give an array (.npy), or {tables} with a column for each number."
    return "Give an array (.npy)." if kind == "ids" else "Call ldmi_lightning.load(RUN) in Python with arrays."


# -- images and arrays ------------------------------------------------------------------------------------------------


def _images(place: Path) -> Place:
    left_out: Counter[str] = Counter()

    def paths() -> Iterator[Path]:
        return iter_images(place, left_out, option=INPUT) if place.is_dir() else iter([place])

    def chunks(size: int) -> Iterator[Chunk]:
        above = place if place.is_dir() else place.parent
        left_out.clear()
        for some in pieces(paths(), size):
            yield Chunk([path.relative_to(above).as_posix() for path in some], some, None)

    if next(paths(), None) is None:
        others = ", ".join(f"{count:,} {kind}" for kind, count in left_out.most_common())
        raise UserError(
            f"{INPUT} {place} holds no image ({', '.join(SUFFIXES)}), but {others or 'nothing'}. Give a folder that does."
        )
    return Place("path", chunks, None, False, left_out, [])


def _array(place: Path) -> Place:
    try:
        array = np.load(place, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = "it holds Python objects" if "objects" in str(error) or "pickle" in str(error) else str(error)
        raise UserError(
            f"{INPUT} {place} cannot be read ({reason.splitlines()[0]}). Write it with numpy.save."
        ) from error
    if not array.ndim or not len(array):
        raise UserError(f"{INPUT} {place} has shape {array.shape}, but needs one entry for each sample, at least one.")

    def chunks(size: int) -> Iterator[Chunk]:
        for begin in range(0, len(array), size):
            some = np.array(array[begin : begin + size])
            yield Chunk(range(begin, begin + len(some)), some, None)

    return Place("row", chunks, None, False, Counter(), [])
