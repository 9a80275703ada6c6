"""Dogs vs. Cats: photographs of two classes, brought to one size."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ldmi_lightning.csv_file import read_csv
from ldmi_lightning.errors import UserError
from ldmi_lightning.label_table import whole_number
from ldmi_lightning.noise import Noise
from ldmi_lightning.saying import say

from .base import Examples, NoisyDataModule
from .checks import check_labels
from .hub import load_hub_dataset, read_labels
from .images import decode_images
from .splits import SPLITS, seeded_split
from .transforms import IMAGENET_MEAN, IMAGENET_STD, Normalise, RandomRotation

HUB_ID = "microsoft/cats_vs_dogs"
SHARES = {"val": 0.18, "test": 0.10}
"""As the authors of L_DMI split MR: a tenth for the test, then a fifth of the rest for validation."""


class DogsVsCatsDataModule(NoisyDataModule):
    """The images of ``microsoft/cats_vs_dogs``, resized once, when they are loaded: cat → 0, dog → 1.

    The split of Xu et al. (2019) was not published. Here 72 % of the images are to train on, 18 % for validation and 10 %
    for the test, class by class, by a draw that is the same in every run; or lists say otherwise. Noise begins anew at its
    seed for each split. Training images are flipped with probability 1/2, and rotated by up to 45 degrees to either side.

    Args:
        lists: folder with ``train.csv``, ``val.csv`` and ``test.csv``: a first line that names the column ``index``, then
            the position of one image a line, counted from 0 in the order of the data set.
        noise: injector for training and validation labels.
        batch_size: size of the GLOBAL batch.
        root: local folder that ``datasets.load_dataset`` reads; ``None`` for the hub.
        image_size: height and width to which each image is brought; 150 is the paper's.
    """

    resizing = "decoded"

    def __init__(
        self,
        lists: str | None = None,
        noise: Noise | None = None,
        batch_size: int = 128,
        root: str | None = None,
        image_size: int = 150,
    ) -> None:
        if image_size < 1:
            raise UserError(f"--data.image_size must be at least 1, but got {image_size}.")
        super().__init__(2, ["cat", "dog"], noise, batch_size, root)
        self.lists = lists
        self.image_size = image_size

    def prepare_data(self) -> None:
        """Download, on one process alone."""
        load_hub_dataset(self.root, HUB_ID)

    def load(self) -> Mapping[str, Examples]:
        """Return the splits; a sample's index is its position in the whole data set."""
        data = load_hub_dataset(self.root, HUB_ID, splits=("train",), columns=("image", "labels"))["train"]
        labels = read_labels(data, "labels")
        check_labels(labels, self.num_classes, f"The data of {type(self).__name__}")
        if self.lists is not None:
            parts = read_lists(Path(self.lists), len(labels))
        else:
            # In the data set's order: so each image lies near the one before it on the disk.
            parts = {name: np.sort(part) for name, part in seeded_split(labels, SHARES).items()}
        for name, part in parts.items():  # before the images, which take a minute
            check_labels(labels[part], self.num_classes, f"The {name} split of {type(self).__name__}")
        return {
            name: Examples(
                decode_images(data, "image", "RGB", size=self.image_size, positions=part), labels[part], part
            )
            for name, part in parts.items()
        }

    def train_transform(self) -> nn.Module:
        """Rotate, flip and normalise."""
        return nn.Sequential(RandomRotation(45, flip=True), self.eval_transform())

    def eval_transform(self) -> nn.Module:
        """Normalise with ImageNet's mean and standard deviation."""
        return Normalise(IMAGENET_MEAN, IMAGENET_STD)


def read_lists(folder: Path, n: int) -> dict[str, NDArray[np.int64]]:
    """Read which samples are in which split.

    Args:
        folder: it holds ``train.csv``, ``val.csv`` and ``test.csv``.
        n: number of samples of the data set.

    Returns:
        Positions by split, in the order of its list.

    Raises:
        UserError: if a list is missing, empty or no list, or an entry names no sample, or one that was named before.
    """
    parts: dict[str, NDArray[np.int64]] = {}
    seen: dict[int, str] = {}
    for split in SPLITS:
        path = folder / f"{split}.csv"
        source = f"--data.lists {folder}: {path.name}"
        entries = _read_list(path, source)
        if not entries:
            raise UserError(f"{source} names no sample, but each of {', '.join(SPLITS)} needs at least one.")
        for line, entry in entries:
            where = f"{path.name}, line {line}"
            if not 0 <= entry < n:
                raise UserError(
                    f"--data.lists {folder}: {where} names sample {entry}, but the data set has {n}, 0 to {n - 1}. Are they "
                    "the lists of another data set? Look at --data.root."
                )
            if entry in seen:
                raise UserError(
                    f"--data.lists {folder}: {where} names sample {entry}, which {seen[entry]} has named: "
                    "each sample belongs to one split, once."
                )
            seen[entry] = where
        parts[split] = np.array([entry for _, entry in entries], dtype=np.int64)
    return parts


def _read_list(path: Path, source: str) -> list[tuple[int, int]]:
    """Return the line and the sample of each entry."""
    try:
        found = read_csv(path, ["index"], what=source, skip_blank=True)
    except OSError as error:
        raise UserError(
            f"{source} cannot be read ({error.strerror}). The folder must hold train.csv, val.csv and test.csv."
        ) from error
    if "index" not in found.cells:
        raise UserError(f"{source} must name the column index in its first line, but has {found.names}.")
    for note in found.notes:
        say(note)
    return [
        (line, _position(cell.strip(), f"{source}, line {line}"))
        for line, cell in zip(found.lines, found.cells["index"], strict=True)
    ]


def _position(cell: str, where: str) -> int:
    found = whole_number(cell)
    if found is None or cell.startswith(("-", "+")):
        raise UserError(f"{where} must hold the position of a sample, a whole number from 0, but holds {cell!r}.")
    return found
