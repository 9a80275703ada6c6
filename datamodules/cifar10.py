"""CIFAR-10: ten classes of colour images of 32×32."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from ldmi_lightning.noise import Noise

from .base import Examples, NoisyDataModule
from .hub import load_hub_dataset, read_labels
from .images import decode_images
from .transforms import Normalise, RandomCrop

HUB_ID = "uoft-cs/cifar10"
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class CIFAR10DataModule(NoisyDataModule):
    """50,000 + 10,000 colour images of 32×32: batches 1–4 to train on, batch 5 (the last 10,000) for validation.

    Noise begins anew at its seed for each split, as in the paper (Xu et al., 2019). Training images are cropped at random
    out of a border of 4 black pixels, and every other one is flipped.

    Args:
        noise: injector for training and validation labels.
        batch_size: size of the GLOBAL batch.
        root: local folder that ``datasets.load_dataset`` reads; ``None`` for the hub.
    """

    def __init__(self, noise: Noise | None = None, batch_size: int = 256, root: str | None = None) -> None:
        super().__init__(len(NAMES), NAMES, noise, batch_size, root)

    def prepare_data(self) -> None:
        """Download, on one process alone."""
        load_hub_dataset(self.root, HUB_ID)

    def load(self) -> Mapping[str, Examples]:
        """Return the splits."""
        data = load_hub_dataset(self.root, HUB_ID, splits=("train", "test"), columns=("img", "label"))
        train, test = (self._examples(data[split]) for split in ("train", "test"))
        cut = len(train.y) * 4 // 5
        return {"train": train.take(slice(cut)), "val": train.take(slice(cut, None)), "test": test}

    def _examples(self, data: Any) -> Examples:
        labels = read_labels(data, "label")
        return Examples(decode_images(data, "img", "RGB"), labels, np.arange(len(labels)))

    def train_transform(self) -> nn.Module:
        """Crop, flip and normalise."""
        return nn.Sequential(RandomCrop(32, padding=4, flip=True), self.eval_transform())

    def eval_transform(self) -> nn.Module:
        """Normalise with the mean and standard deviation of the training images."""
        return Normalise([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])
