"""Texts of a split in columns of a table, which are read from disk and turned into token ids batch by batch."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from ldmi_lightning.errors import UserError
from ldmi_lightning.inputs import map_tensors

from .streamed import Read, Streamed

CHUNK = 1000
"""So many texts are read at once."""

Texts = list[Any]
"""Texts, or pairs of them."""


class TextRows(Streamed):
    """One or two columns of texts, which ``datasets`` maps into memory from its cache.

    Texts are encoded in the main process: splitting one takes less than sending it.

    Args:
        table: a ``datasets.Dataset`` with the columns.
        columns: names of one or two columns of texts.
        source: what the user called the source, for messages.
        rows: which rows, int64, shape ``(N,)``.
    """

    in_workers = False
    what = "texts"

    def __init__(
        self,
        table: Any,
        columns: Sequence[str],
        source: str,
        rows: NDArray[np.int64],
    ) -> None:
        super().__init__()
        self.table = table.select_columns(list(columns)).with_format("arrow")
        self.columns, self.source, self.rows = columns, source, rows
        self.encode: Callable[[Texts], tuple[Any, int]] | None = None
        self.width, self._how, self.cut = 0, "", ""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, where: slice | NDArray[np.int64]) -> "TextRows":
        return self.but(rows=self.rows[where])

    def __add__(self, other: "TextRows") -> "TextRows":
        """Return the rows of two splits of one table, one after the other."""
        return self.but(rows=np.concatenate([self.rows, other.rows]), width=max(self.width, other.width))

    def encoded_by(
        self, encode: Callable[[Texts], tuple[Any, int]], *, width: int = 0, how: str = "", cut: str = ""
    ) -> "TextRows":
        """Return the same texts, to be encoded.

        Args:
            encode: turns texts, or pairs, into token ids, and says how many it has cut.
            width: to how many token ids each text is padded; 0 for the longest of those that are encoded together.
            how: what tells this ``encode`` from others.
            cut: what is said of texts that it cuts.
        """
        return self.but(encode=encode, width=width, _how=how, cut=cut)

    def texts(self, positions: Sequence[int]) -> Texts:
        """Return the texts at some positions, or pairs of them.

        Raises:
            UserError: if one is empty.
        """
        rows = self.rows[np.asarray(positions, np.int64)].tolist()
        if not rows:
            return []
        held = self.table[rows]
        columns = [held[column].to_pylist() for column in self.columns]
        for column, texts in zip(self.columns, columns, strict=True):
            for row, text in zip(rows, texts, strict=True):
                if not isinstance(text, str) or not text.split():
                    raise UserError(
                        f"Text {row} of column {column} of {self.source} is empty. Fill it in, or leave the sample out."
                    )
        return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))

    def __iter__(self) -> Iterator[Any]:
        """Yield all texts, or pairs."""
        for begin in range(0, len(self), CHUNK):
            yield from self.texts(range(begin, min(begin + CHUNK, len(self))))

    def read_some(self, positions: Sequence[int]) -> Read:
        """Read and encode texts: token ids, or what the tokenizer makes, each of shape ``(B, L)``."""
        assert self.encode is not None
        x, cut = self.encode(self.texts(positions))

        def padded(each: Tensor) -> Tensor:
            return pad(each, (0, self.width - each.shape[1])) if self.width else each

        return Read(list(positions), map_tensors(padded, x), [], Counter({self.cut: cut} if cut else {}))

    def name(self, position: int) -> str:
        """Return which text it is."""
        return f"Text {self.rows[position]}"

    def how(self) -> str:
        """Return by which words or which tokenizer texts are encoded."""
        return f"texts {self._how}"

    def traits(self, most: int | None) -> Iterator[bytes]:
        """Yield all texts: they are read quickly."""
        for sample in self:
            for text in (sample,) if isinstance(sample, str) else sample:
                yield b"%d " % len(text) + text.encode("utf8", "surrogatepass")
