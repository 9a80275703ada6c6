"""Images of a split in a column of a table, such as parquet files hold: rows are read from disk when they are needed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from ldmi_lightning.originals import Original

from .images import UnreadableImage, read_cell
from .streamed import Images

CHUNK = 256
"""So many rows are read at once."""


class ImageRows(Images):
    """A column of encoded images, which ``datasets`` maps into memory from its cache: any row is read without the others.

    Images are decoded as :func:`~ldmi_lightning.datamodules.images.decode_images` does, to the same pixels.

    Args:
        table: a ``datasets.Dataset`` with a column of images.
        column: its name.
        rows: which rows, int64, shape ``(N,)``.
        size: height and width to which each image is brought, whatever its shape.
        index: number of each row of the table in the source, int64, shape ``(rows of the table,)``.
        files: the source's parquet files in their order, to name rows by them; empty where they are not known.
        remedy: what to do about an image that cannot be read, in a sentence.
    """

    def __init__(
        self,
        table: Any,
        column: str,
        rows: NDArray[np.int64],
        size: int,
        *,
        index: NDArray[np.int64],
        files: Sequence[str] = (),
        remedy: str = "",
    ) -> None:
        super().__init__(size, remedy)
        import datasets

        plain = table.select_columns(column).cast_column(column, datasets.Image(decode=False))
        self.table = plain.with_format("arrow")
        self.column, self.rows, self.index, self.files = column, rows, index, files

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, where: slice | NDArray[np.int64]) -> "ImageRows":
        return self.but(rows=self.rows[where])

    def __add__(self, other: "ImageRows") -> "ImageRows":
        """Return the rows of two splits of one table, one after the other."""
        return self.but(rows=np.concatenate([self.rows, other.rows]))

    def cells(self, positions: Sequence[int]) -> Iterator[Any]:
        """Yield what stands in the rows at some positions: ``bytes``, ``path``, or nothing."""
        rows = self.rows[np.asarray(positions, np.int64)].tolist()
        for begin in range(0, len(rows), CHUNK):
            yield from self.table[rows[begin : begin + CHUNK]][self.column].to_pylist()

    def name(self, position: int) -> str:
        """Return which image it is: its number in the source, and where that is known its file and its row there."""
        number = int(self.index[self.rows[position]])
        return f"Image {number} of column {self.column}{row_in_files(self.files, number)}"

    def original(self, position: int) -> Original:
        """Return an image's pixels."""
        return Original("image", self.read(position).permute(1, 2, 0).contiguous().numpy())

    def how(self) -> str:
        """Return how inputs are made of what is stored: to which size."""
        return f"rows {self.size}"

    def traits(self, most: int | None) -> Iterator[bytes]:
        """Yield the number of rows, and what stands in at most so many."""
        yield b"%d\n" % len(self)
        step = 1 if most is None else 1 + len(self) // most
        for begin in range(0, len(self), step * CHUNK):
            for cell in self.cells(range(begin, min(begin + step * CHUNK, len(self)), step)):
                yield b"none" if cell is None else cell["bytes"] or str(cell["path"]).encode()

    def read(self, position: int, notes: Counter[str] | None = None) -> Tensor:
        """Return one image, uint8, shape ``(3, size, size)``."""
        (image,) = self.read_each([position], Counter() if notes is None else notes)
        if isinstance(image, UnreadableImage):
            raise image
        return image

    def read_each(self, positions: Sequence[int], notes: Counter[str]) -> Iterator[Tensor | UnreadableImage]:
        """Yield each image, or why it cannot be read."""
        for position, cell in zip(positions, self.cells(positions), strict=True):
            try:
                yield resize(read_cell(cell, "RGB", notes), [self.size, self.size], antialias=True)
            except UnreadableImage as error:
                yield UnreadableImage(self.name(position), error.reason)


def row_in_files(files: Sequence[str], number: int) -> str:
    """Return the parquet file of a row that is counted through several, and its number there, in brackets; or nothing."""
    if not files:
        return ""
    import pyarrow.parquet as parquet

    for file in files:
        rows = parquet.read_metadata(file).num_rows
        if number < rows:
            return f" ({Path(file).name}, row {number})"
        number -= rows
    return ""
