"""The inputs of samples that stand in the rows of tables, which ``datasets`` keeps on disk: images or texts."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .image_rows import ImageRows
from .text_rows import TextRows

OBJECT = 80
"""So many bytes a Python string and the lists that hold it take beyond its characters."""
TOKEN = 6
"""At most so many bytes a token takes: its id, its place in the mask, and its type."""
READ_WHOLE = (
    "--data.source %s cannot be streamed: CSV files are read whole. Save it as parquet, for example with pandas' to_parquet, or "
    "leave --data.streamed out."
)

Parts = Mapping[str, NDArray[np.int64]]
"""Positions through all rows, by split."""


class Table:
    """The rows of a source's splits, one after the other.

    Args:
        tables: a ``datasets.Dataset`` for each split.
        index: number of each row in the source, int64, shape ``(N,)``.
        files: the source's parquet files in their order; empty where it is stored otherwise.
    """

    def __init__(self, tables: Sequence[Any], index: NDArray[np.int64], files: Sequence[str]) -> None:
        self.tables, self.index, self.files = tables, index, files

    @cached_property
    def whole(self) -> Any:
        """All rows, in one table."""
        import datasets

        return datasets.concatenate_datasets(list(self.tables))

    @property
    def on_disk(self) -> bool:
        """Whether the rows are mapped into memory from files, and take none."""
        return all(len(table) == 0 or table.cache_files for table in self.tables)

    def bytes_of_texts(self, columns: Sequence[str], longest: int) -> int:
        """Return how many bytes the texts of some columns take at most while they are turned into token ids.

        Args:
            columns: their names.
            longest: to how many tokens a text is cut.
        """
        held = sum(table.data.column(column).nbytes for table in self.tables for column in columns)
        return int(held) + len(self.index) * (len(columns) * OBJECT + longest * TOKEN)


class Predicted(NamedTuple):
    """What ``ldmi predict`` predicts where it is not the test split as it is tested on.

    Attributes:
        table: the rows; ``None`` where the source has no test split.
        first: original index of the first row.
    """

    table: Table | None
    first: int


def image_rows(table: Table, column: str, parts: Parts, size: int, source: str) -> dict[str, ImageRows]:
    """Return the images of each split, of this height and width."""
    images = table.whole.select_columns(column)
    remedy = f"Repair it, or take it out of --data.source {source}."
    return {
        split: ImageRows(images, column, where, size, index=table.index, files=table.files, remedy=remedy)
        for split, where in parts.items()
    }


def text_rows(table: Table, columns: Sequence[str], parts: Parts, source: str) -> dict[str, TextRows]:
    """Return the texts of each split, which nothing encodes yet."""
    texts = table.whole.select_columns(list(columns))
    return {split: TextRows(texts, columns, source, where) for split, where in parts.items()}
