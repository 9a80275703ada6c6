"""VGG-16 with batch norm for 150×150 images: the paper's backbone for Dogs vs. Cats."""

from torch import nn

from ldmi_lightning.models.initial import draw


class VGG16BN(nn.Sequential):
    """Thirteen 3×3 convolutions with batch norm, five pools, and one linear layer 8192→C (Xu et al., 2019, Dogs vs. Cats).

    VGG-16 (Simonyan and Zisserman, 2015) without its two hidden linear layers: 14.7 million weights instead of 134.

    Args:
        num_classes: C.

    Shape:
        input ``(N, 3, 150, 150)`` floats, output ``(N, C)`` logits.
    """

    def __init__(self, num_classes: int) -> None:
        layers: list[nn.Module] = []
        channels = 3
        for width, depth in (64, 2), (128, 2), (256, 3), (512, 3), (512, 3):
            for _ in range(depth):
                # Batch norm takes a bias away again.
                convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
                nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
                layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        super().__init__(*layers, nn.Flatten(), nn.Linear(512 * 4 * 4, num_classes))

    def reset_parameters(self) -> None:
        """Draw all weights anew, as a new net's are drawn: for a second net like this one."""
        draw(self)
