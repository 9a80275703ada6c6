"""Labels as people give them, read into one of two forms: whole numbers, or names."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.errors import UserError

from .checks import check_labels

NUMBERS = (bool, int, float, np.number, np.bool_)


class GivenLabels(NamedTuple):
    """The labels of one split in one of two forms: whole numbers, or names.

    Attributes:
        values: int64 for numbers, object of ``str`` for names, shape ``(N,)``; where a label is missing, 0 or ``""``.
        missing: where there is none (``None``, NaN or a blank), bool, shape ``(N,)``.
        order: names that the column itself brings, in their order, such as a pandas Categorical's; ``None`` for none.
        what: what has these labels, for messages.
    """

    values: NDArray[Any]
    missing: NDArray[np.bool_]
    order: list[str] | None
    what: str

    @property
    def are_numbers(self) -> bool:
        """Whether they are numbers rather than names."""
        return self.values.dtype != object

    def distinct(self) -> list[Any]:
        """Return the different labels: numbers ascending, names in order of their first."""
        present = self.values[~self.missing]
        return np.unique(present).tolist() if self.are_numbers else list(dict.fromkeys(present.tolist()))

    def unlabelled(self, class_names: Sequence[str] | None) -> NDArray[np.bool_]:
        """Return where there is no label, shape ``(N,)``: where it is missing, or -1 and no class is called so."""
        if class_names is not None and "-1" in class_names:
            return self.missing
        minus_one: NDArray[np.bool_] = self.values == (-1 if self.are_numbers else "-1")
        return self.missing | minus_one

    def without(self, left_out: NDArray[np.bool_]) -> "GivenLabels":
        """Return the labels of the other samples."""
        return self._replace(values=self.values[~left_out], missing=self.missing[~left_out])


# -- reading ----------------------------------------------------------------------------------------------------------


def given_labels(labels: Any, what: str, order: Sequence[str] | None = None) -> GivenLabels:
    """Read labels in whatever form they come.

    Args:
        labels: N labels: whole numbers, also as floats or true and false; names; or a pandas Series or Categorical.
        what: what has these labels, for messages.
        order: names of the classes that ``labels`` counts through, as a ``ClassLabel`` of ``datasets`` does.

    Raises:
        UserError: if a sample has several labels, or one that is neither a whole number nor a name.

    >>> given_labels([2.0, None, 0], "y")[:3]
    (array([2, 0, 0]), array([False,  True, False]), None)
    """
    categories = getattr(labels, "cat", labels)  # a Series of categories keeps them there
    if hasattr(categories, "categories") and hasattr(categories, "codes"):
        labels, order = np.asarray(categories.codes, np.int64), [str(name) for name in categories.categories]
    if order is not None:
        return _named(np.array([-1 if code is None else code for code in labels], np.int64), list(order), what)
    array = _as_array(labels)
    if array.ndim != 1:
        raise UserError(
            f"{what} has labels of shape {array.shape}, but one for each sample is needed, shape (N,). {_advice(array)}"
        )
    if array.dtype.kind in "iub":
        numbers = array.astype(np.int64, copy=False)
        return GivenLabels(
            numbers, np.zeros(len(array), bool), ["False", "True"] if array.dtype.kind == "b" else None, what
        )
    if array.dtype.kind == "f":
        missing = np.isnan(array)
        numbers = np.where(missing, 0, array)
        _refuse_first(array, ~np.isfinite(numbers) | (numbers != np.trunc(numbers)), what)
        return GivenLabels(numbers.astype(np.int64), missing, None, what)
    return _from_objects(array.astype(object), what)


def _as_array(labels: Any) -> NDArray[Any]:
    if hasattr(labels, "detach"):
        return np.asarray(labels.detach().cpu())
    if hasattr(labels, "to_numpy"):
        labels = labels.to_numpy()
    if not isinstance(labels, list | tuple):
        return np.asarray(labels)
    try:
        array = np.asarray(labels)
    except ValueError:  # lists of different lengths
        array = np.empty(len(labels), object)
        array[:] = labels
    # NumPy turns numbers beside names into names.
    return np.array(labels, object) if array.dtype.kind in "US" and array.ndim == 1 else array


def _advice(array: NDArray[Any]) -> str:
    """Say what to do with labels of several dimensions."""
    if array.ndim == 2 and array.shape[1] == 1:
        return "Give y[:, 0]."
    if array.ndim == 2 and array.dtype.kind in "iubf" and np.allclose(array.sum(1), 1):
        kind = "They look one-hot" if np.isin(array, (0, 1)).all() else "They look like shares of the classes"
        return f"{kind}: give y.argmax(1)."
    return "Choose one label for each sample."


def _named(codes: NDArray[np.int64], order: list[str], what: str) -> GivenLabels:
    """Return names in place of positions in ``order``, of which negative ones are missing."""
    if len(codes) and codes.max() >= len(order):
        check_labels(np.maximum(codes, 0), len(order), what)
    names = np.array([*order, ""], object)
    return GivenLabels(names[np.where(codes < 0, len(order), codes)], codes < 0, order, what)


def _from_objects(array: NDArray[Any], what: str) -> GivenLabels:
    values = [label.decode() if isinstance(label, bytes) else label for label in array.tolist()]
    missing = np.array([_is_missing(label) for label in values], bool)
    present = [label for label, gone in zip(values, missing, strict=True) if not gone]
    if all(isinstance(label, str) for label in present):
        names = np.array(["" if gone else label for label, gone in zip(values, missing, strict=True)], object)
        return GivenLabels(_whole_numbers_as_such(names), missing, None, what)
    if all(isinstance(label, NUMBERS) for label in present):
        numbers = np.array([0 if gone else label for label, gone in zip(values, missing, strict=True)], np.float64)
        _refuse_first(array, ~np.isfinite(numbers) | (numbers != np.trunc(numbers)), what)
        return GivenLabels(numbers.astype(np.int64), missing, None, what)
    odd = next(at for at, label in enumerate(values) if not missing[at] and not isinstance(label, str))
    label = values[odd]
    if isinstance(label, list | tuple | dict | np.ndarray):
        raise UserError(
            f"{what} has several labels for a sample, {str(label)[:60]} (sample {odd}), but one is needed. Choose one for each."
        )
    if isinstance(label, NUMBERS):
        raise UserError(f"{what} mixes names with numbers, such as {label} (sample {odd}). Give all of them as names.")
    raise UserError(f"{what} has the label {label} (sample {odd}), which is neither a whole number nor a name.")


def _is_missing(label: Any) -> bool:
    if isinstance(label, str):
        return not label.strip()
    if isinstance(label, float | np.floating):
        return bool(np.isnan(label))
    return label is None or type(label).__name__ in ("NAType", "NaTType")  # of pandas


def _whole_numbers_as_such(names: NDArray[Any]) -> NDArray[Any]:
    """Return ``3.0``, which tables write where other labels of the column are missing, as ``3``."""
    distinct = set(names.tolist()) - {""}
    if not any("." in name for name in distinct) or not all(re.fullmatch(r"-?\d+(\.0+)?", name) for name in distinct):
        return names
    return np.array([name.partition(".")[0] for name in names], object)


def _refuse_first(array: NDArray[Any], wrong: NDArray[np.bool_], what: str) -> None:
    if wrong.any():
        at = int(wrong.argmax())
        raise UserError(
            f"{what} has the label {array[at]} (sample {at}), which is neither a whole number nor a name. Labels are classes, "
            "not measurements or shares."
        )
