"""ResNet-34 for 32×32 images: the paper's backbone for CIFAR-10."""

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from ldmi_lightning.models.initial import draw


class ResNet34(ResNet):  # type: ignore[misc]  # torchvision is not typed
    """ResNet-34 (He et al., 2016) with a 3×3 first convolution of stride 1 and no max-pooling, as is usual for 32×32 images.

    Args:
        num_classes: C.

    Shape:
        input ``(N, 3, 32, 32)`` floats, output ``(N, C)`` logits.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(BasicBlock, [3, 4, 6, 3], num_classes=num_classes)
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()

    def reset_parameters(self) -> None:
        """Draw all weights anew, as a new net's are drawn: for a second net like this one."""
        draw(self)
