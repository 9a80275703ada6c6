"""Arrays and tables of numbers in memory as a data set: for data of one's own, in Python."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.inputs import map_tensors, num_samples, tensors_in
from ldmi_lightning.noise import Noise

from .base import Examples
from .class_names import class_indices, cleaned, names_in
from .labels import GivenLabels, given_labels
from .own_data import OwnData, check_class_names, normalise_images, shorten
from .splits import fill_splits
from .text import TokenIds
from .unlabelled import without_unlabelled
from .votes import labels_from_votes

KINDS = "Give floats, uint8 images, or signed integers as token ids."
AT_ONCE = 2**20
"""So many values are looked at together."""


class TensorDataModule(OwnData):
    """NumPy arrays, torch tensors, lists, or a pandas DataFrame of numbers.

    A sample's original index is its position in ``x``; those of ``x_test`` follow.

    Args:
        x: inputs, shape ``(N, ...)``; or a tuple or dict of such, which the net gets as a tuple or dict of tensors. uint8 is
            images, ``(N, H, W)``, ``(N, C, H, W)`` or ``(N, H, W, C)`` with 1 or 3 channels, which the net gets as
            ``(N, C, H, W)`` in floats: colour normalised by ImageNet's mean and standard deviation, grey scaled to -1..1.
            Floats go to the net as they are, in float32, and so do all numbers of a DataFrame; other integers as token ids.
        y: labels, shape ``(N,)``: ``0..C-1`` or class names, also a pandas Series or Categorical, whose categories keep their
            order. Where they are noisy already, leave ``noise`` out. ``None`` takes what the votes of
            :class:`~ldmi_lightning.noise.CrowdLabels` as ``noise`` come to, which is then all that is known, of a test share too.
        x_test: inputs of the test set; ``None`` takes a share of ``x``.
        y_test: labels of the test set.
        class_names: names of the classes, in the order of the labels; ``None`` takes those that the labels hold.
        noise: injector for training and validation labels, which are taken as true then.
        batch_size: size of the GLOBAL batch.
        val_share: share of ``x`` that is kept for validation, class by class.
        test_share: share of ``x`` that is kept for the test where ``x_test`` is not given.
        split_seed: seed of the draw of these shares.
        augmentation: module for training batches as they are stored, before anything else.
        clean_labels: take names that differ by blanks or case alone for one class.

    Attributes:
        columns: names of the columns of a DataFrame, in the order of the inputs; ``None`` for other inputs.

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
        clean_labels: bool = False,
    ) -> None:
        if y is None:
            y = labels_from_votes(noise, _samples_in(x), class_names)
        if (x_test is None) != (y_test is None):
            raise UserError("x_test and y_test belong together: give both, or neither for a share of x.")
        self.notes: list[str] = []
        given = {"train": given_labels(y, "y")} | ({} if y_test is None else {"test": given_labels(y_test, "y_test")})
        if clean_labels:
            given, self.notes = cleaned(given, class_names)
        labelled = without_unlabelled(given, class_names).given
        if len(labelled) < len(given):
            raise UserError("y_test has no labels, so there is nothing to test: leave x_test and y_test out.")
        names = names_in(labelled) if class_names is None else check_class_names(class_names, "y")
        super().__init__(len(names), names, noise, batch_size)
        self.columns = _column_names(x)
        _refuse_another_order(x, y, x_test, y_test)
        self.given = _examples(x, labelled["train"], names, "")
        self.given_test = (
            None if x_test is None else _examples(x_test, labelled["test"], names, "_test", len(self.given.y))
        )
        labels = {"train": self.given.y} | ({"test": self.given_test.y} if self.given_test is not None else {})
        self.positions = fill_splits(labels, {"val": val_share, "test": test_share}, split_seed)
        self.augmentation = augmentation

    def load(self) -> Mapping[str, Examples]:
        """Return the splits."""
        own = {} if self.given_test is None else {"test": self.given_test}
        return {name: own[name] if name in own else self.given.take(where) for name, where in self.positions.items()}

    def eval_transform(self) -> nn.Module:
        """Normalise images, widen token ids, and leave floats alone."""
        x = self.given.x
        return (
            _transform_of(x)
            if isinstance(x, Tensor)
            else EachTensor([_transform_of(each) for _, each in tensors_in(x)])
        )


