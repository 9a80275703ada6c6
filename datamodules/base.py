"""NoisyDataModule: splits, noise, loaders, fingerprints and errors of all data sets."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.inputs import in_memory, map_tensors
from ldmi_lightning.noise import Noise, NoNoise, fingerprint, report
from ldmi_lightning.seeding import base_seed, derived_seed

from .checks import check_inputs, check_labels, one_tensor
from .fingerprints import LOOKED_AT, described, inputs_digest, split_digest
from .fold_splits import FOLD, fold_identity, without_fold
from .folds import Fold
from .known_inputs import KnownInputs
from .loaders import IndexLoader, ResidentLoader, Split
from .streamed import Streamed, StreamedLoader
from .votes import item_names, votes_on, with_labels


class Examples(NamedTuple):
    """What a subclass loads for one split.

    Attributes:
        x: inputs, shape ``(N, ...)``: uint8 images ``(N, C, H, W)``, integer tokens ``(N, L)`` or floats, held in memory; a
            tuple or dict of such tensors, such as token ids and attention mask; or
            :class:`~ldmi_lightning.datamodules.streamed.Streamed`, which are read batch by batch.
        y: labels as the data set gives them, shape ``(N,)``: what noise is applied to.
        index: position of each sample in the ORIGINAL data set, shape ``(N,)``.
    """

    x: Any
    y: NDArray[np.int64]
    index: NDArray[np.int64]  # type: ignore[assignment]  # tuple.index is not needed here

    def take(self, where: slice | NDArray[np.int64]) -> "Examples":
        """Return some of the samples: a slice of tensors shares their memory, an array of positions copies."""
        x = map_tensors(lambda each: each[where], self.x) if in_memory(self.x) else self.x[where]
        return Examples(x, self.y[where], self.index[where])


class NoisyDataModule(KnownInputs):
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
    noisy_splits: ClassVar[tuple[str, ...]] = ("train", "val")
    """The splits whose labels the noise is applied to."""
    num_workers: int = 0
    """Processes that read a streamed data set; resident data needs none."""
    sources: Mapping[str, Streamed] = MappingProxyType({})
    """What tells the inputs of a split from others, where they may be streamed or not: a run may go on either way."""
    fold: Fold | None = None
    """The fold that is held out: see :func:`~ldmi_lightning.datamodules.fold_splits.hold_out`."""

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
        self.views = 1
        """How many augmented views of a sample the training batches hold."""
        self._identity: dict[str, Any] | None = None
        self._report: dict[str, Any] | None = None
        self._streams: WeakSet[StreamedLoader] = WeakSet()

    # -- what a subclass says -----------------------------------------------------------------------------------------

    def load(self) -> Mapping[str, Examples]:
        """Return the splits ``"train"``, ``"val"`` and ``"test"`` with clean labels."""
        raise NotImplementedError

    def train_transform(self) -> nn.Module:
        """Return what turns a stored training batch into the model's inputs, augmentation included."""
        return self.eval_transform()

    def labels_are_true(self, split: str) -> bool:
        """Whether the labels that :meth:`load` gives a split are the true ones, rather than noisy already."""
        return True

    # -- splits and noise ---------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Load the data and inject the noise, once."""
        if self.splits:
            return
        examples = self._with_labels(self.load())
        for name, part in examples.items():
            check_labels(part.y, self.num_classes, f"The {name} split of {type(self).__name__}")
            check_inputs(part.x, len(part.y), f"The {name} split of {type(self).__name__}")
        self._refuse_missing_classes(examples["train"].y)
        labels = {name: part.y for name, part in examples.items()} | self._noisy_labels(examples)
        true = {name: part.y for name, part in examples.items() if self.labels_are_true(name)}
        for name in self.noisy_splits:
            check_labels(labels[name], self.num_classes, f"The noisy {name} split of {type(self).__name__}")
        votes = votes_on(self.noise, examples, self.noisy_splits)
        self._report = report(
            self.noise,
            true.get("train"),
            labels["train"],
            self.num_classes,
            sha256=fingerprint(labels["train"], labels["val"], *votes.values()),
        )
        self.splits = {
            name: Split(
                part.x,
                torch.from_numpy(labels[name]),
                torch.from_numpy(true[name]) if name in true else torch.full((len(part.y),), -1),
                torch.from_numpy(part.index),
                torch.from_numpy(votes[name]) if name in votes else None,
            )
            for name, part in examples.items()
        }

    def _with_labels(self, examples: Mapping[str, Examples]) -> Mapping[str, Examples]:
        """Tell the noise what classes and samples are called, and leave out the samples that it has no label for."""
        self.noise.class_names = [str(name) for name in self.class_names]
        if self.noise.needs_names:
            self.noise.item_names = item_names(self, examples, self.noise.item_column)
        return with_labels(examples, self.noise, self.noisy_splits, self.num_classes)

    def _noisy_labels(self, examples: Mapping[str, Examples]) -> dict[str, NDArray[np.int64]]:
        parts = [examples[name] for name in self.noisy_splits]
        if not self.shared_noise_stream:
            return {name: self._inject([part]) for name, part in zip(self.noisy_splits, parts, strict=True)}
        ends = np.cumsum([len(part.y) for part in parts])[:-1]
        return dict(zip(self.noisy_splits, np.split(self._inject(parts), ends), strict=True))

    def _inject(self, parts: Sequence[Examples]) -> NDArray[np.int64]:
        labels, index = (np.concatenate(arrays) for arrays in zip(*((p.y, p.index) for p in parts), strict=True))
        # Inputs are large: a copy of them only where they count.
        x = torch.cat([one_tensor(part.x, self.noise) for part in parts]) if self.noise.needs_inputs else None
        return self.noise(labels, self.num_classes, index=index, x=x)

    def _refuse_missing_classes(self, labels: NDArray[np.int64]) -> None:
        missing = np.flatnonzero(np.bincount(labels, minlength=self.num_classes) == 0)
        if len(missing):
            names = ", ".join(str(self.class_names[label]) for label in missing[:5])
            raise UserError(
                f"The train split of {type(self).__name__} has no sample of {len(missing)} of its {self.num_classes} "
                f"classes ({names}): what has never been seen cannot be learnt. Add samples, or leave the class out."
            )

    def leave_out(self) -> None:
        """Take the fold out of training and validation, where there is one, and it is not out yet."""
        if self.fold is not None and self.splits and FOLD not in self.splits:
            self.splits = without_fold(self, self.fold)
            self._identity = None

    def column(self, name: str, option: str = "--group") -> Sequence[Any]:
        """Return a column of the table that the data comes from, by original index.

        Args:
            name: of the column.
            option: who asks for it, for messages.
        """
        if option != "--group":
            raise UserError(
                f"{option} {name}: {type(self).__name__} is no table. Leave it out, and use original indices from 0."
            )
        raise UserError(f"--group {name} is no file, and {type(self).__name__} no table. Give a CSV file: index,group.")

    def noise_report(self) -> dict[str, Any]:
        """Describe the noise as it came out: see :func:`ldmi_lightning.noise.report`. Known after ``setup``."""
        if self._report is None:
            raise UserError(f"The noise is known after setup: call {type(self).__name__}.setup('fit') first.")
        return self._report

    def fingerprint(self) -> str:
        """Return the SHA-256 of the training and validation inputs; of images read from files, their names and sizes."""
        return self._inputs_digest(None)

    def identity(self) -> dict[str, Any]:
        """Return what must be the same when a run is resumed: batches, noise, inputs, split, transforms and class names.

        Known after ``setup``. Of images that may be streamed a thousand are looked at, and all names of files.
        """
        if self._identity is None:
            noise = self.noise_report()
            self._identity = {
                **fold_identity(self.fold, self.splits),  # first: splits differ because of it
                "data.batch_size": self.batch_size,
                **{f"data.noise ({key})": noise[key] for key in ("injector", "seed", "requested_rate", "sha256")},
                "data.class_names": [str(name) for name in self.class_names],
                "data (split, SHA-256)": split_digest(self.splits),
                "data (inputs of --data.root, SHA-256)": self._inputs_digest(LOOKED_AT),
                "data (training transform)": described(self.train_transform()),
                "data (transform)": described(self.eval_transform()),
            }
        return self._identity

    def _inputs_digest(self, most: int | None) -> str:
        return inputs_digest({name: self.sources.get(name, split.x) for name, split in self.splits.items()}, most)

    def class_counts(self, split: str) -> Tensor:
        """Count the labels to learn from in a split, shape ``(C,)``."""
        return torch.bincount(self.splits[split].y, minlength=self.num_classes)

    # -- loaders ------------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> IndexLoader:
        """Return the training batches, shuffled by seed and epoch."""
        return self._loader("train", self.train_transform(), shuffle_seed=base_seed(), views=lambda: self.views)

    def train_eval_dataloader(self, num_samples: int | None = None) -> IndexLoader:
        """Return the training set in index order without augmentation, or a seeded subset of ``num_samples``."""
        n, only = len(self.splits["train"]), None
        if num_samples is not None and num_samples < n:
            generator = torch.Generator().manual_seed(derived_seed(base_seed(), num_samples))
            only = torch.randperm(n, generator=generator)[:num_samples].sort().values
        return self._loader("train", self.eval_transform(), only=only)

    def val_dataloader(self) -> IndexLoader:
        """Return the validation set, with noisy labels."""
        return self.split_dataloader("val")

    def test_dataloader(self) -> IndexLoader:
        """Return the test set, with clean labels."""
        return self.split_dataloader("test")

    def predict_dataloader(self) -> IndexLoader:
        """Return the test set, or what else :meth:`predicted_split` says."""
        name = self.predicted_split()
        return self.test_dataloader() if name == "test" else self.split_dataloader(name)

    def split_dataloader(self, name: str) -> IndexLoader:
        """Return any split in index order, without augmentation."""
        return self._loader(name, self.eval_transform())

    def predicted_split(self) -> str:
        """Return the name of the split that is predicted."""
        return "test"

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave a batch where it is: the loaders make it on the device, and Lightning's search through it costs time."""
        return batch

    def teardown(self, stage: str) -> None:
        """End the processes that read."""
        for stream in self._streams:
            stream.close()

    def on_exception(self, exception: BaseException) -> None:
        """End the processes that read."""
        self.teardown("")

    def _loader(
        self,
        name: str,
        transform: nn.Module,
        *,
        shuffle_seed: int | None = None,
        only: Tensor | None = None,
        views: Callable[[], int] = lambda: 1,
    ) -> IndexLoader:
        trainer = self.trainer
        device = trainer.strategy.root_device if trainer is not None else torch.device("cpu")
        self.splits[name] = split = self.splits[name].to(device)  # once, however many loaders read it
        place: dict[str, Any] = {
            "shuffle_seed": shuffle_seed,
            "only": only,
            "views": views,
            "rank": trainer.global_rank if trainer is not None else 0,
            "world_size": trainer.world_size if trainer is not None else 1,
            "device": device,
        }
        if isinstance(split.x, Streamed):
            stream = StreamedLoader(split, self.batch_size, transform, num_workers=self.num_workers, **place)
            self._streams.add(stream)
            return stream
        return ResidentLoader(split, self.batch_size, transform, **place)
