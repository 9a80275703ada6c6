"""Transforms of whole batches on the device: the same code, and the same pixels, on CPU and GPU.

The random ones take uint8 images ``(N, C, H, W)`` and draw for each image. They draw on the CPU, from torch's own
generator, which the module seeds at each epoch, and only what was drawn travels to the device.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ldmi_lightning.errors import UserError

AT_ONCE = 2**20
"""Bytes of images that a CPU works on at once: what they need on the way then stays in its cache."""
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""What nets with weights from ImageNet were trained on."""


class Normalise(nn.Module):
    """Turn uint8 images ``(N, C, H, W)`` into floats: ``(x / scale - mean) / std``, per channel.

    Args:
        mean: mean of each channel, of values in [0, 1].
        std: standard deviation of each channel.
        scale: the stored value that stands for 1.

    >>> Normalise([0.5], [0.5])(torch.tensor([[[[0, 255]]]], dtype=torch.uint8)).tolist()
    [[[[-1.0, 1.0]]]]
    """

    factor: Tensor
    offset: Tensor

    def __init__(self, mean: list[float], std: list[float], scale: float = 255) -> None:
        super().__init__()
        centre, spread = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)
        self.register_buffer("factor", 1 / (scale * spread))
        self.register_buffer("offset", -centre / spread)

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 images of the same shape."""
        return x.to(torch.float32).mul_(self.factor).add_(self.offset)


class CenterCrop(nn.Module):
    """Cut a square out of the middle of each image.

    Args:
        size: height and width of the square.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Return images ``(N, C, size, size)``."""
        top, left = (spare // 2 for spare in _spare(x, self.size))
        return x[..., top : top + self.size, left : left + self.size]


class RandomCrop(nn.Module):
    """Cut a square out of each image, every place with the same probability.

    Args:
        size: height and width of the square.
        padding: width of the black border that each image gets first.
        flip: mirror as well, as :class:`RandomFlip` would after it, at little cost.
    """

    def __init__(self, size: int, padding: int = 0, *, flip: bool = False) -> None:
        super().__init__()
        self.size, self.padding, self.flip = size, padding, flip

    def forward(self, x: Tensor) -> Tensor:
        """Return images ``(N, C, size, size)``."""
        top, left = (torch.randint(spare + 1, (len(x),)) for spare in _spare(x, self.size, self.padding))
        mirrored = _coins(x) if self.flip else None
        return in_parts(lambda *part: crop(*part, size=self.size, padding=self.padding), x, top, left, mirrored)


class RandomFlip(nn.Module):
    """Mirror each image left to right with probability 1/2."""

    def forward(self, x: Tensor) -> Tensor:
        """Return images of the same shape."""
        return flip(x, _coins(x))


class RandomRotation(nn.Module):
    """Rotate each image about its centre by an angle between ``-degrees`` and ``degrees``, to the nearest pixel.

    Args:
        degrees: the largest angle.
        flip: mirror as well, as :class:`RandomFlip` would after it, at no cost.
    """

    def __init__(self, degrees: float, *, flip: bool = False) -> None:
        super().__init__()
        self.degrees, self.flip = degrees, flip

    def forward(self, x: Tensor) -> Tensor:
        """Return images of the same shape; what comes from outside an image is black."""
        degrees = (2 * torch.rand(len(x)) - 1) * self.degrees
        return in_parts(rotate, x, degrees, _coins(x) if self.flip else None)


def crop(
    x: Tensor, top: Tensor, left: Tensor, mirrored: Tensor | None = None, *, size: int, padding: int = 0
) -> Tensor:
    """Cut a square out of each image.

    Args:
        x: images, shape ``(N, C, H, W)``.
        top: first row of each square, in the image with its border, shape ``(N,)``, int64, on the CPU.
        left: first column of each square, likewise.
        mirrored: squares to mirror left to right, shape ``(N,)``, bool, on the CPU; ``None`` for none.
        size: height and width of the squares.
        padding: width of the border of zeros that each image gets first.

    Returns:
        Shape ``(N, C, size, size)``, a view of a little more.

    >>> x = torch.arange(9).view(1, 1, 3, 3)
    >>> crop(x, torch.tensor([1]), torch.tensor([0]), size=2).tolist()
    [[[[3, 4], [6, 7]]]]
    >>> crop(x, torch.tensor([2]), torch.tensor([0]), torch.tensor([True]), size=2, padding=1).tolist()
    [[[[3, 0], [6, 0]]]]
    """
    n, channels, height, width = x.shape
    # Laid out with a border below and to the right alone: it is the next row's, and the next channel's, border as well.
    rows, columns = height + padding, width + padding
    border, image = padding * columns + padding, channels * rows * columns
    laid_out = x.new_zeros(border + n * image)
    inner = laid_out[border:].view(n, channels, rows, columns)[..., :height, :width]
    place = torch.arange(n)
    if mirrored is None:
        inner.copy_(x)
    else:
        order, count = _mirrored_last(mirrored)
        ordered = x.index_select(0, _to(x.device, order))
        inner[:count], inner[count:] = ordered[:count], ordered[count:].flip(-1)
        place, left = order.argsort(), torch.where(mirrored, width + 2 * padding - size - left, left)
    # From a square's first pixel to its last, memory is one piece: copying that is much faster than picking rows.
    piece = (channels - 1) * rows * columns + (size - 1) * columns + size
    first = place * image + top * columns + left
    pieces = laid_out.unfold(0, piece, 1).index_select(0, _to(x.device, first))
    return pieces.as_strided((n, channels, size, size), (piece, rows * columns, columns, 1))


def flip(x: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror some of the images left to right.

    Args:
        x: images, shape ``(N, C, H, W)``.
        mirrored: images to mirror, shape ``(N,)``, bool, on the CPU.

    Returns:
        Images of the same shape.

    >>> flip(torch.tensor([1, 2, 3, 4]).view(2, 1, 1, 2), torch.tensor([True, False])).flatten().tolist()
    [2, 1, 3, 4]
    """
    order, count = _mirrored_last(mirrored)
    order, back = _to(x.device, torch.stack([order, order.argsort()]))
    kept, turned = x.index_select(0, order[:count]), x.index_select(0, order[count:])
    return torch.cat([kept, turned.flip(-1)]).index_select(0, back)


