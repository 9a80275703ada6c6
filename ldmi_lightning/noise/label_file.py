"""Labels from a file: whatever noise made them, found again by each sample's original index."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldmi_lightning.errors import UserError
from ldmi_lightning.file_kinds import kind_of_file
from ldmi_lightning.label_table import NO_LABEL, Written, named_class, read_label_table, whole_number
from ldmi_lightning.noise.base import Labels, Noise
from ldmi_lightning.saying import say


class LabelFileNoise(Noise):
    """Labels that were written down, such as ``ldmi noise`` does; both formats are keyed by original index.

    - CSV with a first line that names the columns ``index`` and ``label``, in any order, and may name ``clean``: the label
      as the data set gives it. Where it is there, it is compared with the data's own, so that a file of another data set
      is refused. Further columns are not read. Labels are whole numbers, ``0..C-1`` (``3.0`` is 3), or class names, also as
      ``predictions.csv`` has them, with a single quote before what a spreadsheet would run.
    - NPY, a vector of whole numbers: the label of sample i stands in place i, -1 where there is none. It is read without
      unpickling.

    Args:
        path: the file, ``.csv`` or ``.npy``.
        encoding: how characters are stored in a CSV file.
    """

    def __init__(self, path: str, encoding: str = "utf-8") -> None:
        super().__init__()
        self.path = path
        self.encoding = encoding
        self.written = read_labels(path, encoding)
        self._unsaid = list(self.written.notes)

    def __call__(self, labels: Labels, num_classes: int, *, index: Labels, x: object = None) -> Labels:
        """Return the file's labels; the first time, say what was found out about the file."""
        while self._unsaid:
            say(self._unsaid.pop(0))
        source = f"--data.noise.path {self.path}"
        return look_up(self.written, labels, num_classes, index, source, self.class_names)


class WrittenLabels(NamedTuple):
    """Labels keyed by original index.

    Attributes:
        index: original index of each sample, shape ``(M,)``, rising.
        label: its label, shape ``(M,)``; text where class names were written.
        clean: its label as the data set gives it, shape ``(M,)``; ``None`` where nobody wrote it down.
        notes: what was found out about the file, to say it.
    """

    index: Labels  # type: ignore[assignment]  # tuple.index is not needed here
    label: Written
    clean: Written | None
    notes: Sequence[str] = ()


def look_up(
    written: WrittenLabels,
    labels: Labels,
    num_classes: int,
    index: Labels,
    source: str,
    class_names: Sequence[str] = (),
) -> Labels:
    """Return the written labels of some samples, shape ``(N,)``.

    Args:
        written: the labels that were written down, of these samples and maybe others.
        labels: labels as the data set gives them, shape ``(N,)``.
        num_classes: C.
        index: original index of each sample, shape ``(N,)``.
        source: where the labels are from, for messages.
        class_names: names of the classes, in the order of the labels; empty where nobody knows them.

    Raises:
        UserError: if a sample has no label, the clean labels differ from the data's, or a label names no class.
    """
    label, clean = (
        None if column is None else _numbers(column, written.index, source, class_names)
        for column in (written.label, written.clean)
    )
    assert label is not None
    _refuse_unclear(written, source, class_names)
    place = np.searchsorted(written.index, index).clip(max=len(written.index) - 1)
    missing = np.flatnonzero(written.index[place] != index)
    if len(missing):
        raise UserError(
            f"{source} has no label for {len(missing)} of {len(index)} samples, the first of which is original index "
            f"{index[missing[0]]}: it holds {len(written.index)} labels, of index {written.index[0]} to "
            f"{written.index[-1]}. Is it the file of another data set?"
        )
    if clean is not None:
        differ = np.flatnonzero(clean[place] != labels)
        if len(differ):
            at = differ[0]
            raise UserError(
                f"{source} is the file of another data set, or of another order: its clean labels differ from the data's "
                f"own at {len(differ)} of {len(index)} samples, first at original index {index[at]} "
                f"({clean[place[at]]} in the file, {labels[at]} in the data)."
            )
    found: Labels = label[place]
    outside = np.flatnonzero((found < 0) | (found >= num_classes))
    if len(outside):
        at = outside[0]
        raise UserError(
            f"{source} has the label {found[at]} at original index {index[at]}, but with {num_classes} classes labels must "
            f"lie in 0..{num_classes - 1}."
        )
    return found


