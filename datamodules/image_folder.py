"""Folders of images, one for each class: for data of one's own."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import Noise

from .base import Examples
from .own_data import OwnData, check_class_names, normalise_images, shorten
from .splits import SPLITS, fill_splits
from .streamed import ImageFiles, UnreadableImage

SUFFIXES = (".jpg", ".jpeg", ".png")


class ImageFolderDataModule(OwnData):
    """Images below ``root``: ``root/<class>/*.jpg`` or ``root/{train,val,test}/<class>/*.jpg`` (also .jpeg and .png).

    The class names are those of the folders, in alphabetical order. Splits that are not there come out of the train split
    by a seed. All images are brought to one size and kept in memory, in colour. A sample's original index is its position
    among all files by split (train, val, test), class and name.

    Args:
        root: folder of the images.
        image_size: height and width to which each image is brought, whatever its shape.
        noise: injector for training and validation labels, which are taken as true then; ``None`` for labels that may be
            noisy already.
        batch_size: size of the GLOBAL batch.
        val_share: share of the train split that is kept for validation where there is no ``val``, class by class.
        test_share: the same for ``test``, whose labels are taken as true.
        split_seed: seed of the draw of these shares.
        augmentation: module for uint8 training batches, such as ``RandomFlip``.
    """

    def __init__(
        self,
        root: str,
        image_size: int,
        noise: Noise | None = None,
        batch_size: int = 128,
        val_share: float = 0.1,
        test_share: float = 0.1,
        split_seed: int = 0,
        augmentation: nn.Module | None = None,
    ) -> None:
        if image_size < 1:
            raise UserError(f"--data.image_size must be at least 1, but got {image_size}.")
        self.folders = split_folders(Path(root))
        names = check_class_names(
            [folder.name for folder in subfolders(self.folders["train"])],
            f"--data.root {root}, which must hold a folder of images for each class,",
        )
        super().__init__(len(names), names, noise, batch_size, root)
        self.image_size = image_size
        self.shares = {"val": val_share, "test": test_share}
        self.split_seed = split_seed
        self.augmentation = augmentation

    def load(self) -> Mapping[str, Examples]:
        """Return the splits, decoded."""
        found = {split: self._files(folder) for split, folder in self.folders.items()}
        labels = {split: np.array([label for label, _ in files], np.int64) for split, files in found.items()}
        paths = [str(path) for files in found.values() for _, path in files]
        every = Examples(
            ImageFiles(paths, self.image_size), np.concatenate(list(labels.values())), np.arange(len(paths))
        )
        parts = fill_splits(labels, self.shares, self.split_seed)
        return {split: _decoded(every.take(where)) for split, where in parts.items()}

    def eval_transform(self) -> nn.Module:
        """Normalise with ImageNet's mean and standard deviation."""
        return normalise_images(3)

    def _files(self, folder: Path) -> list[tuple[int, Path]]:
        """Return label and path of each image, by class and name."""
        names = list(self.class_names)
        found = []
        for class_folder in subfolders(folder):
            if class_folder.name not in names:
                raise UserError(
                    f"{class_folder} is no class: the folders of {self.folders['train']} are {shorten(names)}. Rename it."
                )
            images = sorted(path for path in class_folder.iterdir() if path.suffix.lower() in SUFFIXES)
            if not images:
                raise UserError(
                    f"{class_folder} holds no image ({', '.join(SUFFIXES)}). --data.root must be laid out as "
                    "root/<class>/<images> or root/{train,val,test}/<class>/<images>. Put images there, or take it away."
                )
            found += [(names.index(class_folder.name), path) for path in images]
        return found


def split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split that there is; ``root`` itself is ``"train"`` where its folders are the classes."""
    if not root.is_dir():
        raise UserError(f"--data.root {root} is no folder. Give one with a folder of images for each class.")
    names = {folder.name for folder in subfolders(root)}
    if "train" in names and names <= set(SPLITS):
        return {split: root / split for split in SPLITS if split in names}
    return {"train": root}


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder by name, hidden ones left out."""
    return sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))


def _decoded(part: Examples) -> Examples:
    assert isinstance(part.x, ImageFiles)
    images = torch.empty(len(part.x), 3, part.x.size, part.x.size, dtype=torch.uint8)
    for position, image in enumerate(images):
        try:
            image.copy_(part.x.read(position))
        except UnreadableImage as error:
            raise UserError(f"{error}. Mend it, or take it out of --data.root.") from error
    return part._replace(x=images)
