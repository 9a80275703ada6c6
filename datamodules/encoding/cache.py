"""Features on disk: shards of a fixed number of samples, which are there whole or not at all."""

import errno
import hashlib
import io
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldmi_lightning import files
from ldmi_lightning.errors import UserError

SHARD = 256
"""Samples in a shard: so many at most are computed anew where a run was killed."""
DESCRIPTION = "description.json"
ABANDONED_SECONDS = 3600
"""A file that has been unfinished for so long is left over from a process that was killed."""


def key_of(content: Mapping[str, Any]) -> str:
    """Return 32 hex digits that stand for what features are made from.

    >>> key_of({"encoder": "a", "pass": 0}) == key_of({"pass": 0, "encoder": "a"}) != key_of({"encoder": "b", "pass": 0})
    True
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


class FeatureFolder:
    """The features of one pass over one split: ``features-00000.npy`` and so on, and what they are in words.

    A file's name appears once its content is whole, so that a process may be killed, and processes may share a folder.

    Args:
        folder: where; made when the first shard is written.
        samples: N.
        dtype: ``"float32"`` or ``"float16"``.
        option: how the user named the folder above, for the errors.
    """

    def __init__(self, folder: Path, samples: int, dtype: str, option: str) -> None:
        self.folder, self.samples, self.dtype, self.option = folder, samples, np.dtype(dtype), option
        self.shards = -(-samples // SHARD)

    def positions(self, shard: int) -> range:
        """Return the samples of a shard.

        >>> FeatureFolder(Path("f"), 300, "float32", "").positions(1)
        range(256, 300)
        """
        return range(shard * SHARD, min((shard + 1) * SHARD, self.samples))

    def path(self, shard: int) -> Path:
        """Return the file of a shard."""
        return self.folder / f"features-{shard:05}.npy"

    def missing(self) -> tuple[list[int], list[Path]]:
        """Return the shards that are not there, or are damaged, and the files of the latter."""
        missing, damaged, width = list[int](), list[Path](), None
        for shard in range(self.shards):
            found = self._open(shard)
            if found is not None and width in (None, found.shape[1]):
                width = found.shape[1]
                continue
            missing.append(shard)
            if self.path(shard).exists():
                damaged.append(self.path(shard))
        return missing, damaged

    def width(self) -> int | None:
        """Return D as far as it is known from a shard."""
        found = next(filter(lambda each: each is not None, map(self._open, range(self.shards))), None)
        return None if found is None else int(found.shape[1])

    def _open(self, shard: int) -> NDArray[np.floating] | None:
        try:
            found: NDArray[np.floating] = np.load(self.path(shard), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):  # not there, or cut short
            return None
        whole = found.ndim == 2 and len(found) == len(self.positions(shard)) and found.dtype == self.dtype
        return found if whole else None

    def write(self, shard: int, rows: NDArray[np.floating]) -> None:
        """Write a shard.

        Raises:
            UserError: the folder takes no more.
        """
        content = io.BytesIO()
        np.save(content, rows.astype(self.dtype, copy=False), allow_pickle=False)
        self._write(self.path(shard), content.getvalue())

    def describe(self, words: Mapping[str, Any]) -> None:
        """Write what the features are, unless that is there already."""
        if not (self.folder / DESCRIPTION).exists():
            text = json.dumps(words, indent=2, ensure_ascii=False)
            self._write(self.folder / DESCRIPTION, f"{text}\n".encode())

    def _write(self, path: Path, content: bytes) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            files.write(path, content)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise UserError(
                f"{self.option} cannot keep more features ({error.strerror}). {'Make room' if full else 'Look at it'}, or choose "
                "another folder; what is there is whole, and is used again."
            ) from error

    def remove_abandoned(self) -> None:
        """Remove what killed processes have left unfinished."""
        for path in self.folder.glob(f"*{files.UNFINISHED}"):
            try:
                if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()
            except OSError:  # another process was quicker
                continue

    def __iter__(self) -> Iterator[NDArray[np.floating]]:
        for shard in range(self.shards):
            found = self._open(shard)
            if found is None:
                raise UserError(
                    f"{self.path(shard)} is not there, though every process has written its share. On several machines "
                    f"{self.option} must be a folder that all of them see; otherwise somebody has removed it: run again."
                )
            yield found

    def read(self, into: Tensor | None = None) -> Tensor:
        """Return all features, shape ``(N, D)``, in memory.

        Args:
            into: what takes them, of that shape and of any strides; ``None`` for a new tensor.
        """
        begin = 0
        for rows in self:
            if into is None:
                into = torch.empty(self.samples, rows.shape[1], dtype=torch.from_numpy(np.empty(0, self.dtype)).dtype)
            into[begin : begin + len(rows)] = torch.from_numpy(np.array(rows))
            begin += len(rows)
        assert into is not None
        return into
