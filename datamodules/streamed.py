"""Data sets too large for memory: inputs that are read batch by batch, images by worker processes."""

import copy
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ldmi_lightning.batch import Batch
from ldmi_lightning.errors import UserError
from ldmi_lightning.inputs import map_tensors
from ldmi_lightning.originals import Original
from ldmi_lightning.saying import say

from .images import UnreadableImage
from .loaders import IndexLoader, Split


class Read(NamedTuple):
    """A part of a split that was read.

    Attributes:
        positions: those that could be read, in the order that was asked for.
        x: their inputs, one for each; images lie as the decoder leaves them, shape ``(B, H, W, 3)``.
        broken: of each other one the position, and what is wrong.
        notes: what was done to some of them, in words that follow a number.
    """

    positions: list[int]
    x: Any
    broken: list[tuple[int, str]]
    notes: Counter[str]


class Streamed(ABC):
    """Inputs of one split that are not held in memory: whoever needs some reads them.

    Attributes:
        left_out: positions that this process has left out so far, since they could not be read.
        noted: what this process has said so far that is done to some.
    """

    in_workers: ClassVar[bool] = True
    """Whether reading is worth processes of its own."""
    what: ClassVar[str] = "inputs"
    skip_broken: bool = False
    """Whether what cannot be read is left out of its batch, rather than ending the run."""

    def __init__(self) -> None:
        self.left_out: set[int] = set()
        self.noted: set[str] = set()

    def but(self, **attributes: Any) -> Self:
        """Return a copy with some attributes replaced, which has left out nothing so far."""
        other = copy.copy(self)
        vars(other).update(attributes, left_out=set(), noted=set())
        return other

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def __getitem__(self, where: slice | NDArray[np.int64]) -> Self:
        """Return some of the samples, which are read as late."""

    @abstractmethod
    def __add__(self, other: Self) -> Self:
        """Return the samples of two splits of one data set, one after the other."""

    @abstractmethod
    def read_some(self, positions: Sequence[int]) -> Read:
        """Read the inputs at some positions.

        Raises:
            UserError: if one cannot be read, and is not to be left out.
        """

    @abstractmethod
    def traits(self, most: int | None) -> Iterator[bytes]:
        """Yield what tells these inputs from others, without decoding them.

        Args:
            most: so many samples may be looked at one by one; ``None`` for all.
        """

    @abstractmethod
    def name(self, position: int) -> str:
        """Return where a sample is, for messages."""

    def arrange(self, x: Any, device: torch.device) -> Any:
        """Return what :meth:`read_some` gave as it is stored where inputs are held in memory, on a device."""
        return map_tensors(lambda each: each.to(device, non_blocking=True), x)

    @abstractmethod
    def how(self) -> str:
        """Return how inputs are made of what is stored, as far as other pixels or token ids come of it."""

    def stored(self, positions: Sequence[int]) -> Any:
        """Return the inputs at some positions as they are stored where inputs are held in memory; see :meth:`read_some`."""
        return self.arrange(self.read_some(positions).x, torch.device("cpu"))

    def kinds(self) -> dict[str, list[Any]] | None:
        """Return type and shape of each tensor of a sample, by where it stands; ``None`` where nobody needs to know."""
        return None

    def original(self, position: int) -> Original | None:
        """Return what a sample was before it became numbers."""
        return None


