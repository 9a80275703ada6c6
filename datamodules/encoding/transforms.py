"""Features as inputs: what is done to images before an encoder, to features after it, and batches of augmented passes."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from ldmi_lightning.batch import Batch
from ldmi_lightning.datamodules.loaders import IndexLoader, Split
from ldmi_lightning.datamodules.transforms import Normalise
from ldmi_lightning.errors import UserError
from ldmi_lightning.seeding import derived_seed

CONSTANT = 1e-6
"""A deviation of less than so much of the mean is rounding: the feature is constant."""
CHUNK = 4096
DRAWS = 2
"""Tells the stream that chooses among passes from those of order and dropout."""


class Resize(nn.Module):
    """Bring images ``(N, C, H, W)`` to one size.

    Args:
        size: height and width.

    >>> Resize(4)(torch.zeros(1, 3, 2, 2)).shape
    torch.Size([1, 3, 4, 4])
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Any) -> Tensor:
        """Return images ``(N, C, size, size)``."""
        if not isinstance(x, Tensor) or x.ndim != 4:
            found = f"inputs of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise UserError(f"--data.image_size is for images (N, C, H, W), but the data gives {found}: leave it out.")
        resized: Tensor = F.resize(x, [self.size, self.size], antialias=True)
        return resized


def with_colours(transform: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[nn.Module, bool]:
    """Return a transform that normalises images in another way, and whether anything is different.

    Args:
        transform: what holds :class:`~.transforms.Normalise` for as many channels as there are means; any other is left alone.
        mean: mean of each channel, of values in [0, 1].
        std: standard deviation of each channel.

    >>> with_colours(nn.Sequential(nn.Identity(), Normalise([0.2], [1.0])), (0.5,), (0.5,))[1]
    True
    """
    wanted = Normalise(list(mean), list(std))
    changed = copy.deepcopy(transform)
    if isinstance(changed, Normalise) and changed.factor.shape == wanted.factor.shape:
        return wanted, not (torch.equal(changed.factor, wanted.factor) and torch.equal(changed.offset, wanted.offset))
    different = False
    for name, part in list(changed.named_children()):
        other, is_different = with_colours(part, mean, std)
        changed.set_submodule(name, other)
        different |= is_different
    return changed, different


class Standardise(nn.Module):
    """Subtract a mean from each feature, and divide by a deviation.

    Args:
        mean: shape ``(D,)``.
        std: shape ``(D,)``.

    >>> Standardise(torch.tensor([1.0]), torch.tensor([2.0]))(torch.tensor([[5.0]], dtype=torch.float16))
    tensor([[2.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 features of the same shape."""
        return x.to(torch.float32).sub(self.mean).div(self.std)


def mean_and_deviation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation of each feature, in float32 on the CPU; 1 for the deviation of a constant one.

    Args:
        x: features, shape ``(N, D)``.

    >>> mean_and_deviation(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    (tensor([2., 5.]), tensor([1., 1.]))
    """
    total = x.new_zeros(x.shape[1], dtype=torch.float64)
    for some in x.split(CHUNK):  # a copy of all of it in float64 would be large
        total += some.double().sum(0)
    mean = total / len(x)
    squares = torch.zeros_like(total)
    for some in x.split(CHUNK):
        squares += (some.double() - mean).square().sum(0)
    std = (squares / len(x)).sqrt()
    std[std <= CONSTANT * mean.abs()] = 1
    return mean.float().cpu(), std.float().cpu()


class PassesLoader(IndexLoader):
    """Training batches of features of augmented passes: of each sample one pass, which seed and epoch choose, or two.

    Args:
        split: the labels; positions in it are those of ``passes``.
        passes: features, shape ``(N, n, D)``.
    """

    def __init__(self, split: Split, passes: Tensor, *args: Any, **kwargs: Any) -> None:
        super().__init__(split, *args, **kwargs)
        self.split = split.to(self.device)
        self.passes = passes.to(self.device)

    def __iter__(self) -> Iterator[Batch]:
        first, second = (each.to(self.device) for each in self.choices())
        batches = list(self.batches())
        for index in torch.cat(batches).to(self.device).split([len(batch) for batch in batches]):
            y, y_clean = self.split.y.index_select(0, index), self.split.y_clean.index_select(0, index)
            views = [self.transform(self.passes[index, choice[index]]) for choice in (first, second)[: self.views()]]
            votes = None if self.split.votes is None else self.split.votes.index_select(0, index)
            yield Batch(views[0], y, index, y_clean, second_view=views[1] if len(views) > 1 else None, votes=votes)

    def choices(self) -> tuple[Tensor, Tensor]:
        """Return the passes of each sample's first and second view in the epoch, shapes ``(N,)``; they differ where they can."""
        samples, n = self.passes.shape[:2]
        seed = derived_seed(self.shuffle_seed or 0, self.epoch, 0, DRAWS)
        generator = torch.Generator().manual_seed(seed)
        first = torch.randint(n, (samples,), generator=generator)
        return first, (first + torch.randint(1, max(n, 2), (samples,), generator=generator)) % n
