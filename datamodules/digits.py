"""scikit-learn's digits: 1,797 images of 8×8 pixels that come with the package, for a first try without a download."""

from collections.abc import Mapping

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from ldmi_lightning.noise import Noise

from .base import Examples, NoisyDataModule
from .transforms import Normalise


class DigitsDataModule(NoisyDataModule):
    """Ten digits, 8×8 grey values: 1,197 to train on, 300 for validation, 300 for the test, split by a fixed seed.

    Args:
        noise: injector for training and validation labels.
        batch_size: size of the GLOBAL batch.
    """

    white = 16

    def __init__(self, noise: Noise | None = None, batch_size: int = 64) -> None:
        super().__init__(10, [str(digit) for digit in range(10)], noise, batch_size)

    def load(self) -> Mapping[str, Examples]:
        """Return the splits."""
        digits = load_digits()
        x = torch.from_numpy(digits.images.astype(np.uint8)).unsqueeze(1)
        every = Examples(x, digits.target.astype(np.int64), np.arange(len(x)))
        order = np.random.RandomState(0).permutation(len(x))
        return {"train": every.take(order[600:]), "val": every.take(order[300:600]), "test": every.take(order[:300])}

    def eval_transform(self) -> nn.Module:
        """Scale the grey values 0..16 to -1..1."""
        return Normalise([0.5], [0.5], scale=16)
