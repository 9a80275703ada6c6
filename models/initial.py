"""Initial weights of the convolutional nets, drawn once more for a second net like the first."""

from torch import nn


def draw(net: nn.Module) -> None:
    """Draw all weights of a net anew: convolutions by He et al. (2015) and their outputs, the rest as PyTorch does.

    >>> net = nn.Sequential(nn.Conv2d(8, 32, 3, bias=False))
    >>> draw(net)
    >>> abs(net[0].weight.std().item() / (2 / (32 * 9)) ** 0.5 - 1) < 0.1
    True
    """
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif part is not net and callable(reset := getattr(part, "reset_parameters", None)):
            reset()
