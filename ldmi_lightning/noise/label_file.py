"""Labels from a file: whatever noise made them, found again by each sample's original index."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldmi_lightning.errors import UserError
from ldmi_lightning.noise.base import Labels, Noise


class LabelFileNoise(Noise):
    """Labels that were written down, such as ``ldmi noise`` does; both formats are keyed by original index.

    - CSV with a first line that names the columns ``index`` and ``label``, in any order, and may name ``clean``: the label
      as the data set gives it. Where it is there, it is compared with the data's own, so that a file of another data set
      is refused. Further columns are not read.
    - NPY, a vector of whole numbers: the label of sample i stands in place i, -1 where there is none. It is read without
      unpickling.

    Args:
        path: the file, ``.csv`` or ``.npy``.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.written = read_labels(path)

    def __call__(self, labels: Labels, num_classes: int, *, index: Labels, x: object = None) -> Labels:
        """Return the file's labels."""
        return look_up(self.written, labels, num_classes, index, f"--data.noise.path {self.path}")


class WrittenLabels(NamedTuple):
    """Labels keyed by original index.

    Attributes:
        index: original index of each sample, shape ``(M,)``, rising.
        label: its label, shape ``(M,)``.
        clean: its label as the data set gives it, shape ``(M,)``; ``None`` where nobody wrote it down.
    """

    index: Labels  # type: ignore[assignment]  # tuple.index is not needed here
    label: Labels
    clean: Labels | None


def look_up(written: WrittenLabels, labels: Labels, num_classes: int, index: Labels, source: str) -> Labels:
    """Return the written labels of some samples, shape ``(N,)``.

    Args:
        written: the labels that were written down, of these samples and maybe others.
        labels: labels as the data set gives them, shape ``(N,)``.
        num_classes: C.
        index: original index of each sample, shape ``(N,)``.
        source: where the labels are from, for messages.

    Raises:
        UserError: if a sample has no label, the clean labels differ from the data's, or a label names no class.
    """
    place = np.searchsorted(written.index, index).clip(max=len(written.index) - 1)
    missing = np.flatnonzero(written.index[place] != index)
    if len(missing):
        raise UserError(
            f"{source} has no label for {len(missing)} of {len(index)} samples, the first of which is original index "
            f"{index[missing[0]]}: it holds {len(written.index)} labels, of index {written.index[0]} to "
            f"{written.index[-1]}. Is it the file of another data set?"
        )
    if written.clean is not None:
        differ = np.flatnonzero(written.clean[place] != labels)
        if len(differ):
            at = differ[0]
            raise UserError(
                f"{source} is the file of another data set, or of another order: its clean labels differ from the data's "
                f"own at {len(differ)} of {len(index)} samples, first at original index {index[at]} "
                f"({written.clean[place[at]]} in the file, {labels[at]} in the data)."
            )
    found: Labels = written.label[place]
    outside = np.flatnonzero((found < 0) | (found >= num_classes))
    if len(outside):
        at = outside[0]
        raise UserError(
            f"{source} has the label {found[at]} at original index {index[at]}, but with {num_classes} classes labels must "
            f"lie in 0..{num_classes - 1}."
        )
    return found


def read_labels(path: str) -> WrittenLabels:
    """Read a CSV or NPY file of labels; nothing in it is run."""
    source = f"--data.noise.path {path}"
    readers = {".csv": _read_csv, ".npy": _read_npy}
    file = Path(path)
    if file.suffix not in readers:
        raise UserError(f"{source} must be a .csv or a .npy file.")
    if not file.is_file():
        raise UserError(f"{source} is no file. `ldmi noise` writes one.")
    try:
        index, label, clean = readers[file.suffix](file)
    except ValueError as error:
        raise UserError(f"{source} cannot be read: {str(error).splitlines()[0]}") from error
    if not len(index):
        raise UserError(f"{source} has no labels.")
    order = np.argsort(index, kind="stable")
    index, label = index[order], label[order]
    if index[0] < 0:
        raise UserError(f"{source} has the index {index[0]}, but an original index counts from 0.")
    repeated = index[1:][index[1:] == index[:-1]]
    if len(repeated):
        raise UserError(f"{source} has original index {repeated[0]} more than once: keep one label for each sample.")
    return WrittenLabels(index, label, None if clean is None else clean[order])


def _read_csv(path: Path) -> tuple[Labels, Labels, Labels | None]:
    first, *lines = path.read_text(encoding="utf-8-sig").splitlines() or [""]
    names = [name.strip() for name in next(csv.reader([first]), [])]
    if missing := [name for name in ("index", "label") if name not in names]:
        raise ValueError(
            f"its first line names no column {missing[0]}, but {first[:80]!r}. Name the columns index,label."
        )
    columns = [name for name in ("index", "label", "clean") if name in names]
    places = [names.index(name) for name in columns]
    if not any(line.strip() for line in lines):
        return np.empty(0, np.int64), np.empty(0, np.int64), None
    values = np.loadtxt(lines, np.int64, comments=None, delimiter=",", usecols=places, ndmin=2, quotechar='"').T
    return values[0], values[1], values[2] if "clean" in columns else None


def _read_npy(path: Path) -> tuple[Labels, Labels, None]:
    try:
        label = np.load(path, allow_pickle=False)
    except (EOFError, ValueError) as error:  # NumPy's own advice is to unpickle it
        raise ValueError("it is cut short, or holds more than numbers. Save a vector with numpy.save.") from error
    if not isinstance(label, np.ndarray) or label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
        found = f"shape {label.shape} of {label.dtype}" if isinstance(label, np.ndarray) else "an archive"
        raise ValueError(f"it must hold a vector of whole numbers, but holds {found}.")
    index = np.flatnonzero(label != -1)
    return index, label[index].astype(np.int64), None