def rotate(x: Tensor, degrees: Tensor, mirrored: Tensor | None = None) -> Tensor:
    """Rotate each image about its centre, counter-clockwise, to the nearest pixel.

    Args:
        x: images, shape ``(N, C, H, W)``.
        degrees: angle of each image, shape ``(N,)``, on the CPU.
        mirrored: rotated images to mirror left to right, shape ``(N,)``, bool, on the CPU; ``None`` for none.

    Returns:
        Images of the same shape; what comes from outside an image is 0.

    >>> rotate(torch.arange(4).view(1, 1, 2, 2), torch.tensor([90.0])).tolist()
    [[[[1, 3], [0, 2]]]]
    """
    n, channels, height, width = x.shape
    # With a border as wide as the corners reach, no pixel comes from outside.
    reach = math.hypot(height, width) / 2
    above, beside = (math.ceil(reach - length / 2) + 1 for length in (height, width))
    angle = torch.deg2rad(degrees).view(n, 1, 1)
    down, right = (torch.arange(length) - (length - 1) / 2 for length in (height, width))
    if mirrored is not None:
        right = torch.where(mirrored.view(n, 1, 1), -right, right)
    # Where a pixel comes from, as a sum of what its row and what its column give; the half is for rounding.
    row_down = angle.cos() * down.view(-1, 1) + ((height - 1) / 2 + above + 0.5)
    row_right = angle.sin() * right
    column_down = angle.sin() * -down.view(-1, 1) + ((width - 1) / 2 + beside + 0.5)
    column_right = angle.cos() * right
    terms = [_to(x.device, term) for term in (row_down, row_right, column_down, column_right)]

    row, column = ((a + b).to(torch.int32) for a, b in (terms[:2], terms[2:]))
    source = row.mul_(width + 2 * beside).add_(column).to(torch.int64).view(n, 1, -1)
    padded = nn.functional.pad(x, [beside, beside, above, above]).flatten(2)
    return padded.gather(2, source.expand(n, channels, -1)).view(x.shape)


def in_parts(transform: Callable[..., Tensor], x: Tensor, *drawn: Tensor | None) -> Tensor:
    """Return ``transform(x, *drawn)``; a CPU works through the images, and what was drawn for each, in parts."""
    parts = -(-x.nbytes // AT_ONCE) if x.device.type == "cpu" else 1
    if parts < 2:
        return transform(x, *drawn)
    cut = (t.tensor_split(parts) if t is not None else [None] * parts for t in (x, *drawn))
    return torch.cat([transform(*part) for part in zip(*cut, strict=True)])


def _coins(x: Tensor) -> Tensor:
    return torch.rand(len(x)) < 0.5


def _mirrored_last(mirrored: Tensor) -> tuple[Tensor, int]:
    """Return an order that puts the images to mirror last, and how many come before them."""
    return mirrored.to(torch.uint8).argsort(stable=True), len(mirrored) - int(mirrored.sum())


def _spare(x: Tensor, size: int, padding: int = 0) -> tuple[int, int]:
    """Return how many rows and columns of the images, with their border, a square of ``size`` leaves over."""
    height, width = x.shape[-2:]
    if min(height, width) + 2 * padding < size:
        raise UserError(
            f"A square of {size}×{size} cannot be cut out of images of {height}×{width}: choose a smaller one."
        )
    return height + 2 * padding - size, width + 2 * padding - size


def _to(device: torch.device, drawn: Tensor) -> Tensor:
    """Move what was drawn on the CPU to the device, without waiting for it."""
    return drawn.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else drawn
