"""A pass through a frozen encoder: fixed batches, shard by shard, each rank its share.

What a sample's features are must not depend on how often the pass was interrupted, nor on the number of ranks: the batches
that the encoder sees are cut by position alone, in float32, and what is random is seeded by position.
"""

import time
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ldmi_lightning.batch import Batch
from ldmi_lightning.datamodules.loaders import IndexLoader, ResidentLoader, Split
from ldmi_lightning.datamodules.streamed import Streamed, StreamedLoader
from ldmi_lightning.errors import UserError
from ldmi_lightning.inputs import num_samples, take, tensors_in
from ldmi_lightning.ranks import sum_over_ranks
from ldmi_lightning.saying import say
from ldmi_lightning.seeding import derived_seed

from .cache import FeatureFolder
from .progress import Progress, duration

BATCH = 64
"""Samples that the encoder sees at a time."""
say_once = cache(say)


class Place(NamedTuple):
    """Where a pass runs: the device of this process, and which of how many it is."""

    device: torch.device
    rank: int
    ranks: int


class FixedCuts(IndexLoader):
    """Batches that are given beforehand; augmentation, where there is some, is drawn by pass and position."""

    cuts: Sequence[Tensor] = ()
    number: int = 0

    def batches(self) -> Iterator[Tensor]:
        """Yield the batches' positions."""
        yield from self.cuts

    def batch(self, x: Any, index: Tensor) -> Batch:
        """Return a batch; one of which no image could be read has no inputs."""
        if not len(index):
            return Batch(None, index, index, index)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(derived_seed(self.number, int(index[0]) // BATCH))
            return super().batch(x, index)


class ResidentCuts(FixedCuts, ResidentLoader):
    """Fixed batches of inputs in memory."""


class StreamedCuts(FixedCuts, StreamedLoader):
    """Fixed batches of what is read meanwhile."""


class Pass(NamedTuple):
    """One pass over one split.

    Attributes:
        name: of the split.
        number: 0 for the inputs as they are, 1 to n for augmented ones.
        split: its inputs.
        transform: what is done to a stored batch before the encoder.
        num_workers: processes that read images.
    """

    name: str
    number: int
    split: Split
    transform: nn.Module
    num_workers: int

    def __str__(self) -> str:
        """Name it."""
        return f"the {self.name} split{f', augmented pass {self.number}' if self.number else ''}"

    def loader(self, shards: Sequence[range], device: torch.device) -> ResidentCuts | StreamedCuts:
        """Return the batches of some shards, in order."""
        streamed = isinstance(self.split.x, Streamed)
        loader: ResidentCuts | StreamedCuts
        if streamed:
            loader = StreamedCuts(self.split, BATCH, self.transform, num_workers=self.num_workers, device=device)
        else:
            loader = ResidentCuts(self.split, BATCH, self.transform, device=device)
        loader.cuts = [cut for shard in shards for cut in torch.arange(shard.start, shard.stop).split(BATCH)]
        loader.number = self.number
        return loader


def encode(run: Pass, encoder: nn.Module, folder: FeatureFolder, place: Place) -> None:
    """Write all shards of a pass that are not there: each rank its share, and none continues before all are done.

    Raises:
        UserError: an image, the encoder or the folder is at fault; on all ranks alike.
    """
    missing, damaged = folder.missing()
    for path in damaged:
        say(f"{path} is damaged, and is encoded anew.")
    own = [shard for shard in missing if shard % place.ranks == place.rank]
    begun, fault = time.monotonic(), None
    try:
        if own:
            _encode_shards(run, encoder, folder, own, place)
    except UserError as error:
        fault = error
    # A barrier, too: a rank that reads on must find the others' shards.
    faults = int(sum_over_ranks(torch.tensor([float(fault is not None)], device=place.device)))
    if fault is not None:
        raise fault
    if faults:
        raise UserError(f"{run} could not be encoded: another process says why.")
    samples = sum(len(folder.positions(shard)) for shard in missing)
    if not samples:
        say(f"The features of {run} ({folder.samples:,} samples) are in {folder.folder} already.")
        return
    folder.remove_abandoned()
    seconds = time.monotonic() - begun
    rest = f" of {folder.samples:,}" if samples < folder.samples else ""
    say(
        f"Encoded {samples:,}{rest} samples of {run} in {duration(seconds)} ({samples / seconds:,.0f} per second) into "
        f"{folder.folder}."
    )


def _encode_shards(run: Pass, encoder: nn.Module, folder: FeatureFolder, own: Sequence[int], place: Place) -> None:
    ranges = [folder.positions(shard) for shard in own]
    loader = run.loader(ranges, place.device)
    batches = iter(loader)
    try:
        with Progress(str(run), sum(map(len, ranges)), place.rank, place.ranks) as progress:
            for shard, positions in zip(own, ranges, strict=True):
                parts = []
                for _ in range(-(-len(positions) // BATCH)):
                    batch = next(batches)
                    if len(batch.index):
                        features, shape = encode_batch(encoder, batch.x)
                        parts.append((batch.index.cpu(), features))
                        if len(shape) == 4:
                            say_once(
                                f"The encoder gives maps of {shape[2]}×{shape[3]}: features are the mean over each."
                            )
                    progress.add(len(batch.index))
                folder.write(shard, _rows(parts, positions, run, folder))
    finally:
        if isinstance(loader, StreamedLoader):
            loader.close()


def encode_batch(encoder: nn.Module, x: Any) -> tuple[Tensor, torch.Size]:
    """Return the features of a batch, float32, shape ``(B, D)``, and the shape of what the encoder gave.

    Of maps ``(B, D, H, W)`` features are the mean over each.

    Raises:
        UserError: the encoder fails, or gives something else.

    >>> features, given = encode_batch(nn.Conv2d(3, 5, 1), torch.zeros(2, 3, 4, 4))
    >>> features.shape, given
    (torch.Size([2, 5]), torch.Size([2, 5, 4, 4]))
    """
    name, shapes = type(encoder).__name__, [tuple(tensor.shape) for _, tensor in tensors_in(x)]
    try:
        with torch.inference_mode(), torch.autocast(next(tensors_in(x))[1].device.type, enabled=False):
            given = encoder(x)
            features = given.mean((2, 3)) if isinstance(given, Tensor) and given.ndim == 4 else given
    except UserError:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"The encoder {name} fails on a batch of shape {', '.join(map(str, shapes))}: {reason}. Look at --data.encoder, and "
            "for images at --data.image_size."
        ) from error
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != shapes[0][0]:
        found = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
        raise UserError(
            f"The encoder {name} gives {found} for a batch of {shapes[0][0]}, but features are a tensor (B, D). Wrap it in a "
            "module that pools, or takes what is wanted out; for texts there is ldmi_lightning.models.TextEncoder."
        )
    return features.float(), given.shape


class Encoding(nn.Module):
    """A frozen encoder, which sees as many samples at a time as it does for a data set.

    Args:
        encoder: in eval mode.
        dtype: as which features are kept, so that those of new samples are rounded alike.

    >>> Encoding(nn.Flatten(), torch.float32)(torch.zeros(2, 3, 4)).shape
    torch.Size([2, 12])
    """

    def __init__(self, encoder: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.encoder, self.dtype = encoder, dtype

    def forward(self, x: Any) -> Tensor:
        """Return features, shape ``(B, D)``."""
        parts = [take(x, slice(begin, begin + BATCH)) for begin in range(0, num_samples(x), BATCH)]
        return torch.cat([encode_batch(self.encoder, part)[0].to(self.dtype) for part in parts])


def _rows(
    parts: Sequence[tuple[Tensor, Tensor]], positions: range, run: Pass, folder: FeatureFolder
) -> NDArray[np.floating]:
    """Return the rows of a shard; NaN where an image could not be read.

    Raises:
        UserError: a feature is no number, or none that the type can hold; or no image of the shard can be read.
    """
    if not parts:
        raise UserError(
            f"No image of {run} from {positions.start} to {positions.stop - 1} can be read. Look at --data.data.root."
        )
    places = torch.cat([index for index, _ in parts]).numpy() - positions.start
    found = torch.cat([features for _, features in parts]).cpu().numpy()
    if not np.isfinite(found).all():
        worst = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
        raise UserError(
            f"The encoder gives NaN or infinity for {_sample(run, positions.start + int(places[worst]))}. Look at that input and "
            "at the encoder's weights."
        )
    largest = float(np.finfo(folder.dtype).max)
    if (too_large := np.abs(found).max(axis=1) > largest).any():
        worst = int(np.flatnonzero(too_large)[0])
        raise UserError(
            f"A feature of {_sample(run, positions.start + int(places[worst]))} is {np.abs(found[worst]).max():.3g}, more than "
            f"{folder.dtype} can hold ({largest:g}): set --data.dtype float32."
        )
    rows = np.full((len(positions), found.shape[1]), np.nan, dtype=np.float32)
    rows[places] = found
    return rows


def _sample(run: Pass, position: int) -> str:
    original = int(run.split.original_index[position])
    file = f", {run.split.x.name(position)}" if isinstance(run.split.x, Streamed) else ""
    return f"sample {position} of {run} (number {original} of the data set{file})"
