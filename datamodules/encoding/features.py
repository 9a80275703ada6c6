"""The features of a data set's splits: where each pass is kept, computed where it is not, and read back."""

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ldmi_lightning import cpu_speed
from ldmi_lightning.datamodules.base import NoisyDataModule
from ldmi_lightning.datamodules.fingerprints import described
from ldmi_lightning.errors import UserError
from ldmi_lightning.models.encoders import expected_colours
from ldmi_lightning.saying import say

from .cache import SHARD, FeatureFolder, key_of
from .digest import encoder_code, encoder_digest, encoder_versions, stored_digest
from .encode import BATCH, Pass, Place, encode, encode_batch
from .transforms import Resize, with_colours

FORMAT = 1
"""Raised where the same settings begin to give other features."""
FEW = 8
"""So many samples tell how many features there are."""


class SplitFeatures(NamedTuple):
    """The features of one split.

    Attributes:
        plain: of the inputs as they are, shape ``(N, D)``, on the CPU.
        augmented: of the augmented passes, shape ``(N, n, D)``; ``None`` where there are none.
        kept: the positions of the N samples in the data set's split; ``None`` for all of them.
    """

    plain: Tensor
    augmented: Tensor | None
    kept: Tensor | None


class Features:
    """The features that an encoder gives for a data set, and the cache that keeps them.

    Args:
        data: the data set.
        encoder: in eval mode.
        cache: folder for features.
        dtype: ``"float32"`` or ``"float16"``.
        passes: number of augmented passes over the training set.
        image_size: height and width to which images are brought; ``None`` to leave them.
    """

    def __init__(
        self, data: NoisyDataModule, encoder: nn.Module, cache: str, dtype: str, passes: int, image_size: int | None
    ) -> None:
        self.data, self.encoder = data, encoder
        self.cache, self.dtype, self.passes, self.image_size = cache, dtype, passes, image_size
        self._digests: dict[str, tuple[Any, str]] = {}

    @cached_property
    def encoder_key(self) -> str:
        """The SHA-256 of the encoder's weights and settings."""
        return encoder_digest(self.encoder)

    @cached_property
    def encoder_parts(self) -> dict[str, Any]:
        """What of the encoder features depend on."""
        return {
            "encoder": self.encoder_key,
            "encoder_code": encoder_code(self.encoder),
            "versions": encoder_versions(self.encoder),
        }

    def width(self, place: Place) -> int:
        """Return D; where no feature is known yet, a few training samples are encoded to learn it."""
        first = self.made_by("train", 0)
        if (known := self.folder(first).width()) is not None:
            return known
        self.encoder.to(place.device)
        for batch in first.loader([range(min(len(first.split), FEW))], place.device):
            if len(batch.index):
                return encode_batch(self.encoder, batch.x)[0].shape[1]
        raise UserError(f"None of the first {FEW} training images can be read. Look at --data.data.root.")

    def of(self, name: str, place: Place) -> SplitFeatures:
        """Return the features of a split, after those that are missing were computed; all ranks must call it together.

        Raises:
            UserError: an image, the encoder or the cache is at fault.
        """
        runs = [self.made_by(name, number) for number in range(1 + (self.passes if name == "train" else 0))]
        folders = [self.folder(run) for run in runs]
        if place.device.type == "cpu":
            cpu_speed.prepare_process()  # twice as fast: activations are large blocks, freed after each layer
        self.encoder.to(place.device)
        for run, folder in zip(runs, folders, strict=True):
            encode(run, self.encoder, folder, place)
            if place.rank == 0:
                folder.describe(self.in_words(run, folder))
        self.encoder.to("cpu")  # which leaves an accelerator's memory to the training
        plain = folders[0].read()
        broken, augmented = plain[:, 0].isnan(), None
        if len(runs) > 1:
            augmented = torch.empty(len(plain), len(runs) - 1, plain.shape[1], dtype=plain.dtype)
            for number, folder in enumerate(folders[1:]):
                folder.read(into=augmented[:, number])
            broken |= augmented[:, :, 0].isnan().any(1)
        if not broken.any():
            return SplitFeatures(plain, augmented, None)
        kept = self._readable(name, broken)
        return SplitFeatures(plain[kept], augmented[kept] if augmented is not None else None, kept)

    def _readable(self, name: str, broken: Tensor) -> Tensor:
        """Return the positions of the images that could be read, or refuse the others, as the data set says."""
        files = self.data.splits[name].x
        if not files.skip_broken:
            raise UserError(
                f"{files.name(int(broken.nonzero()[0]))} could not be read when features were computed. Repair or replace it, or "
                "leave such images out with --data.data.skip_broken true."
            )
        say(f"{int(broken.sum()):,} of {len(broken):,} images of the {name} split cannot be read and are left out.")
        return (~broken).nonzero().flatten()

    def made_by(self, name: str, number: int) -> Pass:
        """Return the pass over a split, as it is or augmented, that makes features."""
        return Pass(name, number, self.data.splits[name], self.transform(number > 0), self.data.num_workers)

    def transform(self, augmented: bool = False) -> nn.Module:
        """Return what turns stored inputs into the encoder's."""
        transform = self.data.train_transform() if augmented else self.data.eval_transform()
        if (colours := expected_colours(self.encoder)) is not None:
            transform, _ = with_colours(transform, *colours)
        if self.image_size is not None:
            transform = nn.Sequential(transform, Resize(self.image_size))
        return transform

    def folder(self, run: Pass) -> FeatureFolder:
        """Return where a pass is kept: its name stands for all that the features depend on."""
        folder = Path(self.cache) / key_of(self.content(run))
        return FeatureFolder(folder, len(run.split), self.dtype, f"--data.cache {self.cache}")

    def content(self, run: Pass) -> dict[str, Any]:
        """Return all that the features of a pass depend on."""
        x = run.split.x
        if run.name not in self._digests or self._digests[run.name][0] is not x:
            self._digests[run.name] = (x, stored_digest(x))
        return {
            "format": [FORMAT, BATCH, SHARD],
            **self.encoder_parts,
            "transform": described(run.transform),
            "pass": run.number,
            "dtype": self.dtype,
            "inputs": self._digests[run.name][1],
        }

    def in_words(self, run: Pass, folder: FeatureFolder) -> dict[str, Any]:
        """Return what a folder holds, for people."""
        parameters = sum(parameter.numel() for parameter in self.encoder.parameters())
        return {
            "what": f"features of {run} of {type(self.data).__name__}: a row for each sample, in the order of the split",
            "encoder": f"{type(self.encoder).__name__}, {parameters:,} parameters",
            "samples": len(run.split),
            "features": folder.width(),
            "files": f"{SHARD} samples each, {self.dtype}, not standardised; NaN where an image could not be read",
            "made_from": self.content(run),
        }

    def remarks(self) -> list[str]:
        """Return a line for each thing that is not as the data set would have it by itself.

        Raises:
            UserError: augmented passes are asked for where there is no augmentation.
        """
        lines, name = [], type(self.data).__name__
        colours = expected_colours(self.encoder)
        if colours is not None and with_colours(self.data.eval_transform(), *colours)[1]:
            mean, std = (", ".join(f"{value:g}" for value in part) for part in colours)
            lines.append(
                f"Images are normalised as the encoder expects, by mean ({mean}) and deviation ({std}), not as {name} does."
            )
        has_augmentation = described(self.data.eval_transform()) != described(self.data.train_transform())
        if has_augmentation and not self.passes:
            lines.append(
                f"Features are computed without {name}'s augmentation; --data.passes N adds N augmented passes."
            )
        if self.passes and not has_augmentation:
            raise UserError(
                f"--data.passes {self.passes} asks for augmented passes, but {name} has no augmentation, so that all would be "
                "the same. Leave it out, or give the data set an augmentation."
            )
        return lines
