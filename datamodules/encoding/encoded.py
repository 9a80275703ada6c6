"""EncodedDataModule: any data set's inputs passed once through a frozen encoder; a run trains on the features."""

import copy
import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ldmi_lightning.datamodules.base import NoisyDataModule
from ldmi_lightning.datamodules.fold_splits import FOLD, fold_identity
from ldmi_lightning.datamodules.folds import LEARNT_FROM
from ldmi_lightning.datamodules.known_inputs import KnownInputs
from ldmi_lightning.datamodules.loaders import IndexLoader, Split
from ldmi_lightning.datamodules.shown import originals_among
from ldmi_lightning.errors import UserError
from ldmi_lightning.models.encoders import without_head
from ldmi_lightning.noise import Noise, NoNoise
from ldmi_lightning.originals import Originals
from ldmi_lightning.saying import say
from ldmi_lightning.seeding import base_seed

from .encode import Encoding, Place
from .features import Features
from .rows import Unencoded, rows_of, unencoded
from .transforms import PassesLoader, Standardise, mean_and_deviation

FloatType = Literal["float32", "float16"]


class EncodedDataModule(NoisyDataModule):
    """The features that a frozen encoder gives for a data set's inputs, computed once and kept on disk.

    Splits, noise and labels are those of ``data``. Its inputs go through its transform for evaluation and then, in eval mode
    and in float32, through the encoder, each process encoding its share; the features are standardised by the mean and
    deviation of the training set, which travel in the checkpoint, and stay in memory from there on. In the cache they stand
    for the encoder's weights, settings and code, the transform and the inputs: where any of them differs, they are computed
    anew. A pass that was interrupted is resumed, and no finished shard is computed twice.

    A classifier of torchvision or timm loses the layer of its classes. Where it says by which mean and deviation it expects
    images to be normalised, these take the place of the data set's own.

    Args:
        data: the data set, resident or streamed.
        encoder: any module that maps a batch of the data set's inputs to features ``(B, D)``; maps ``(B, D, H, W)`` are averaged.
        cache: folder for features, which runs may share.
        dtype: ``"float32"``, or ``"float16"`` for half the space.
        passes: number of augmented passes over the training set, of which each sample's batches take one at random in each
            epoch; 0 for the inputs without augmentation.
        image_size: height and width to which images are brought for the encoder; ``None`` to leave them.
        noise: injector for training and validation labels, handed to ``data``.
        batch_size: size of the GLOBAL batch, handed to ``data``; ``None`` for its own.
    """

    def __init__(
        self,
        data: NoisyDataModule,
        encoder: nn.Module,
        cache: str = "features",
        dtype: FloatType = "float32",
        passes: int = 0,
        image_size: int | None = None,
        noise: Noise | None = None,
        batch_size: int | None = None,
    ) -> None:
        check_arguments(data, encoder, dtype, passes, image_size)
        if noise is not None:
            if not isinstance(data.noise, NoNoise):
                raise UserError(
                    f"Noise is given twice: {type(noise).__name__} as --data.noise and {type(data.noise).__name__} as "
                    "--data.data.noise. Leave one out."
                )
            data.noise = noise
        data.batch_size = data.batch_size if batch_size is None else batch_size
        super().__init__(data.num_classes, data.class_names, data.noise, data.batch_size, data.root)
        self.data = data
        self.noisy_splits = data.noisy_splits  # type: ignore[misc]  # as the data set says
        try:
            self.encoder, headless = without_head(encoder)
        except ValueError as error:
            raise UserError(f"--data.encoder: {error}") from error
        self.encoder.eval().float()
        self.features = Features(data, self.encoder, cache, dtype, passes, image_size)
        self._remarks: list[str] | None = [headless] if headless else []
        self._standard: Standardise | None = None
        self._augmented: Tensor | None = None

    # -- labels: those of the data set --------------------------------------------------------------------------------

    def labels_are_true(self, split: str) -> bool:
        """Whether the data set's labels of a split are the true ones."""
        return self.data.labels_are_true(split)

    def prepare_data(self) -> None:
        """Download, on one process alone."""
        self.data.prepare_data()

    def setup(self, stage: str) -> None:
        """Set the data set up; in a fit, encode its training and validation set, which else waits until they are asked for."""
        if not self.splits:
            self.data.trainer = self.trainer
            self.data.setup(stage)
            self._take_labels()
            self.leave_out()  # before anything is encoded
        if stage == "fit" and self.trainer is not None:
            self.encode("train", "val")

    def _take_labels(self) -> None:
        self.splits = {name: unencoded(name, split) for name, split in self.data.splits.items()}
        self._report = self.data.noise_report()
        self._identity = self._augmented = None
        self.num_classes, self.class_names = self.data.num_classes, self.data.class_names

    def fingerprint(self) -> str:
        """Return the SHA-256 of the training and validation inputs, and of the encoder."""
        return hashlib.sha256(f"{self.data.fingerprint()} {self.features.encoder_key}".encode()).hexdigest()

    def identity(self) -> dict[str, Any]:
        """Return what must be the same when a run is resumed: what the data set says, and how it is encoded."""
        return (
            fold_identity(self.fold, self.splits)
            | self.data.identity()
            | {
                "data.encoder (weights and settings, SHA-256)": self.features.encoder_key,
                "data.dtype": self.features.dtype,
                "data.passes": self.features.passes,
                "data.image_size": self.features.image_size,
                "data.features": "standardised by the training set",
            }
        )

    def originals(self, split: str) -> Originals:
        """Return what the data set's samples of a split were before they became numbers."""
        among = LEARNT_FROM if split in (*LEARNT_FROM, FOLD) else (split,)
        parts = [(self.data.splits[name].original_index, self.data.originals(name)) for name in among]
        return originals_among(self.splits[split].original_index, parts)

    def column(self, name: str, option: str = "--group") -> Sequence[Any]:
        """Return a column of the data set's table, by original index."""
        return self.data.column(name, option)

    # -- features -----------------------------------------------------------------------------------------------------

    @cached_property
    def num_features(self) -> int:
        """D; where no feature is known yet, a few samples are encoded to learn it."""
        if self._standard is not None:  # of a checkpoint
            return len(self._standard.mean)
        if not self.splits:
            self.prepare_data()
            self.setup("")
        return self.features.width(self._place())

    def encode(self, *names: str) -> None:
        """Encode splits, unless they are encoded already; without a name, all of them. All ranks must call it together."""
        for name in names or tuple(self.splits):
            if isinstance(self.splits[name].x, Unencoded):
                for remark in self._remarks_once():
                    say(remark)
                self._encode(name)

    def _encode(self, name: str) -> None:
        """Encode the splits of the data set that a split comes from, which are those of all folds, and take its rows."""
        split = self.splits[name]
        found = [rows_of(self.features.of(part, self._place()), where) for part, where in split.x.parts]
        plain = found[0][0] if len(found) == 1 else torch.cat([features for features, _, _ in found])
        read = torch.cat([each for _, _, each in found])
        self.splits[name] = Split(plain, *split.labels(read))
        if name == "train":
            self._augmented = found[0][1]

    def _remarks_once(self) -> list[str]:
        if self._remarks is None:
            return []
        remarks, self._remarks = self._remarks + self.features.remarks(), None
        return remarks

    def _place(self) -> Place:
        if self.trainer is None:
            return Place(torch.device("cpu"), 0, 1)
        return Place(self.trainer.strategy.root_device, self.trainer.global_rank, self.trainer.world_size)

    # -- batches ------------------------------------------------------------------------------------------------------

    def eval_transform(self) -> nn.Module:
        """Standardise by the training set, or by that of the checkpoint."""
        if self._standard is None:
            self.encode("train")
            self._standard = Standardise(*mean_and_deviation(self.splits["train"].x))
        return copy.deepcopy(self._standard)  # loaders move theirs to their device

    def new_from(self) -> KnownInputs:
        """Return the data set, which says how new samples are read."""
        return self.data

    def new_transform(self) -> nn.Module:
        """Return what the data set does to inputs, the encoder, and the standardisation, in one module."""
        encoding = Encoding(self.encoder, getattr(torch, self.features.dtype))
        return nn.Sequential(self.features.transform(), encoding, self.eval_transform())

    def train_dataloader(self) -> IndexLoader:
        """Return the training batches; of augmented passes one for each sample, or two where a method wants two views."""
        self.encode("train")
        transform, order = self.eval_transform(), {"shuffle_seed": base_seed(), "views": self._checked_views}
        if self._augmented is None:
            return self._loader("train", transform, **order)
        device, rank, ranks = self._place()
        place = {"rank": rank, "world_size": ranks, "device": device}
        return PassesLoader(self.splits["train"], self._augmented, self.batch_size, transform, **order, **place)

    def train_eval_dataloader(self, num_samples: int | None = None) -> IndexLoader:
        """Return the training set in index order without augmentation, or a seeded subset of ``num_samples``."""
        self.encode("train")  # which tells how many samples there are
        return super().train_eval_dataloader(num_samples)

    def predicted_split(self) -> str:
        """Return the name of the split that the data set predicts."""
        name = self.data.predicted_split()
        if name not in self.splits:
            self.splits[name] = unencoded(name, self.data.splits[name])
        return name

    def _loader(self, name: str, transform: nn.Module, **options: Any) -> IndexLoader:
        self.encode(name)
        return super()._loader(name, transform, **options)

    def _checked_views(self) -> int:
        if self.views > 1 and self.features.passes < 2:
            raise UserError(
                f"This method wants {self.views} augmented views of a sample, but there are features of {self.features.passes} "
                "augmented passes: set --data.passes 2 or more, or choose a method of one view."
            )
        return self.views

    def teardown(self, stage: str) -> None:
        """End the processes that read."""
        super().teardown(stage)
        self.data.teardown(stage)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what ``test`` and ``predict`` need of the run: the encoder's key, and by what features are standardised."""
        state: dict[str, Any] = {"encoder": self.features.encoder_key, "data": self.data.state_dict()}
        if self._standard is not None:
            state |= {"mean": self._standard.mean.clone(), "std": self._standard.std.clone()}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the mean and deviation of a checkpoint; refuse one of another encoder."""
        if state_dict.get("encoder") != self.features.encoder_key:
            raise UserError(
                f"The encoder {type(self.encoder).__name__} is not that of the checkpoint: its weights or settings are others "
                f"({self.features.encoder_key[:8]}, but {str(state_dict.get('encoder'))[:8]} in the checkpoint). Give the "
                "encoder of the run: --config RUN/config.yaml."
            )
        self.data.trainer = self.trainer
        if inner := state_dict.get("data"):
            before = self.data.splits
            self.data.load_state_dict(inner)
            if self.data.splits is not before:  # read anew, by the checkpoint's words
                self._take_labels()
                self.leave_out()
        if "mean" in state_dict:
            self._standard = Standardise(state_dict["mean"], state_dict["std"])


def check_arguments(data: Any, encoder: Any, dtype: str, passes: int, image_size: int | None) -> None:
    """Raise for arguments that cannot be meant."""
    if not isinstance(data, NoisyDataModule) or isinstance(data, EncodedDataModule):
        raise UserError(
            f"--data.data must be a data set of ldmi_lightning.datamodules, or a class derived from NoisyDataModule, that is not "
            f"encoded itself, but got {type(data).__name__}."
        )
    if not isinstance(encoder, nn.Module):
        raise UserError(f"--data.encoder must be an nn.Module, but got {type(encoder).__name__}.")
    if dtype not in get_args(FloatType):
        raise UserError(f"--data.dtype must be float32 or float16, but got {dtype}.")
    if passes < 0:
        raise UserError(f"--data.passes must be at least 0, but got {passes}.")
    if image_size is not None and image_size < 1:
        raise UserError(f"--data.image_size must be at least 1, but got {image_size}.")
