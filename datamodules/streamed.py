"""Data sets too large for memory: workers decode images of one size to uint8, and the device does the rest."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms.v2 import functional as F

from ldmi_lightning.batch import Batch

from .loaders import IndexLoader, Split


class ImageFiles:
    """Image files of one split, which are read when they are needed.

    Args:
        paths: one file for each sample.
        size: height and width to which each image is brought.
    """

    def __init__(self, paths: Sequence[str] | NDArray[np.str_], size: int) -> None:
        self.paths = np.asarray(paths)
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, where: slice | NDArray[np.int64]) -> "ImageFiles":
        return ImageFiles(self.paths[where], self.size)

    def read(self, position: int) -> Tensor:
        """Return one image, uint8, shape ``(3, size, size)``."""
        image = decode_jpeg(read_file(str(self.paths[position])), mode=ImageReadMode.RGB)
        return F.resize(image, [self.size, self.size], antialias=True)


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """Reads whole batches in a worker: what is asked for is a batch of positions."""

    def __init__(self, files: ImageFiles) -> None:
        self.files = files

    def __getitem__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        size = self.files.size
        images = torch.empty(len(positions), 3, size, size, dtype=torch.uint8)
        for row, position in enumerate(positions.tolist()):
            images[row] = self.files.read(position)
        return positions, images


class StreamedLoader(IndexLoader):
    """Reads batches of a streamed split in worker processes; see :class:`~.loaders.IndexLoader`.

    Args:
        split: the data; its inputs are :class:`ImageFiles`.
        num_workers: processes that read; they stay alive over the epochs. Nothing that they do is random.
    """

    def __init__(self, split: Split, *args: Any, num_workers: int = 0, **kwargs: Any) -> None:
        super().__init__(split, *args, **kwargs)
        self.reader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
            _Batches(split.x),
            batch_size=None,
            sampler=_Order(self),
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=self.device.type == "cuda",
        )

    def __iter__(self) -> Iterator[Batch]:
        for positions, images in self.reader:
            index = positions.to(self.device, non_blocking=True)
            x = self.transform(images.to(self.device, non_blocking=True))
            yield Batch(x, self.split.y.index_select(0, index), index, self.split.y_clean.index_select(0, index))


class _Order:
    """The batches of the epoch that the loader stands at."""

    def __init__(self, loader: IndexLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Tensor]:
        return self.loader.batches()

    def __len__(self) -> int:
        return len(self.loader)
