"""A folder of photographs, and the files and batches that are read of it: shared by the tests of streamed images."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ldmi_lightning.datamodules.image_files import ImageFiles
from ldmi_lightning.datamodules.loaders import Split
from ldmi_lightning.datamodules.streamed import StreamedLoader

N, SIZE = 26, 32


def photograph(seed: int = 0, shape: tuple[int, int] = (60, 45)) -> Image.Image:
    """Return a smooth picture in muted colours, as photographs are."""
    coarse = np.random.RandomState(seed).randint(80, 176, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(shape, Image.Resampling.BICUBIC)


def encode(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, **{"format": "jpeg", "quality": 85, **options})
    return file.getvalue()


JPEG = encode(photograph())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(N):
        (tmp_path / f"{i}.jpg").write_bytes(encode(photograph(i, (40 + i, 70 - i))))
    return tmp_path


def files(folder: Path, **options: Any) -> ImageFiles:
    return ImageFiles([f"{i}.jpg" for i in range(N)], SIZE, root=folder, **options)


def loader(images: ImageFiles, num_workers: int = 0, **options: Any) -> StreamedLoader:
    i = torch.arange(len(images))
    split = Split(images, i + 1000, i + 2000, i + 3000)
    return StreamedLoader(split, 4, nn.Identity(), num_workers=num_workers, **{"shuffle_seed": 1, **options})
