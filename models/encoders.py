"""Pretrained nets as encoders: built, their heads taken off, what images they expect; and a probe to train on features."""

import copy
import pydoc
from typing import Any

from torch import Tensor, nn

HEADS = ("fc", "classifier", "head", "heads")
"""What torchvision's classifiers call the part that ends with the layer of their classes."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of the colours, by which all of torchvision's weights expect images to be normalised."""


def without_head(net: nn.Module) -> tuple[nn.Module, str]:
    """Return a classifier of torchvision or timm without the layer of its classes, and a line that says so.

    A net of somebody else's, or one without such a layer, comes back as it is, with an empty line. The net that is given
    keeps its head.

    Raises:
        ValueError: a classifier of torchvision does not end with a linear layer, so that nobody knows what to take off.

    >>> import torch
    >>> from torchvision.models import resnet18
    >>> net, line = without_head(resnet18().eval())
    >>> net(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 512])
    >>> line
    "ResNet's head fc (512 → 1000) is taken off: the features are what it is given."
    """
    library = type(net).__module__.split(".")
    classes: Any = getattr(net, "num_classes", None)
    if library[0] == "timm" and classes:
        bare: Any = copy.deepcopy(net)
        bare.reset_classifier(0)
        return (
            bare,
            f"{_name(net)}'s head for {classes} classes is taken off: the features are what it is given.",
        )
    if library[:2] != ["torchvision", "models"] or len(library) > 3:  # not those for detection and segmentation
        return net, ""
    for name in HEADS:
        if (part := getattr(net, name, None)) is None:
            continue
        place, layer = _last_layer(part, name)
        if isinstance(layer, nn.Linear):
            bare = copy.deepcopy(net)
            bare.set_submodule(place, nn.Identity())
            sizes = f"{layer.in_features} → {layer.out_features}"
            return bare, f"{_name(net)}'s head {place} ({sizes}) is taken off: the features are what it is given."
        if isinstance(layer, nn.Identity):  # taken off already
            return net, ""
    raise ValueError(
        f"{_name(net)} does not end with a linear layer, so that nobody knows what its features are. Take another net, or "
        "wrap it in a module of your own whose output is (B, D)."
    )


def _last_layer(part: nn.Module, name: str) -> tuple[str, nn.Module]:
    """Return where the last layer of a part stands, and the layer."""
    while children := list(part.named_children()):
        name, part = f"{name}.{children[-1][0]}", children[-1][1]
    return name, part


def _name(net: nn.Module) -> str:
    return type(net).__name__


def expected_colours(net: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the mean and standard deviation by which a pretrained net expects images to be normalised; ``None`` if unknown.

    timm's nets say so themselves, and torchvision's weights share one.

    >>> from torchvision.models import resnet18
    >>> expected_colours(resnet18())
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    >>> expected_colours(nn.Linear(2, 2)) is None
    True
    """
    library = type(net).__module__.split(".")
    if library[0] == "timm":
        said = getattr(net, "pretrained_cfg", None) or {}
        return (tuple(said["mean"]), tuple(said["std"])) if {"mean", "std"} <= set(said) else None
    return IMAGENET if library[:2] == ["torchvision", "models"] else None


def built_by(function: str, arguments: dict[str, Any] | None = None) -> nn.Module:
    """Return the net that a function builds: for a configuration, which else takes only functions that say what they return.

    Args:
        function: its dotted path; a class's method is one, too.
        arguments: its arguments, by name.

    Raises:
        ValueError: there is no such function, or it returns something else.

    >>> built_by("torch.nn.Linear", {"in_features": 2, "out_features": 3})
    Linear(in_features=2, out_features=3, bias=True)
    """
    found = pydoc.locate(function)
    if not callable(found):
        raise ValueError(
            f"{function} is no function that can be imported. Give its dotted path, such as torch.hub.load."
        )
    net = found(**(arguments or {}))
    if not isinstance(net, nn.Module):
        raise ValueError(f"{function} returns a {type(net).__name__}, but an nn.Module is needed.")
    return net


class Probe(nn.Module):
    """A classifier on features: a linear layer, or two with a rectifier between them.

    Args:
        num_features: D; on the command line it is taken from data that is encoded.
        num_classes: C; likewise.
        hidden: width of the hidden layer; 0 for none.
        dropout: share of the last layer's inputs that is dropped in training.

    Shape:
        input ``(N, D)``, output ``(N, C)`` logits.

    >>> Probe(384, 2)
    Probe(
      (layers): Sequential(
        (0): Linear(in_features=384, out_features=2, bias=True)
      )
    )
    """

    def __init__(self, num_features: int = 0, num_classes: int = 2, hidden: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(
                f"Probe needs num_features, the length of a sample's vector, but got {num_features}: on the command line "
                "it is taken from the data, where that is an EncodedDataModule."
            )
        body: list[nn.Module] = [nn.Linear(num_features, hidden), nn.ReLU()] if hidden else []
        drop: list[nn.Module] = [nn.Dropout(dropout)] if dropout else []
        self.layers = nn.Sequential(*body, *drop, nn.Linear(hidden or num_features, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.layers(x)
        return logits
