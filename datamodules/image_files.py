"""Images of a split in files of their own, which are read when they are needed, and may be kept small in a cache."""

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ldmi_lightning import files
from ldmi_lightning.errors import UserError
from ldmi_lightning.originals import Original

from .images import READER, UnreadableImage, read_image
from .streamed import Images

CACHE_QUALITY = 95
REMEDY = "Repair or replace it, or leave such images out with --data.skip_broken true."


class ImageFiles(Images):
    """Image files of one split, which are read when they are needed and brought to one size, whatever their shape.

    They are read by :func:`~ldmi_lightning.datamodules.images.read_image`: in colour, upright, without transparency. A JPEG
    file of at least twice the size wanted is decoded at a half, a quarter or an eighth of its own, which is quicker. A file
    that is cut short is unreadable; bytes that changed within a JPEG file are mostly found by nobody, since it holds no
    checksum.

    With a cache each image, once resized, is kept as a JPEG file of quality 95, and what is given out has always gone
    through that file, whether it was there before or not: pixels are 1 grey level off on average (45 dB), and the same in
    each epoch. Files appear in the cache complete or not at all, so that a run may be killed, and runs may share it. They
    stand for the images' paths: images that are moved are kept anew, and who changes one deletes the cache. What an older
    version has kept, which read images otherwise, is not used.

    Args:
        paths: one file for each sample, below ``root``.
        size: height and width to which each image is brought.
        root: folder of the images.
        cache: folder for resized images; ``None`` to resize them anew in each epoch.
        skip_broken: whether an image that cannot be read is left out of its batch, rather than ending the run.
        remedy: what to do about an image that ends it, in a sentence.
    """

    def __init__(
        self,
        paths: Sequence[str] | NDArray[np.bytes_],
        size: int,
        *,
        root: str | Path = "",
        cache: str | Path | None = None,
        skip_broken: bool = False,
        remedy: str = REMEDY,
    ) -> None:
        super().__init__(size, remedy)
        # Bytes take a quarter of the memory of text, and a process that is forked shares an array.
        self.paths = paths if isinstance(paths, np.ndarray) else np.array([os.fsencode(path) for path in paths])
        self.root = Path(root).absolute()
        self.cache = Path(cache).absolute() if cache is not None else None
        self.skip_broken = skip_broken

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, where: slice | NDArray[np.int64]) -> "ImageFiles":
        return self.but(paths=self.paths[where])

    def __add__(self, other: "ImageFiles") -> "ImageFiles":
        """Return the files of two splits of one data set, one after the other."""
        return self.but(paths=np.concatenate([self.paths, other.paths]))

    def path(self, position: int) -> Path:
        """Return where an image is."""
        return self.root / os.fsdecode(self.paths[position])

    def name(self, position: int) -> str:
        """Return where an image is."""
        return str(self.path(position))

    def original(self, position: int) -> Original:
        """Return an image's file."""
        return Original("file", self.path(position))

    def how(self) -> str:
        """Return how inputs are made of what is stored: the size, and whether a cache changes them a little."""
        return f"files {self.size} {self.cache is not None}"

    def traits(self, most: int | None) -> Iterator[bytes]:
        """Yield all names, and the sizes of at most so many files."""
        yield b"\n".join(self.paths.tolist())
        for position in range(0, len(self), 1 if most is None else 1 + len(self) // most):
            path = self.path(position)
            yield b"%d\n" % (path.stat().st_size if path.is_file() else -1)

    def read(self, position: int, notes: Counter[str] | None = None) -> Tensor:
        """Return one image, uint8, shape ``(3, size, size)``.

        Args:
            position: which.
            notes: what was done to the image, where it does not come out of the cache, is counted there.

        Raises:
            UnreadableImage: if it cannot be read.
            UserError: if it cannot be kept in the cache.
        """
        path = self.path(position)
        return self._resized(path, notes) if self.cache is None else self._cached(path, self.cache, notes)

    def _resized(self, path: Path, notes: Counter[str] | None) -> Tensor:
        pixels = read_image(path, at_least=self.size, notes=notes)
        image: Tensor = F.resize(pixels, [self.size, self.size], antialias=True)
        return image

    def _cached(self, path: Path, cache: Path, notes: Counter[str] | None) -> Tensor:
        key = f"{READER} {self.size} {CACHE_QUALITY} {path}"
        name = hashlib.blake2b(key.encode("utf8", "surrogateescape"), digest_size=16)
        kept = cache / name.hexdigest()[:2] / f"{name.hexdigest()[2:]}.jpg"
        try:
            image = read_image(kept)
            if image.shape[1:] == (self.size, self.size):
                return image
        except UnreadableImage:
            pass  # It is not there yet, or did not reach the disk before the machine failed.
        encoded = io.BytesIO()
        Image.fromarray(self._resized(path, notes).permute(1, 2, 0).numpy()).save(
            encoded, "jpeg", quality=CACHE_QUALITY
        )
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            files.write(kept, encoded.getvalue())
        except OSError as error:
            raise UserError(
                f"--data.cache {cache} cannot keep another image ({error.strerror}). Make room, choose another folder, or "
                "leave it out; what is there already is whole, and will be used again."
            ) from error
        return read_image(encoded.getvalue())
