"""Fashion-MNIST, as two classes (the paper's) or all ten."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from torch import nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import Noise

from .base import Examples, NoisyDataModule
from .checks import check_labels
from .hub import load_hub_dataset, read_labels
from .images import decode_images
from .transforms import Normalise

HUB_ID = "zalando-datasets/fashion_mnist"
BAG = 8
NAMES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


class FashionMNISTDataModule(NoisyDataModule):
    """60,000 + 10,000 grey images of 28×28: the first 50,000 to train on, the last 10,000 for validation.

    Noise runs in one stream over training and validation labels, as in the paper.

    Args:
        classes: ``"bag"`` for bag → 0 against all others → 1 (Xu et al., 2019), ``"all"`` for the ten classes.
        noise: injector for training and validation labels.
        batch_size: size of the GLOBAL batch.
        root: local folder that ``datasets.load_dataset`` reads; ``None`` for the hub.
    """

    shared_noise_stream = True

    def __init__(
        self,
        classes: Literal["bag", "all"] = "bag",
        noise: Noise | None = None,
        batch_size: int = 128,
        root: str | None = None,
    ) -> None:
        if classes not in ("bag", "all"):
            raise UserError(f"--data.classes must be bag or all, but got {classes}.")
        names = ["bag", "no bag"] if classes == "bag" else NAMES
        super().__init__(len(names), names, noise, batch_size, root)
        self.classes = classes

    def prepare_data(self) -> None:
        """Download, on one process alone."""
        load_hub_dataset(self.root, HUB_ID)

    def load(self) -> Mapping[str, Examples]:
        """Return the splits."""
        data = load_hub_dataset(self.root, HUB_ID, splits=("train", "test"), columns=("image", "label"))
        train, test = (self._examples(data[split], split) for split in ("train", "test"))
        cut = len(train.y) * 5 // 6
        return {"train": train.take(slice(cut)), "val": train.take(slice(cut, None)), "test": test}

    def _examples(self, data: Any, split: str) -> Examples:
        images = decode_images(data, "image", "L")
        labels = read_labels(data, "label")
        check_labels(labels, len(NAMES), f"The {split} split of {type(self).__name__}")
        if self.classes == "bag":
            labels = (labels != BAG).astype(np.int64)
        return Examples(images, labels, np.arange(len(labels)))

    def eval_transform(self) -> nn.Module:
        """Normalise as in the paper's released recipe."""
        return Normalise([0.1307], [0.3081])