class Images(Streamed):
    """Images that are decoded when they are needed, to uint8 in colour and of one size.

    Args:
        size: height and width to which each image is brought, whatever its shape.
        remedy: what to do about an image that cannot be read, in a sentence.
    """

    what = "images"

    def __init__(self, size: int, remedy: str) -> None:
        super().__init__()
        self.size, self.remedy = size, remedy

    @abstractmethod
    def read(self, position: int, notes: Counter[str] | None = None) -> Tensor:
        """Return one image, uint8, shape ``(3, size, size)``.

        Raises:
            UnreadableImage: if it cannot be read.
        """

    def read_each(self, positions: Sequence[int], notes: Counter[str]) -> Iterator[Tensor | UnreadableImage]:
        """Yield each image, or why it cannot be read."""
        for position in positions:
            try:
                yield self.read(position, notes)
            except UnreadableImage as error:
                yield error

    def read_some(self, positions: Sequence[int]) -> Read:
        """Read images: shape ``(B, size, size, 3)``."""
        # Colours lie innermost, as the decoder leaves them: a batch that is ordered otherwise takes a tenth longer.
        images = torch.empty(len(positions), self.size, self.size, 3, dtype=torch.uint8)
        good: list[int] = []
        broken = []
        notes: Counter[str] = Counter()
        for position, image in zip(positions, self.read_each(positions, notes), strict=True):
            if isinstance(image, Tensor):
                images[len(good)] = image.permute(1, 2, 0)
                good.append(position)
            elif self.skip_broken:
                broken.append((position, str(image)))
            else:
                raise UserError(f"{image}. {self.remedy}") from image
        return Read(good, images[: len(good)], broken, notes)

    def arrange(self, x: Any, device: torch.device) -> Tensor:
        """Return images, shape ``(B, 3, size, size)``."""
        images: Tensor = x.to(device, non_blocking=True).permute(0, 3, 1, 2).contiguous()
        return images

    def kinds(self) -> dict[str, list[Any]]:
        """Return type and shape of an image."""
        return {"x": ["uint8", [3, self.size, self.size]]}


class _Batches(Dataset[Read | UserError]):
    """Reads whole batches: what is asked for is a batch of positions."""

    def __init__(self, inputs: Streamed) -> None:
        self.inputs = inputs

    def __getitem__(self, positions: Tensor) -> Read | UserError:
        try:
            read = self.inputs.read_some(positions.tolist())
            if get_worker_info() is not None:
                map_tensors(_share, read.x)
            return read
        except UserError as error:
            return error  # Raised here, it would come out of a worker as a traceback.


def _share(batch: Tensor) -> None:
    """Move a batch to shared memory here, since where PyTorch does it later a lack of room is waited out for ever."""
    try:
        batch.share_memory_()
    except RuntimeError as error:
        raise UserError(
            f"The workers' shared memory has no room for another batch of {batch.nbytes / 1e6:.0f} MB, of which each worker "
            "holds up to three. Give more of it (in Docker: --shm-size 8g), lower --data.num_workers or --data.batch_size, "
            "or read in the main process with --data.num_workers 0."
        ) from error


class StreamedLoader(IndexLoader):
    """Reads batches of a streamed split, where it is worth it in worker processes; see :class:`~.loaders.IndexLoader`.

    An image that is left out is missing from its batch, and nothing takes its place: the loss is a mean over the samples
    that are there, and no other sample counts twice.

    Args:
        split: the data; its inputs are :class:`Streamed`.
        num_workers: processes that read; they stay alive over the epochs. Nothing that they do is random.
    """

    def __init__(self, split: Split, *args: Any, num_workers: int = 0, **kwargs: Any) -> None:
        super().__init__(split, *args, **kwargs)
        self.inputs: Streamed = split.x
        self.num_workers = num_workers if self.inputs.in_workers else 0
        self._asked: list[Tensor] = []
        self._reader: DataLoader[Read | UserError] | None = None
        self._reads: Iterator[Read | UserError] | None = None

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
            yield self.batch(self.inputs.arrange(read.x, self.device), index)

    def _make_reader(self) -> DataLoader[Read | UserError]:
        return DataLoader(
            _Batches(self.inputs),
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

    def _report(self, read: Read) -> None:
        for what in read.notes.keys() - self.inputs.noted:
            self.inputs.noted.add(what)
            say(f"Some of the {self.inputs.what} are {what}.")
        for position, fault in read.broken:
            if position not in self.inputs.left_out:
                self.inputs.left_out.add(position)
                print(
                    f"{fault} and is left out: {len(self.inputs.left_out)} of {len(self.inputs):,} so far.", flush=True
                )


def reading_processes(num_workers: int | None) -> int:
    """Return how many processes read: as many as are asked for, or one for each core but one, and no more than 8."""
    if num_workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(8, cores - 1)
    if num_workers < 0:
        raise UserError(f"--data.num_workers must be at least 0, but got {num_workers}.")
    return num_workers
