"""A small convolutional net for scikit-learn's 8×8 digits."""

from torch import nn


class DigitsCNN(nn.Sequential):
    """Two 3×3 convolutions and a hidden layer, some 85,000 weights.

    Args:
        num_classes: C.

    Shape:
        input ``(N, 1, 8, 8)`` floats, output ``(N, C)`` logits.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, 64),
            nn.ReLU(),
            nn.Linear(64, num_classes),
        )
