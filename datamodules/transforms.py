"""Transforms of whole batches on the device: the same code on CPU and GPU."""

import torch
from torch import Tensor, nn


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
