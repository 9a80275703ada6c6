"""Clothing1M: a million photographs of clothes whose labels were taken from the text around them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import Noise

from .base import Examples, NoisyDataModule
from .checks import check_labels
from .clothing1m_lists import NAMES, Labels, read_lists
from .image_files import ImageFiles
from .splits import shuffled_by_class
from .streamed import reading_processes
from .transforms import IMAGENET_MEAN, IMAGENET_STD, CenterCrop, Normalise, RandomCrop, RandomFlip


class Clothing1MDataModule(NoisyDataModule):
    """A million images to train on; 14,313 for validation and 10,526 for the test (Xiao et al., 2015).

    Training labels are noisy as they are (some 38 % wrong), and nobody knows the true ones. Validation and test labels are
    CLEAN, made by hand: in the paper, and so here, the selected epoch is one seen on clean validation labels. Noise that is
    given on top of that goes into the training labels alone.

    Images are squeezed to 256×256, of which training sees random 224×224 crops, half of them flipped, and evaluation the
    middle. They are read in worker processes.

    Two layouts are known, with the lists in ``root`` or in ``root/annotations``; where both are there, the latter counts:

    - the data set's own: ``noisy_label_kv.txt``, ``clean_label_kv.txt`` and the three ``*_key_list.txt``;
    - that of the authors of L_DMI: ``noisy_train.txt``, ``clean_val.txt``, ``clean_test.txt``, a path and a label a line.

    A label is a number from 0 or the name of a class. Lists that give an image two labels are refused, and so are those that
    name a test image for training or validation, too.

    Args:
        balanced: ``true`` to train on a subset with equally many images of each noisy label, as many as the rarest has; a
            number for so many of each. Later papers (DivideMix and others) balance so. Theirs is drawn anew for each
            epoch, this one once, and it is the same in every run.
        cache: folder for images of 256×256, a quarter of the data set's size, which are kept there when they are first
            read; see :class:`~ldmi_lightning.datamodules.image_files.ImageFiles`.
        skip_broken: leave images that cannot be read out of their batches, naming and counting them, rather than end the
            run at the first.
        num_workers: processes that read, on each device; by default one for each core but one, and no more than 8.
        noise: injector for training labels, beside the noise that they have.
        batch_size: size of the GLOBAL batch.
        root: folder of the images and the lists. The data set cannot be downloaded: its owners grant access.
    """

    noisy_splits = ("train",)
    resizing = "drafted"

    def __init__(
        self,
        balanced: bool | int = False,
        cache: str | None = None,
        skip_broken: bool = False,
        num_workers: int | None = None,
        noise: Noise | None = None,
        batch_size: int = 256,
        root: str | None = None,
    ) -> None:
        super().__init__(len(NAMES), NAMES, noise, batch_size, root)
        if not isinstance(balanced, bool) and balanced < 1:
            raise UserError(f"--data.balanced must be true, false or at least 1, but got {balanced}.")
        self.balanced, self.cache, self.skip_broken = balanced, cache, skip_broken
        self.num_workers = reading_processes(num_workers)

    def labels_are_true(self, split: str) -> bool:
        """Whether a split's labels were made by hand: those of training come from the text around the images."""
        return split != "train"

    def load(self) -> Mapping[str, Examples]:
        """Return the splits; a sample's index counts through the training, the validation and the test list."""
        if self.root is None or not Path(self.root).is_dir():
            given = "Clothing1M cannot be downloaded" if self.root is None else f"--data.root {self.root} is no folder"
            raise UserError(
                f"{given}. Ask the data set's owners for it, and give the folder that holds images/ and the lists with "
                "--data.root."
            )
        if self.cache is not None:
            _make_folder(self.cache)
        splits, begin = {}, 0
        for name, (paths, labels) in read_lists(Path(self.root)).items():
            check_labels(labels, self.num_classes, f"The {name} split of {type(self).__name__}")
            files = ImageFiles(paths, 256, root=self.root, cache=self.cache, skip_broken=self.skip_broken)
            _refuse_missing(files, name)
            splits[name] = Examples(files, labels, np.arange(begin, begin + len(labels)))
            begin += len(labels)
        if self.balanced is not False:
            self._refuse_missing_classes(splits["train"].y)
            splits["train"] = splits["train"].take(self._balanced(splits["train"].y))
        return splits

    def _balanced(self, labels: Labels) -> NDArray[np.int64]:
        counts = np.bincount(labels, minlength=self.num_classes)
        rarest = int(counts.argmin())
        per_class = int(counts[rarest]) if self.balanced is True else int(self.balanced)
        if per_class > counts[rarest]:
            raise UserError(
                f"--data.balanced {per_class} needs so many images of each class, but only {counts[rarest]} are labelled "
                f"{self.class_names[rarest]}. Lower it to {counts[rarest]}, or set it to true."
            )
        return balanced_subset(labels, per_class)

    def train_transform(self) -> nn.Module:
        """Crop, flip and normalise."""
        return nn.Sequential(RandomCrop(224), RandomFlip(), Normalise(IMAGENET_MEAN, IMAGENET_STD))

    def eval_transform(self) -> nn.Module:
        """Cut out the middle and normalise."""
        return nn.Sequential(CenterCrop(224), Normalise(IMAGENET_MEAN, IMAGENET_STD))


def balanced_subset(labels: Labels, per_class: int, seed: int = 0) -> NDArray[np.int64]:
    """Draw so many samples of each class, without replacement; return their positions in ascending order.

    >>> labels = np.array([0, 0, 0, 1, 1])
    >>> labels[balanced_subset(labels, per_class=2)]
    array([0, 0, 1, 1])
    """
    by_class, rank = shuffled_by_class(labels, seed)
    return np.sort(by_class[rank < per_class])


def _refuse_missing(files: ImageFiles, split: str) -> None:
    """Look for a hundred images, so that a wrong folder is found before training; a million would take minutes."""
    positions = np.unique(np.linspace(0, len(files) - 1, min(len(files), 100), dtype=np.int64))
    missing = [path for path in map(files.path, positions.tolist()) if not path.is_file()]
    if missing and not (files.skip_broken and len(missing) < len(positions)):
        raise UserError(
            f"{missing[0]}, an image of the {split} list, is not there ({len(missing)} of {len(positions)} that were looked "
            "for are missing). Unpack the images below --data.root, or leave out those that are missing with "
            "--data.skip_broken true."
        )


def _make_folder(cache: str) -> None:
    try:
        Path(cache).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--data.cache {cache} cannot be made a folder ({error.strerror}). Choose another.") from error
