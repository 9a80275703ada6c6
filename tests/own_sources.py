"""Folders and parquet files of own images and texts, and the data modules of each: shared by the tests of streamed data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import writers
from tiny_tokenizers import write_tokenizer

from ldmi_lightning.datamodules import HFDataModule, ImageFolderDataModule, NoisyDataModule

PHOTOS: dict[str, Any] = {"image_column": "image", "image_size": 6, "class_names": ["a", "b"], "batch_size": 8}
TEXTS: dict[str, Any] = {"text_column": "text", "class_names": ["bad", "good"], "batch_size": 8}
Make = Callable[..., NoisyDataModule]


def folder_of_images(root: Path) -> Make:
    writers.write_image_folders(root / "photos", {"cat": 20, "dog": 20})
    return lambda **options: ImageFolderDataModule(str(root / "photos"), 6, **{"batch_size": 8, **options})


def shards(root: Path, sizes: tuple[int, ...] = (25, 0, 15), broken: int | None = None) -> Path:
    """Write parquet shards of images; the image at position ``broken`` is none."""
    rng, at = np.random.RandomState(0), 0
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    root.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        labels = [(at + i) % 2 for i in range(size)]
        cells = [writers.cell(writers.picture(rng, y / 2, (9, 7, 3))) for y in labels]
        if broken is not None and at <= broken < at + size:
            cells[broken - at] = {"bytes": b"no image", "path": None}
        rows = {"image": cells, "label": labels}
        name = f"train-{number:05}-of-{len(sizes):05}.parquet"
        datasets.Dataset.from_dict(rows, features).to_parquet(root / name)
        at += size
    return root


def parquet_of_images(root: Path) -> Make:
    shards(root / "images")
    return lambda **options: HFDataModule(str(root / "images"), **{**PHOTOS, **options})


def parquet_of_texts(root: Path) -> Make:
    writers.write_texts(root / "texts", {"train": 40, "test": 13})
    return lambda **options: HFDataModule(str(root / "texts"), **{**TEXTS, **options})


def parquet_of_tokens(root: Path) -> Make:
    writers.write_texts(root / "texts", {"train": 40, "test": 13})
    tokenizer = str(write_tokenizer(root / "tokenizer"))
    return lambda **options: HFDataModule(
        str(root / "texts"), tokenizer=tokenizer, max_tokens=6, **{**TEXTS, **options}
    )


SOURCES = [folder_of_images, parquet_of_images, parquet_of_texts, parquet_of_tokens]
