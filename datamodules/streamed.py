"""Data sets too large for memory: workers decode image files to uint8 of one size, and the device does the rest."""

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torchvision.transforms.v2 import functional as F

from ldmi_lightning import files
from ldmi_lightning.batch import Batch
from ldmi_lightning.errors import UserError
from ldmi_lightning.saying import say

from .images import READER, UnreadableImage, read_image
from .loaders import IndexLoader, Split

CACHE_QUALITY = 95


class ImageFiles:
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
    """

    def __init__(
        self,
        paths: Sequence[str] | NDArray[np.bytes_],
        size: int,
        *,
        root: str | Path = "",
        cache: str | Path | None = None,
        skip_broken: bool = False,
    ) -> None:
        # Bytes take a quarter of the memory of text, and a process that is forked shares an array.
        self.paths = paths if isinstance(paths, np.ndarray) else np.array([os.fsencode(path) for path in paths])
        self.size = size
        self.root = Path(root).absolute()
        self.cache = Path(cache).absolute() if cache is not None else None
        self.skip_broken = skip_broken
        self.left_out: set[int] = set()
        """Positions of images that this process has left out so far."""
        self.noted: set[str] = set()
        """What this process has said so far that is done to some images."""

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, where: slice | NDArray[np.int64]) -> "ImageFiles":
        return ImageFiles(self.paths[where], self.size, root=self.root, cache=self.cache, skip_broken=self.skip_broken)

    def __add__(self, other: "ImageFiles") -> "ImageFiles":
        """Return the files of two splits of one data set, one after the other."""
        paths = np.concatenate([self.paths, other.paths])
        return ImageFiles(paths, self.size, root=self.root, cache=self.cache, skip_broken=self.skip_broken)

    def path(self, position: int) -> Path:
        """Return where an image is."""
        return self.root / os.fsdecode(self.paths[position])

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


class _Read(NamedTuple):
    """What a worker has read: positions, their images ``(B, size, size, 3)``, what could not be read, what was done to some."""

    positions: list[int]
    images: Tensor
    broken: list[tuple[int, str]]
    notes: Counter[str]


class _Batches(Dataset[_Read | UserError]):
    """Reads whole batches: what is asked for is a batch of positions."""

    def __init__(self, files: ImageFiles) -> None:
        self.files = files

    def __getitem__(self, positions: Tensor) -> _Read | UserError:
        try:
            return self._read(positions.tolist())
        except UserError as error:
            return error  # Raised here, it would come out of a worker as a traceback.

    def _read(self, positions: list[int]) -> _Read:
        size = self.files.size
        # Colours lie innermost, as the decoder leaves them: a batch that is ordered otherwise takes a tenth longer.
        images = torch.empty(len(positions), size, size, 3, dtype=torch.uint8)
        good: list[int] = []
        broken = []
        notes: Counter[str] = Counter()
        for position in positions:
            try:
                images[len(good)] = self.files.read(position, notes).permute(1, 2, 0)
                good.append(position)
            except UnreadableImage as error:
                if not self.files.skip_broken:
                    raise UserError(
                        f"{error}. Repair or replace it, or leave such images out with --data.skip_broken true."
                    ) from error
                broken.append((position, str(error)))
        if get_worker_info() is not None:
            _share(images)
        return _Read(good, images[: len(good)], broken, notes)


def _share(images: Tensor) -> None:
    """Move a batch to shared memory here, since where PyTorch does it later a lack of room is waited out for ever."""
    try:
        images.share_memory_()
    except RuntimeError as error:
        raise UserError(
            f"The workers' shared memory has no room for another batch of {images.nbytes / 1e6:.0f} MB, of which each worker "
            "holds up to three. Give more of it (in Docker: --shm-size 8g), lower --data.num_workers or --data.batch_size, "
            "or read in the main process with --data.num_workers 0."
        ) from error


class StreamedLoader(IndexLoader):
    """Reads batches of a streamed split in worker processes; see :class:`~.loaders.IndexLoader`.

    An image that is left out is missing from its batch, and nothing takes its place: the loss is a mean over the samples
    that are there, and no other sample counts twice.

    Args:
        split: the data; its inputs are :class:`ImageFiles`.
        num_workers: processes that read; they stay alive over the epochs. Nothing that they do is random.
    """

    def __init__(self, split: Split, *args: Any, num_workers: int = 0, **kwargs: Any) -> None:
        super().__init__(split, *args, **kwargs)
        self.files: ImageFiles = split.x
        self.num_workers = num_workers
        self._asked: list[Tensor] = []
        self._reader: DataLoader[_Read | UserError] | None = None
        self._reads: Iterator[_Read | UserError] | None = None

    def __iter__(self) -> Iterator[Batch]:
        self._asked[:] = self.batches()
        if self._reader is None:
            self._reader = self._make_reader()
        self._reads = iter(self._reader)
        # Only `self` may hold the iterator, so that close() ends the workers: a `for` over it would, too, until its end.
        while self._reads is not None and (read := next(self._reads, None)) is not None:
            if isinstance(read, UserError):
                raise read
            self._report(read)
            if self.shuffle_seed is not None and not len(read.positions):
                raise UserError(f"No image of a training batch can be read: {read.broken[0][1]}. Look at --data.root.")
            index = torch.tensor(read.positions, dtype=torch.int64, device=self.device)
            yield self.batch(read.images.to(self.device, non_blocking=True).permute(0, 3, 1, 2).contiguous(), index)

    def _make_reader(self) -> DataLoader[_Read | UserError]:
        return DataLoader(
            _Batches(self.files),
            batch_size=None,
            sampler=self._asked,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # for the workers' seeds, which would be drawn from the global one
        )

    def close(self) -> None:
        """End the worker processes, also in mid-epoch, which then ends; another epoch starts new ones.

        They end with the last reference to what reads from them. Where the garbage collector finds it in a cycle, such as a
        Trainer's, it waits five seconds for each.
        """
        self._reads = self._reader = None

    def _report(self, read: _Read) -> None:
        for what in read.notes.keys() - self.files.noted:
            self.files.noted.add(what)
            say(f"Some of the images are {what}.")
        for position, fault in read.broken:
            if position not in self.files.left_out:
                self.files.left_out.add(position)
                print(f"{fault} and is left out: {len(self.files.left_out)} of {len(self.files):,} so far.", flush=True)
