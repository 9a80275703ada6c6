"""NoisyDataModule: splits, noise, loaders, fingerprints and errors of all resident data sets."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import Noise, NoNoise, fingerprint, report
from ldmi_lightning.seeding import base_seed, derived_seed

from .loaders import ResidentLoader, Split


class Examples(NamedTuple):
    """What a subclass loads for one split.

    Attributes:
        x: inputs, shape ``(N, ...)``; uint8 images ``(N, C, H, W)`` or int64 tokens.
        y: clean labels, shape ``(N,)``.
        index: position of each sample in the ORIGINAL data set, shape ``(N,)``.
    """

    x: Tensor
    y: NDArray[np.int64]
    index: NDArray[np.int64]  # type: ignore[assignment]  # tuple.index is not needed here

    def take(self, where: slice | NDArray[np.int64]) -> "Examples":
        """Return some of the samples."""
        return Examples(self.x[where], self.y[where], self.index[where])


class NoisyDataModule(pl.LightningDataModule):
    """Base of the data sets: a subclass says how to load arrays (:meth:`load`) and what its transforms are.

    Noise is injected once, in ``setup``, into training and validation labels; test labels stay clean.

    Args:
        num_classes: C.
        class_names: names of the classes, in the order of the labels.
        noise: injector for training and validation labels; ``None`` for :class:`~ldmi_lightning.noise.NoNoise`.
        batch_size: size of the GLOBAL batch, whatever the number of devices.
        root: local folder with the data; ``None`` for the hub (or what the subclass says).
    """

    shared_noise_stream: ClassVar[bool] = False
    """Whether noise is drawn in one stream over training and then validation labels, or anew at the seed for each."""

    def __init__(
        self,
        num_classes: int,
        class_names: Sequence[str],
        noise: Noise | None = None,
        batch_size: int = 128,
        root: str | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"--data.batch_size must be at least 1, but got {batch_size}.")
        self.num_classes = num_classes
        self.class_names = class_names
        self.noise = noise if noise is not None else NoNoise()
        self.batch_size = batch_size
        self.root = root
        self.splits: dict[str, Split] = {}
        self._report: dict[str, Any] | None = None

    # -- what a subclass says -----------------------------------------------------------------------------------------

    def load(self) -> Mapping[str, Examples]:
        """Return the splits ``"train"``, ``"val"`` and ``"test"`` with clean labels."""
        raise NotImplementedError

    def train_transform(self) -> nn.Module:
        """Return what turns a stored training batch into the model's inputs, augmentation included."""
        return self.eval_transform()

    def eval_transform(self) -> nn.Module:
        """Return what turns a stored batch into the model's inputs."""
        return nn.Identity()

    # -- splits and noise ---------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Load the data and inject the noise, once."""
        if self.splits:
            return
        examples = self.load()
        for name, part in examples.items():
            check_labels(part.y, self.num_classes, f"The {name} split of {type(self).__name__}")
        train, val = examples["train"], examples["val"]
        if self.shared_noise_stream:
            both = self._inject(
                np.concatenate([train.y, val.y]), np.concatenate([train.index, val.index]), torch.cat([train.x, val.x])
            )
            noisy_train, noisy_val = both[: len(train.y)], both[len(train.y) :]
        else:
            noisy_train, noisy_val = self._inject(train.y, train.index, train.x), self._inject(val.y, val.index, val.x)
        for name, noisy in (("train", noisy_train), ("val", noisy_val)):
            check_labels(noisy, self.num_classes, f"The noisy {name} split of {type(self).__name__}")
        labels = {"train": noisy_train, "val": noisy_val, "test": examples["test"].y}
        self._report = report(
            self.noise, train.y, noisy_train, self.num_classes, sha256=fingerprint(noisy_train, noisy_val)
        )
        self.splits = {
            name: Split(
                part.x, *(torch.from_numpy(np.asarray(a, np.int64)) for a in (labels[name], part.y, part.index))
            )
            for name, part in examples.items()
        }

    def _inject(self, labels: NDArray[np.int64], index: NDArray[np.int64], x: Tensor) -> NDArray[np.int64]:
        return self.noise(labels, self.num_classes, index=index, x=x)

    def noise_report(self) -> dict[str, Any]:
        """Describe the noise as it came out: see :func:`ldmi_lightning.noise.report`. Known after ``setup``."""
        if self._report is None:
            raise UserError(f"The noise is known after setup: call {type(self).__name__}.setup('fit') first.")
        return self._report

    def class_counts(self, split: str) -> Tensor:
        """Count the labels to learn from in a split, shape ``(C,)``."""
        return torch.bincount(self.splits[split].y, minlength=self.num_classes)

    # -- loaders ------------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> ResidentLoader:
        """Return the training batches, shuffled by seed and epoch."""
        return self._loader("train", self.train_transform(), shuffle_seed=base_seed())

    def train_eval_dataloader(self, num_samples: int | None = None) -> ResidentLoader:
        """Return the training set in index order without augmentation, or a seeded subset of ``num_samples``."""
        n, only = len(self.splits["train"]), None
        if num_samples is not None and num_samples < n:
            generator = torch.Generator().manual_seed(derived_seed(base_seed(), num_samples))
            only = torch.randperm(n, generator=generator)[:num_samples].sort().values
        return self._loader("train", self.eval_transform(), only=only)

    def val_dataloader(self) -> ResidentLoader:
        """Return the validation set, with noisy labels."""
        return self._loader("val", self.eval_transform())

    def test_dataloader(self) -> ResidentLoader:
        """Return the test set, with clean labels."""
        return self._loader("test", self.eval_transform())

    def predict_dataloader(self) -> ResidentLoader:
        """Return the test set."""
        return self.test_dataloader()

    def _loader(
        self, name: str, transform: nn.Module, *, shuffle_seed: int | None = None, only: Tensor | None = None
    ) -> ResidentLoader:
        trainer = self.trainer
        device = trainer.strategy.root_device if trainer is not None else torch.device("cpu")
        self.splits[name] = self.splits[name].to(device)  # once, however many loaders read it
        return ResidentLoader(
            self.splits[name],
            self.batch_size,
            transform,
            shuffle_seed=shuffle_seed,
            only=only,
            rank=trainer.global_rank if trainer is not None else 0,
            world_size=trainer.world_size if trainer is not None else 1,
            device=device,
        )


def check_labels(labels: NDArray[np.int64], num_classes: int, what: str) -> None:
    """Raise unless there are labels, and all of them name a class."""
    if not len(labels):
        raise UserError(f"{what} has no samples.")
    low, high = labels.min(), labels.max()
    if low < 0 or high >= num_classes:
        raise UserError(
            f"{what} has labels from {low} to {high}, but with {num_classes} classes they must lie in "
            f"0..{num_classes - 1}."
        )
