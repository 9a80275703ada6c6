"""A small convolutional net for 32×32 images, for machines without a GPU."""

from torch import nn


class CIFARCNN(nn.Sequential):
    """Four 3×3 convolutions (32-64-128-128) with batch norm, a pool after each, and a linear layer: 242,474 weights at C = 10.

    Some 60 seconds an epoch of CIFAR-10 on one CPU core, where :class:`~ldmi_lightning.models.ResNet34` takes an hour and more.

    Args:
        num_classes: C.

    Shape:
        input ``(N, 3, 32, 32)`` floats, output ``(N, C)`` logits.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            *_convolution(3, 32),
            nn.MaxPool2d(2),
            *_convolution(32, 64),
            nn.MaxPool2d(2),
            *_convolution(64, 128),
            nn.MaxPool2d(2),
            *_convolution(128, 128),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(128, num_classes),
        )


def _convolution(channels: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
