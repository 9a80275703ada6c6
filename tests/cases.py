"""The data sets that one contract is tested over, each in a small edition that is written to disk."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import writers
from tiny_tokenizers import write_tokenizer
from torch import Tensor, nn

from ldmi_lightning.datamodules import (
    CIFAR10DataModule,
    Clothing1MDataModule,
    DigitsDataModule,
    DogsVsCatsDataModule,
    Examples,
    FashionMNISTDataModule,
    HFDataModule,
    ImageFolderDataModule,
    MRDataModule,
    NoisyDataModule,
    TensorDataModule,
)
from ldmi_lightning.datamodules.image_files import ImageFiles
from ldmi_lightning.datamodules.transforms import RandomFlip
from ldmi_lightning.noise import Noise

EVERY = ("train", "val", "test")
GREY_28, COLOUR_32, COLOUR_16 = (1, 28, 28), (3, 32, 32), (3, 16, 16)


class Case(NamedTuple):
    """A datamodule over a tiny data set, and what is known of it beforehand.

    Attributes:
        make: makes it, given ``noise``, over the folder that ``write`` has filled.
        write: writes the data set.
        num_classes: C.
        shape: of one input of the model (of several tensors, of each); ``None`` where it differs from split to split.
        stored: type of the stored inputs (of several tensors, of each).
        one_stream: whether noise runs in one stream through training and validation.
        noisy: splits that noise goes into.
        numbered: splits through which the original index counts.
        given_true: splits whose labels are taken as true while no noise is injected, and
        true: while noise is injected.
        streamed: whether worker processes read it.
    """

    make: Callable[..., NoisyDataModule]
    write: Callable[[Path], Path]
    num_classes: int
    shape: tuple[int, ...] | None
    stored: Any = torch.uint8
    one_stream: bool = False
    noisy: tuple[str, ...] = ("train", "val")
    numbered: tuple[str, ...] = EVERY
    given_true: tuple[str, ...] = EVERY
    true: tuple[str, ...] = EVERY
    streamed: bool = False


def from_root(cls: type[NoisyDataModule], **options: Any) -> Callable[..., NoisyDataModule]:
    return lambda root, **more: cls(**{"root": str(root), **options, **more})


def from_source(**options: Any) -> Callable[..., NoisyDataModule]:
    return lambda root, **more: HFDataModule(str(root), **options, **more)


def arrays(root: Path, **options: Any) -> TensorDataModule:
    rng = np.random.RandomState(0)
    y = np.arange(150) % 3
    return TensorDataModule(rng.randn(150, 5) + y[:, None], y, val_share=0.2, **options)


class Sheet(NoisyDataModule):
    """An image and a row of a table for each sample."""

    def __init__(self, noise: Noise | None = None, batch_size: int = 16) -> None:
        super().__init__(3, ["a", "b", "c"], noise, batch_size)

    def load(self) -> Mapping[str, Examples]:
        rng = np.random.RandomState(0)
        y = np.arange(150) % 3
        x = {
            "image": torch.from_numpy(rng.randint(0, 80, (150, 1, 4, 4)) + 80 * y[:, None, None, None]).to(torch.uint8),
            "row": torch.from_numpy(rng.randn(150, 5) + y[:, None]).float(),
        }
        every = Examples(x, y, np.arange(150))
        return {
            "train": every.take(slice(0, 90)),
            "val": every.take(slice(90, 120)),
            "test": every.take(slice(120, 150)),
        }

    def eval_transform(self) -> nn.Module:
        return Scaled()


class Scaled(nn.Module):
    """Grey values from 0 to 1, and the row as it is."""

    def forward(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**x, "image": x["image"] / 255}


def tokenised(root: Path, **options: Any) -> MRDataModule:
    return MRDataModule(root=str(root / "data"), tokenizer=str(root / "tokenizer"), **options)


def with_tokenizer(folder: Path) -> Path:
    pytest.importorskip("transformers")
    write_tokenizer(folder / "tokenizer")
    writers.write_texts(folder / "data", {"train": 80, "validation": 50, "test": 20})
    return folder


def nothing(folder: Path) -> Path:
    return folder


def images(columns: tuple[str, str], **options: Any) -> Callable[[Path], Path]:
    return partial(writers.write_images, columns=columns, **options)


def tree(folder: Path) -> Path:
    """Write a train and a test split of two classes; validation has to come out of the former."""
    writers.write_image_folders(folder / "train", {"cat": 70, "dog": 50}, "png")
    writers.write_image_folders(folder / "test", {"cat": 10, "dog": 12})
    return folder


MNIST = {"sizes": {"train": 240, "test": 40}, "shape": (28, 28)}
OWN = {"given_true": ("test",)}
CASES = {
    "digits": Case(lambda root, **options: DigitsDataModule(**options), nothing, 10, (1, 8, 8)),
    "fashion bag": Case(
        from_root(FashionMNISTDataModule, classes="bag"),
        images(("image", "label"), **MNIST),
        *(2, GREY_28),
        one_stream=True,
        numbered=("train", "val"),
    ),
    "fashion all": Case(
        from_root(FashionMNISTDataModule, classes="all"),
        images(("image", "label"), **MNIST),
        *(10, GREY_28),
        one_stream=True,
        numbered=("train", "val"),
    ),
    "cifar10": Case(
        from_root(CIFAR10DataModule),
        images(("img", "label"), sizes={"train": 250, "test": 40}, shape=(32, 32, 3)),
        *(10, COLOUR_32),
        numbered=("train", "val"),
    ),
    "dogs vs cats": Case(
        from_root(DogsVsCatsDataModule),
        images(("image", "labels"), sizes={"train": 200}, classes=2),
        *(2, (3, 150, 150)),
    ),
    "mr random": Case(
        from_root(MRDataModule, split="random"),
        partial(writers.write_texts, sizes={"train": 80, "validation": 50, "test": 20}),
        *(2, None, torch.int16),
    ),
    "mr hub": Case(
        from_root(MRDataModule, split="hub"),
        partial(writers.write_texts, sizes={"train": 80, "validation": 50, "test": 20}),
        *(2, None, torch.int16),
    ),
    "mr tokenizer": Case(tokenised, with_tokenizer, 2, None, (torch.int16, torch.int8)),
    "clothing1m": Case(
        from_root(Clothing1MDataModule, num_workers=0),
        partial(writers.write_clothing1m, sizes={"train": 56, "val": 28, "test": 28}),
        *(14, (3, 224, 224), ImageFiles),
        noisy=("train",),
        given_true=("val", "test"),
        true=("val", "test"),
        streamed=True,
    ),
    "hub images": Case(
        from_source(class_names=["a", "b", "c"], image_column="photo", image_size=16, augmentation=RandomFlip()),
        images(("photo", "label"), sizes={"train": 120, "validation": 30, "test": 30}, classes=3),
        *(3, COLOUR_16),
        **OWN,
    ),
    "hub texts": Case(
        from_source(class_names=["bad", "good"], text_column="review", label_column="stars"),
        partial(writers.write_texts, sizes={"train": 150}, columns=("review", "stars")),
        *(2, None, torch.int16),
        **OWN,
    ),
    "image folders": Case(
        from_root(ImageFolderDataModule, image_size=16, val_share=0.3, augmentation=RandomFlip()),
        tree,
        *(2, COLOUR_16),
        **OWN,
    ),
    "arrays": Case(arrays, nothing, 3, (5,), torch.float32, **OWN),
    "sheet": Case(
        lambda root, **options: Sheet(**options), nothing, 3, ((1, 4, 4), (5,)), (torch.uint8, torch.float32)
    ),
}
