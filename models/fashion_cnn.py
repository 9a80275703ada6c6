"""The paper's convolutional net for Fashion-MNIST."""

from torch import nn


class FashionCNN(nn.Sequential):
    """Convolution 5×5 16, pool, convolution 5×5 32, pool, dropout 0.5, linear 512→C (Xu et al., 2019, Fashion-MNIST).

    Args:
        num_classes: C.

    Shape:
        input ``(N, 1, 28, 28)`` floats, output ``(N, C)`` logits.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(32 * 4 * 4, num_classes),
        )