def _numbers(column: Written, index: Labels, source: str, class_names: Sequence[str]) -> Labels:
    """Return a column's labels as whole numbers: names are looked up."""
    if column.dtype.kind != "U":
        return column.astype(np.int64)
    spelled, which = np.unique(column, return_inverse=True)
    numbers = []
    for number, name in enumerate(spelled.tolist()):
        at = index[int(np.argmax(which == number))]
        meant = named_class(name, class_names)
        if len(meant) > 1:
            raise UserError(
                f"{source} has the label {name!r} at original index {at}, which is a class, and what is written for the class "
                f"{class_names[meant[1]]!r}: it is unclear which is meant. Write the labels as 0 to {len(class_names) - 1}."
            )
        found = meant[0] if meant else whole_number(name)
        if found is None:
            raise UserError(f"{source} has the label {name!r} at original index {at}, {_why(name, class_names)}")
        numbers.append(found)
    return np.array(numbers, dtype=np.int64)[which]


def _why(name: str, class_names: Sequence[str]) -> str:
    if name.lower() in NO_LABEL:
        return "which is none: write one, or leave the line out."
    if not class_names:
        return "which is no whole number, and nobody has told the names of the classes: write 0 to C-1."
    shown = ", ".join(map(repr, class_names[:10])) + (f", … ({len(class_names)} in all)" if class_names[10:] else "")
    return f"which is neither a whole number nor the name of a class: {shown}."


def _refuse_unclear(written: WrittenLabels, source: str, class_names: Sequence[str]) -> None:
    """Refuse whole numbers where classes are called by other numbers, unless clean labels beside them prove what they are."""
    called = [whole_number(name) for name in class_names]
    if not called or None in called or called == list(range(len(called))):
        return
    if written.clean is None and written.label.dtype.kind != "U":
        raise UserError(
            f"{source} holds numbers, and the classes are called by other ones ({', '.join(class_names[:5])}, …): it is unclear "
            "whether 1 is the second class or the one called 1. Add the column clean with the data's own labels as 0 to C-1, "
            "as `ldmi noise` writes it."
        )


def read_labels(path: str, encoding: str = "utf-8") -> WrittenLabels:
    """Read a CSV or NPY file of labels; nothing in it is run."""
    source = f"--data.noise.path {path}"
    file = Path(path)
    if file.suffix not in (".csv", ".npy"):
        raise UserError(f"{source} must be a .csv or a .npy file.")
    if not file.is_file():
        raise UserError(f"{source} is no file. `ldmi noise` writes one.")
    if file.suffix == ".npy":
        return _read_npy(file, source)
    table = read_label_table(
        file,
        what=source,
        needed=("index", "label"),
        index_name="original index",
        encoding=encoding,
        option="--data.noise.encoding",
    )
    assert table.index is not None
    if not len(table.index):
        raise UserError(f"{source} has no labels.")
    order = np.argsort(table.index, kind="stable")
    clean = None if table.clean is None else table.clean[order]
    return WrittenLabels(table.index[order], table.label[order], clean, table.notes)


def _read_npy(path: Path, source: str) -> WrittenLabels:
    if kind := kind_of_file(path):
        raise UserError(f"{source} is {kind}.")
    try:
        label = np.load(path, allow_pickle=False)
    except OSError as error:
        raise UserError(f"{source} cannot be read ({error.strerror}).") from error
    except (EOFError, ValueError) as error:  # NumPy's own advice is to unpickle it
        raise UserError(
            f"{source} cannot be read: it is cut short, or holds more than numbers. Save a vector with numpy.save."
        ) from error
    if not isinstance(label, np.ndarray) or label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
        found = f"shape {label.shape} of {label.dtype}" if isinstance(label, np.ndarray) else "an archive"
        raise UserError(f"{source} cannot be read: it must hold a vector of whole numbers, but holds {found}.")
    index = np.flatnonzero(label != -1)
    if not len(index):
        raise UserError(f"{source} has no labels.")
    return WrittenLabels(index, label[index].astype(np.int64), None)
