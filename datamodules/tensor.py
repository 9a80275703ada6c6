"""Arrays in memory as a data set: for data of one's own, in Python."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import Noise

from .base import Examples
from .own_data import OwnData, check_class_names, class_indices, normalise_images
from .splits import fill_splits
from .text import TokenIds


class TensorDataModule(OwnData):
    """NumPy arrays, torch tensors or lists.

    A sample's original index is its position in ``x``; those of ``x_test`` follow.

    Args:
        x: inputs, shape ``(N, ...)``. uint8 is images, ``(N, H, W)``, ``(N, C, H, W)`` or ``(N, H, W, C)`` with 1 or 3
            channels, which the net gets as ``(N, C, H, W)`` in floats: colour normalised by ImageNet's mean and standard
            deviation, grey scaled to -1..1. Floats go to the net as they are, in float32; other integers as token ids.
        y: labels, shape ``(N,)``: ``0..C-1`` or class names. Where they are noisy already, leave ``noise`` out.
        x_test: inputs of the test set; ``None`` takes a share of ``x``.
        y_test: labels of the test set, taken as true.
        class_names: names of the classes, in the order of the labels; ``None`` takes those that the labels hold.
        noise: injector for training and validation labels, which are taken as true then.
        batch_size: size of the GLOBAL batch.
        val_share: share of ``x`` that is kept for validation, class by class.
        test_share: share of ``x`` that is kept for the test where ``x_test`` is not given.
        split_seed: seed of the draw of these shares.
        augmentation: module for training batches as they are stored, before anything else.

    >>> data = TensorDataModule(np.zeros((20, 2)), ["dog", "cat"] * 10, batch_size=4)
    >>> data.class_names, data.num_classes
    (['cat', 'dog'], 2)
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        x_test: Any = None,
        y_test: Any = None,
        *,
        class_names: Sequence[str] | None = None,
        noise: Noise | None = None,
        batch_size: int = 128,
        val_share: float = 0.1,
        test_share: float = 0.1,
        split_seed: int = 0,
        augmentation: nn.Module | None = None,
    ) -> None:
        if (x_test is None) != (y_test is None):
            raise UserError("x_test and y_test belong together: give both, or neither for a share of x.")
        names = check_class_names(_names_in(y, y_test) if class_names is None else class_names, "y")
        super().__init__(len(names), names, noise, batch_size)
        self.given = _examples(x, y, names, "")
        self.given_test = _examples(x_test, y_test, names, "_test", len(self.given.y)) if x_test is not None else None
        labels = {"train": self.given.y} | ({"test": self.given_test.y} if self.given_test is not None else {})
        self.positions = fill_splits(labels, {"val": val_share, "test": test_share}, split_seed)
        self.augmentation = augmentation

    def load(self) -> Mapping[str, Examples]:
        """Return the splits."""
        own = {} if self.given_test is None else {"test": self.given_test}
        return {name: own[name] if name in own else self.given.take(where) for name, where in self.positions.items()}

    def eval_transform(self) -> nn.Module:
        """Normalise images, widen token ids, and leave floats alone."""
        assert isinstance(self.given.x, Tensor)
        if self.given.x.dtype == torch.uint8:
            return normalise_images(self.given.x.shape[1])
        return nn.Identity() if self.given.x.is_floating_point() else TokenIds()


def _examples(x: Any, y: Any, names: Sequence[str], suffix: str, first: int = 0) -> Examples:
    inputs, labels = as_inputs(x, f"x{suffix}"), class_indices(_array(y), names, f"y{suffix}")
    if len(inputs) != len(labels):
        raise UserError(f"x{suffix} has {len(inputs)} samples, but y{suffix} {len(labels)} labels. Give one for each.")
    return Examples(inputs, labels, np.arange(first, first + len(labels)))


def as_inputs(x: Any, what: str) -> Tensor:
    """Return inputs as they are stored: uint8 images ``(N, C, H, W)``, float32, or signed integers.

    >>> as_inputs(np.zeros((2, 8, 8, 3), np.uint8), "x").shape
    torch.Size([2, 3, 8, 8])
    """
    array = _array(x)
    if array.dtype == np.uint8:
        return _as_images(torch.from_numpy(array), what)
    if array.dtype.kind == "i":
        return torch.from_numpy(array)
    if array.dtype.kind != "f":
        raise UserError(
            f"{what} holds values of type {array.dtype}. Give floats, uint8 images, or signed integers as token ids."
        )
    inputs = torch.from_numpy(array).to(torch.float32)
    if not bool(inputs.isfinite().all()):
        sample = int(torch.nonzero(~inputs.flatten(1).isfinite().all(dim=1))[0]) if inputs.ndim > 1 else 0
        raise UserError(f"{what} holds NaN or infinity (sample {sample}). Leave such samples out, or fill them in.")
    return inputs


def _as_images(x: Tensor, what: str) -> Tensor:
    if x.ndim == 3:
        return x.unsqueeze(1)
    if x.ndim == 4 and x.shape[1] in (1, 3):
        return x
    if x.ndim == 4 and x.shape[3] in (1, 3):
        return x.permute(0, 3, 1, 2).contiguous()
    raise UserError(
        f"{what} holds uint8 of shape {tuple(x.shape)}: uint8 is images, (N, H, W), (N, C, H, W) or (N, H, W, C) with 1 or 3 "
        "channels. Give anything else as floats."
    )


def _array(given: Any) -> Any:
    """Return an array that torch can share memory with; a tensor may lie on any device, and a list may be ragged."""
    if isinstance(given, Tensor):
        return given.detach().cpu().numpy()
    try:
        return np.require(given, requirements=["C", "W"])
    except ValueError as error:
        raise UserError(f"The samples differ in shape, and cannot be one array ({error}).") from error


def _names_in(*labels: Any) -> list[str]:
    """Return the names of the classes: the strings in order, or ``"0"`` to the largest number."""
    values = np.concatenate([_array(part) for part in labels if part is not None])
    if values.dtype.kind in "iub" and len(values):
        return [str(label) for label in range(int(values.max()) + 1)]
    return sorted(set(values.tolist()))