class EachTensor(nn.Module):
    """Apply a module of its own to each tensor of inputs.

    Args:
        modules: as many as there are tensors, in their order.

    >>> EachTensor([nn.Identity(), nn.Flatten()])((torch.zeros(2), torch.zeros(2, 3, 4)))[1].shape
    torch.Size([2, 12])
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(modules)

    def forward(self, x: Any) -> Any:
        """Return inputs of the same structure."""
        modules = iter(self.each)
        return map_tensors(lambda tensor: next(modules)(tensor), x)


def _samples_in(x: Any) -> int:
    while isinstance(x, tuple | dict):
        x = next(iter(x.values() if isinstance(x, dict) else x))
    return len(x)


def _transform_of(x: Tensor) -> nn.Module:
    if x.dtype == torch.uint8:
        return normalise_images(x.shape[1])
    return nn.Identity() if x.is_floating_point() else TokenIds()


def _examples(x: Any, y: GivenLabels, names: Sequence[str], suffix: str, first: int = 0) -> Examples:
    inputs, labels = all_inputs(x, f"x{suffix}"), class_indices(y, names, f"y{suffix}")
    if (samples := num_samples(inputs)) != len(labels):
        raise UserError(f"x{suffix} has {samples} samples, but y{suffix} {len(labels)} labels. Give one for each.")
    return Examples(inputs, labels, np.arange(first, first + len(labels)))


def all_inputs(x: Any, what: str) -> Any:
    """Return inputs as they are stored: a tensor, or a tuple or dict of tensors for a tuple or dict of arrays."""
    if isinstance(x, Mapping):
        return {name: all_inputs(part, f"{what}[{name!r}]") for name, part in x.items()}
    if isinstance(x, tuple) and x and all(hasattr(part, "shape") or isinstance(part, tuple | Mapping) for part in x):
        return tuple(all_inputs(part, f"{what}[{place}]") for place, part in enumerate(x))
    return as_inputs(x, what)


def as_inputs(x: Any, what: str) -> Tensor:
    """Return an array as it is stored: uint8 images ``(N, C, H, W)``, float32, or signed integers.

    >>> as_inputs(np.zeros((2, 8, 8, 3), np.uint8), "x").shape
    torch.Size([2, 3, 8, 8])
    """
    columns = _column_names(x)
    array = _array(x) if columns is None else _numbers(x, what)
    if array.dtype == np.uint8:
        return _as_images(torch.from_numpy(array), what)
    if array.dtype.kind == "i":
        return torch.from_numpy(array)
    if array.dtype.kind != "f":
        texts = array.dtype.kind in "US" or any(isinstance(each, str) for each in array.ravel()[:1000].tolist())
        where = (
            " For texts write a file, and take HFDataModule(file, text_column=...); or give token ids." if texts else ""
        )
        raise UserError(f"{what} holds values of type {array.dtype}. {KINDS}{where}")
    inputs = torch.from_numpy(array).to(torch.float32)
    if (first := _first_not_finite(inputs)) is not None:
        sample, column = divmod(first, max(inputs.numel() // max(len(inputs), 1), 1))
        named = "" if columns is None else f" in column {columns[column]}"
        raise UserError(
            f"{what} holds NaN or infinity{named} (sample {sample}). Leave such samples out, or fill them in."
        )
    return inputs


def _first_not_finite(x: Tensor) -> int | None:
    """Return the position of the first value that is NaN or infinite, in the order of memory; ``None`` if there is none."""
    begin = 0
    for some in x.reshape(-1).split(AT_ONCE):  # of all at once the test would take as much memory again as they do
        finite = some.isfinite()
        if not bool(finite.all()):
            return begin + int((~finite).nonzero()[0])
        begin += len(some)
    return None


def _column_names(x: Any) -> list[str] | None:
    """Return the names of a DataFrame's columns; ``None`` for anything else."""
    return list(map(str, x.columns)) if hasattr(x, "columns") and hasattr(x, "dtypes") else None


def _numbers(frame: Any, what: str) -> Any:
    """Return a DataFrame of numbers as float32, shape ``(N, columns)``."""
    others = [str(name) for name, kind in frame.dtypes.items() if kind.kind not in "iufb"]
    if others:
        raise UserError(
            f"{what} has columns that hold no numbers: {shorten(others)}. Encode them first, for example by scikit-learn's "
            "ColumnTransformer, as docs/scikit-learn.md shows."
        )
    return _array(frame.to_numpy(dtype=np.float32, na_value=np.nan))  # pandas' own memory is read-only


def _refuse_another_order(x: Any, y: Any, x_test: Any, y_test: Any) -> None:
    """Refuse a test table with other columns, and labels in another order of rows than their table."""
    columns, of_test = _column_names(x), _column_names(x_test)
    if x_test is not None and columns != of_test:
        raise UserError(
            f"x_test has the columns {shorten(of_test or ['none'])}, but x {shorten(columns or ['none'])}: give "
            "x_test[x.columns]."
        )
    for table, labels, name in ((x, y, ""), (x_test, y_test, "_test")):
        rows: Any = getattr(table, "index", None)
        others: Any = getattr(labels, "index", None)
        if not hasattr(rows, "equals") or not hasattr(others, "equals") or rows.equals(others):
            continue
        if rows.sort_values().equals(others.sort_values()):
            raise UserError(f"y{name} has the rows of x{name} in another order: give y{name}.loc[x{name}.index].")


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
