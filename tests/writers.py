"""Small data sets, written in the layouts that the datamodules read."""

import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldmi_lightning.datamodules.clothing1m_lists import AUTHORS

Rows = Mapping[str, Sequence[Any]]


def encoded(pixels: NDArray[np.uint8], kind: str = "png") -> bytes:
    """Return an image file's bytes: grey for shape ``(H, W)``, colour for ``(H, W, 3)``."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def cell(pixels: NDArray[np.uint8], kind: str = "png") -> dict[str, Any]:
    """Return what a column of images holds."""
    return {"bytes": encoded(pixels, kind), "path": None}


def write_parquet(folder: Path, features: Mapping[str, Any], splits: Mapping[str, Rows]) -> Path:
    """Write splits as on the hub: a parquet file each."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, columns in splits.items():
        table = datasets.Dataset.from_dict(dict(columns), datasets.Features(dict(features)))
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def write_images(
    folder: Path,
    columns: tuple[str, str],
    sizes: Mapping[str, int],
    *,
    classes: int = 10,
    shape: tuple[int, ...] | None = None,
) -> Path:
    """Write a hub data set of images and labels: random pixels, the mean of which depends on the class.

    Args:
        folder: where to.
        columns: names of the columns of images and of labels.
        sizes: number of samples by split.
        classes: C; every class comes equally often.
        shape: of each image; ``None`` for a height and width of its own, between 8 and 24, in colour.
    """
    rng = np.random.RandomState(0)
    image, label = columns
    splits = {}
    for split, size in sizes.items():
        labels = rng.permutation(np.arange(size) % classes)
        shapes = [shape or (*rng.randint(8, 25, 2), 3) for _ in labels]
        pixels = [picture(rng, y / classes, each) for y, each in zip(labels, shapes, strict=True)]
        splits[split] = {image: [cell(each) for each in pixels], label: labels.tolist()}
    return write_parquet(folder, {image: datasets.Image(), label: datasets.Value("int64")}, splits)


def picture(rng: np.random.RandomState, tone: float, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return noise about a grey value: ``tone`` from 0 (dark) to 1 (bright)."""
    return (rng.randint(0, 128, shape) + 127 * tone).astype(np.uint8)


def write_texts(folder: Path, sizes: Mapping[str, int], columns: tuple[str, str] = ("text", "label")) -> Path:
    """Write a hub data set of sentences of 1 to 12 words, negative (0) or positive (1)."""
    rng = np.random.RandomState(0)
    text, label = columns
    splits = {}
    for split, size in sizes.items():
        labels = rng.permutation(np.arange(size) % 2).tolist()
        words = [
            ["bad", "good"][y : y + 1] + [f"word{i}" for i in rng.randint(50, size=rng.randint(12))] for y in labels
        ]
        splits[split] = {text: [" ".join(each) for each in words], label: labels}
    return write_parquet(folder, {text: datasets.Value("string"), label: datasets.Value("int64")}, splits)


def write_image_folders(folder: Path, sizes: Mapping[str, int], kind: str = "jpeg") -> Path:
    """Write ``sizes[name]`` images of different shapes into ``folder/name``, later names brighter."""
    rng = np.random.RandomState(0)
    for number, (name, size) in enumerate(sizes.items()):
        (folder / name).mkdir(parents=True)
        for i in range(size):
            pixels = picture(rng, number / len(sizes), (*rng.randint(8, 25, 2), 3))
            (folder / name / f"{i:03}.{kind.replace('jpeg', 'jpg')}").write_bytes(encoded(pixels, kind))
    return folder


def write_clothing1m(folder: Path, sizes: Mapping[str, int]) -> Path:
    """Write a tree in the layout of the authors of L_DMI: lists and photographs of fourteen classes."""
    rng = np.random.RandomState(0)
    lists = {"train": "noisy_train.txt", "val": "clean_val.txt", "test": "clean_test.txt"}
    (folder / "annotations").mkdir(parents=True)
    for split, size in sizes.items():
        lines = []
        for i in range(size):
            name = f"images/{i % 10}/{i % 7}/{split}{i},{i}.jpg"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(encoded(picture(rng, i % 14 / 14, (*rng.randint(40, 90, 2), 3)), "jpeg"))
            lines.append(f"{name} {i % 14}\n")
        (folder / "annotations" / lists[split]).write_text("".join(lines))
    return folder


def write_official(folder: Path, sizes: dict[str, int]) -> Path:
    """Write Clothing1M's tree with the data set's own lists, whose labels stand in another order."""
    write_clothing1m(folder, sizes)
    labels: dict[str, list[str]] = {"noisy": [], "clean": []}
    for name in AUTHORS.values():
        lines = (folder / "annotations" / name).read_text().splitlines()
        labels[name[:5]] += lines
        keys = "".join(f"{line.split()[0]}\n" for line in lines)
        (folder / f"{name.removesuffix('.txt')}_key_list.txt").write_text(keys)
    for kind, lines in labels.items():
        (folder / f"{kind}_label_kv.txt").write_text("".join(f"{line}\n" for line in sorted(lines)))
    shutil.rmtree(folder / "annotations")
    return folder
