"""What all data of one's own has in common: labels as given, which may be noisy already, and augmentation by choice."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import NoNoise

from .base import NoisyDataModule, check_labels
from .transforms import IMAGENET_MEAN, IMAGENET_STD, Normalise


class OwnData(NoisyDataModule):
    """Labels as somebody gave them.

    With :class:`~ldmi_lightning.noise.NoNoise` they are taken as noisy already: nobody knows the true ones of the
    training and validation set. With any other injector they are taken as true. Test labels are taken as true always.
    """

    augmentation: nn.Module | None = None
    """What is done to training batches as they are stored (uint8 images), before the rest."""

    def labels_are_true(self, split: str) -> bool:
        """Whether the labels given are taken as true."""
        return split == "test" or not isinstance(self.noise, NoNoise)

    def train_transform(self) -> nn.Module:
        """Augment, then do what is done to all batches."""
        if self.augmentation is None:
            return self.eval_transform()
        return nn.Sequential(self.augmentation, self.eval_transform())


def normalise_images(channels: int) -> Normalise:
    """Return the normalisation of images that nothing is known of.

    Colour gets ImageNet's mean and standard deviation, which most pretrained nets expect; all else goes to -1..1.
    """
    if channels == 3:
        return Normalise(IMAGENET_MEAN, IMAGENET_STD)
    return Normalise([0.5] * channels, [0.5] * channels)


def check_class_names(names: Sequence[str], what: str) -> list[str]:
    """Return the names as a list, or raise unless they are at least two, all different."""
    if len(names) < 2:
        found = f"one class ({names[0]})" if names else "no class"
        raise UserError(f"{what} has {found}, but to tell classes apart takes at least two.")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{what} has two classes named {twice[0]}: every class needs a name of its own.")
    return list(names)


def class_indices(labels: Any, class_names: Sequence[str], what: str) -> NDArray[np.int64]:
    """Return labels as positions in ``class_names``: whole numbers as they are, names looked up.

    Args:
        labels: N whole numbers, or N class names.
        class_names: names of the classes, in order.
        what: what has these labels, for the error.

    Returns:
        int64, shape ``(N,)``, in ``0..C-1``.

    Raises:
        UserError: if a label is neither, or names no class.

    >>> class_indices(["dog", "cat", "dog"], ["cat", "dog"], "it").tolist()
    [1, 0, 1]
    """
    values = np.asarray(labels)
    if values.ndim != 1:
        raise UserError(f"{what} has labels of shape {values.shape}, but one for each sample is needed, shape (N,).")
    if values.dtype.kind in "iub":
        found = values.astype(np.int64)
    else:
        positions = {name: position for position, name in enumerate(class_names)}
        looked_up = [_position(label, positions) for label in values.tolist()]
        if None in looked_up:
            unknown = looked_up.index(None)
            raise UserError(
                f"{what} has the label {values[unknown]} (sample {unknown}), which is neither a whole number nor one of the "
                f"class names {shorten(class_names)}."
            )
        found = np.array(looked_up, dtype=np.int64)
    check_labels(found, len(class_names), what)
    return found


def _position(label: Any, positions: Mapping[str, int]) -> int | None:
    if isinstance(label, str):
        return positions.get(label)
    # Where some labels are missing, tables hold the others as floats.
    return int(label) if isinstance(label, int | float) and label % 1 == 0 else None


def shorten(names: Sequence[object]) -> str:
    """Return a list of names for one line.

    >>> shorten(["a", "b"])
    'a, b'
    """
    shown = ", ".join(str(name) for name in names[:10])
    return shown if len(names) <= 10 else f"{shown}, … ({len(names)} in all)"
