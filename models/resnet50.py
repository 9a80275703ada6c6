"""torchvision's ResNet-50: the paper's backbone for Clothing1M."""

import torch
from torch import Tensor
from torchvision.models import ResNet50_Weights
from torchvision.models.resnet import Bottleneck, ResNet

from ldmi_lightning.models.initial import draw


class ResNet50(ResNet):  # type: ignore[misc]  # torchvision is not typed
    """ResNet-50 (He et al., 2016) with a last layer of its own.

    Args:
        num_classes: C.
        weights: what all layers but the last start from: ``"random"``; ``"imagenet"`` for the weights that torchvision
            downloads (``IMAGENET1K_V1``, those of the paper's time); or a local file that holds a state dict of
            torchvision's ResNet-50, whose last layer is left out.

    Shape:
        input ``(N, 3, H, W)`` floats, in the paper 224×224; output ``(N, C)`` logits.
    """

    def __init__(self, num_classes: int, weights: str = "random") -> None:
        super().__init__(Bottleneck, [3, 4, 6, 3], num_classes=num_classes)
        self.pretrained = weights != "random"
        if weights == "random":
            return
        given = _download() if weights == "imagenet" else _read(weights)
        own = self.state_dict()
        # The last layer is this model's, and old files lack counters of batches.
        counters = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
        given = {**counters, **given, "fc.weight": own["fc.weight"], "fc.bias": own["fc.bias"]}
        if fault := _misfit(given, own):
            raise ValueError(f"--model.backbone.weights {weights} are not those of torchvision's ResNet-50: {fault}.")
        self.load_state_dict(given)

    def reset_parameters(self) -> None:
        """Draw the last layer's weights anew, and the others' where they are not given: for a second net like this one."""
        if self.pretrained:
            self.fc.reset_parameters()
        else:
            draw(self)


def _download() -> dict[str, Tensor]:
    try:
        return dict(ResNet50_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:  # no network; a download cut short
        raise ValueError(
            f"The ImageNet weights of ResNet-50 could not be loaded ({error}). Download "
            f"{ResNet50_Weights.IMAGENET1K_V1.url} and give the file with --model.backbone.weights FILE, or start from "
            "random weights with --model.backbone.weights random."
        ) from error


def _read(path: str) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # There is no end to what a broken file raises.
        reason = "no such file" if isinstance(error, FileNotFoundError) else "it is damaged, or holds more than tensors"
        raise ValueError(
            f"--model.backbone.weights {path} cannot be read as weights of PyTorch ({reason}). Give a file with a state "
            "dict, or imagenet, or random."
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"--model.backbone.weights {path} holds a {type(state).__name__}, but must hold a state dict.")
    return state


def _misfit(given: dict[str, Tensor], own: dict[str, Tensor]) -> str:
    """Say in what a state dict differs from the model's; empty where it fits."""
    for name, value in own.items():
        if name not in given:
            return f"they lack {name}"
        shape = tuple(getattr(given[name], "shape", ()))
        if shape != value.shape:
            return f"{name} has shape {shape}, but must have {tuple(value.shape)}"
    unknown = [name for name in given if name not in own]
    return f"{unknown[0]} is unknown" if unknown else ""
