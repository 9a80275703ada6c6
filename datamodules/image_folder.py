"""Folders of images, one for each class: for data of one's own."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import Noise
from ldmi_lightning.originals import Original
from ldmi_lightning.saying import say

from .base import Examples
from .image_files import ImageFiles
from .image_listing import HIDDEN, describe_copies, entries, list_images
from .images import SUFFIXES, UnreadableImage, refuse_broken, say_notes
from .own_data import OwnData, check_class_names, normalise_images, shorten
from .splits import SPLITS, fill_splits
from .streamed import reading_processes


class ImageFolderDataModule(OwnData):
    """Images below ``root``: ``root/<class>/**`` or ``root/{train,val,test}/<class>/**``.

    Image files end with .jpg, .jpeg, .png, .webp, .bmp, .tif, .tiff or .gif, in folders nested as deeply as they like. They
    are read by :func:`~ldmi_lightning.datamodules.images.read_image`. What else lies there is left out and counted, except
    that an image that cannot be read ends the run; all such are named at once. Images that are the same byte for byte in
    two splits or two classes are counted, and stay.

    The class names are those of the folders, in alphabetical order. Splits that are not there come out of the train split
    by a seed. All images are brought to one size, in colour. They are held in memory where that takes at most half of what is
    free, and otherwise decoded batch by batch, which a line says; the batches are the same. A sample's original index is its
    position among all files by split (train, val, test), class and name.

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
        class_names: names of the classes, in the order of the labels, each that of a folder; ``None`` takes all folders by name.
        streamed: whether images are decoded batch by batch rather than held in memory; ``None`` where they do not fit.
        num_workers: processes that decode then, on each device; by default one for each core but one, and no more than 8.
    """

    resizing = "drafted"

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
        class_names: list[str] | None = None,
        streamed: bool | None = None,
        num_workers: int | None = None,
    ) -> None:
        if image_size < 1:
            raise UserError(f"--data.image_size must be at least 1, but got {image_size}.")
        if class_names is None:
            found = [folder.name for folder in subfolders(split_folders(Path(root))["train"])]
            names = check_class_names(found, f"--data.root {root}, which must hold a folder of images for each class,")
        else:
            names = check_class_names(class_names, "--data.class_names")
        super().__init__(len(names), names, noise, batch_size, root)
        self.image_size = image_size
        self.shares = {"val": val_share, "test": test_share}
        self.split_seed = split_seed
        self.augmentation = augmentation
        self.streamed, self.num_workers = streamed, reading_processes(num_workers)
        self.folders: dict[str, Path] = {}
        self._images: ImageFiles | None = None

    def load(self) -> Mapping[str, Examples]:
        """Return the splits, decoded or to be decoded."""
        root, left_out = Path(self.root or ""), Counter[str]()
        self.folders = split_folders(root)
        found = {split: self._files(folder, left_out) for split, folder in self.folders.items()}
        for folder in {root, *self.folders.values()}:
            for entry in entries(folder):
                if entry.name.startswith("."):
                    left_out[HIDDEN] += 1
                elif not entry.is_dir():
                    left_out["outside the folders of the classes"] += 1
        if left_out:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in left_out.most_common())
            say(f"--data.root {root}: left out are {kinds}.")
        labels = {split: np.array([label for label, _ in files], np.int64) for split, files in found.items()}
        every = np.concatenate(list(labels.values()))
        paths = [path for files in found.values() for _, path in files]
        parts = fill_splits(labels, self.shares, self.split_seed)
        names = [str(path.relative_to(root)) for path in paths]
        self._images = ImageFiles(names, self.image_size, root=root, remedy=f"Repair it, or take it out of {root}.")
        self.sources = {split: self._images[where] for split, where in parts.items()}
        images: Mapping[str, Any] = self.sources
        if not self.streams_images(len(paths), self.image_size):
            images = self._decoded(self._images, parts)
        for line in describe_copies(paths, every, parts, root):
            say(line)
        return {split: Examples(images[split], every[where], where) for split, where in parts.items()}

    def _decoded(self, files: ImageFiles, parts: Mapping[str, NDArray[np.int64]]) -> dict[str, Tensor]:
        """Return the images of each split, uint8, shape ``(N, 3, size, size)``."""
        images = {
            split: torch.empty(len(where), 3, files.size, files.size, dtype=torch.uint8)
            for split, where in parts.items()
        }
        broken: list[UnreadableImage] = []
        notes: Counter[str] = Counter()
        for split, where in parts.items():
            for image, position in zip(images[split], where.tolist(), strict=True):
                try:
                    image.copy_(files.read(position, notes))
                except UnreadableImage as error:
                    broken.append(error)
        option = f"--data.root {self.root}"
        refuse_broken(sorted(broken, key=lambda error: str(error.what)), len(files), option)
        say_notes(notes, len(files), option)
        return images

    def original(self, index: int) -> Original | None:
        """Return a sample's file."""
        return None if self._images is None else Original("file", self._images.path(index))

    def eval_transform(self) -> nn.Module:
        """Normalise with ImageNet's mean and standard deviation."""
        return normalise_images(3)

    def _files(self, folder: Path, left_out: Counter[str]) -> list[tuple[int, Path]]:
        """Return label and path of each image, by class and name; count what else there is."""
        names = list(self.class_names)
        found = []
        for class_folder in subfolders(folder):
            if class_folder.name not in names:
                raise UserError(
                    f"{class_folder} is no class: the folders of {self.folders['train']} are {shorten(names)}. Rename it."
                )
            images = list_images(class_folder, left_out, above=[Path(self.root or ""), folder])
            if not images:
                raise UserError(
                    f"{class_folder} holds no image ({', '.join(SUFFIXES[:3])}), nor one of the other kinds that are read "
                    f"({', '.join(SUFFIXES[3:])}). --data.root must be laid out as root/<class>/<images> or "
                    "root/{train,val,test}/<class>/<images>. Put images there, or take it away."
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
    unclear = [split for split in SPLITS if split in names and _holds_folders_alone(root / split)]
    if unclear:
        raise UserError(
            f"--data.root {root} holds {shorten(sorted(names))}: {unclear[0]} looks like a split, since it holds folders and no "
            f"images, but beside {', '.join(SPLITS)} there must be no other folder, and train must be there. Rename or move "
            "the others."
        )
    return {"train": root}


def _holds_folders_alone(folder: Path) -> bool:
    """Whether there are folders in a folder, and no images."""
    held = [entry for entry in entries(folder) if not entry.name.startswith(".")]
    images = [entry for entry in held if not entry.is_dir() and Path(entry.name).suffix.lower() in SUFFIXES]
    return any(entry.is_dir() for entry in held) and not images


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder by name, hidden ones left out."""
    return [Path(entry.path) for entry in entries(folder) if entry.is_dir() and not entry.name.startswith(".")]
