"""``ldmi audit --probabilities P.npy --labels L.csv``: labels judged by anybody's model, without PyTorch."""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.audit import audit
from ldmi_lightning.audit.audit import Outputs
from ldmi_lightning.audit.rows import Rows
from ldmi_lightning.commands.audit_result import Told, finish, refuse_existing
from ldmi_lightning.csv_file import CSVColumns, original_text, read_csv
from ldmi_lightning.errors import UserError
from ldmi_lightning.file_kinds import kind_of_file
from ldmi_lightning.originals import Originals

MAGIC = b"\x93NUMPY"
"""What each .npy file begins with."""
SHOWN = 5


class Labelled(NamedTuple):
    """The labels of N rows.

    Attributes:
        given: shape ``(N,)``.
        index: what the rows are called, shape ``(N,)``.
        clean: true labels; ``None`` where there is no such column.
        class_names: C of them.
        notes: what was found out about them.
    """

    given: NDArray[np.int64]
    index: NDArray[np.int64]  # type: ignore[assignment]  # tuple.index is not needed here
    clean: NDArray[np.int64] | None
    class_names: list[str]
    notes: list[str]


def run(options: argparse.Namespace, command: list[str]) -> int:
    """Audit the labels; return the exit code."""
    folder = Path(options.output or Path("audits") / Path(options.probabilities).stem)
    refuse_existing(folder)
    probs = read_probabilities(Path(options.probabilities))
    names = None if options.class_names is None else [name.strip() for name in options.class_names.split(",")]
    labels = read_labels(Path(options.labels), probs.shape, names)
    outputs: Outputs = options.outputs or "given"
    try:
        found = audit(probs, labels.given, outputs=outputs)
    except UserError as error:
        raise UserError(f"--probabilities {options.probabilities}, --labels {options.labels}: {error}") from error
    notes = [*labels.notes, of_outputs(outputs)]
    rows = Rows(
        index=labels.index,
        split=np.full(len(probs), "train"),
        seen=np.zeros(len(probs), bool),
        class_names=labels.class_names,
        originals=Originals(len(probs), lambda _: None),
        true=labels.clean,
    )
    about = {"data": options.labels, "runs": [options.probabilities], "outputs": outputs, "seed": 0}
    then = (
        f"`ldmi fit --config DATA --data.noise LabelFileNoise --data.noise.path {folder / 'labels.csv'}` trains on the "
        "corrected labels."
    )
    finish(folder, found, found, rows, options.threshold, Told(command, "probabilities", about, notes, then))
    return 0


def of_outputs(outputs: str) -> str:
    """Say what follows from what the probabilities are of."""
    if outputs == "true":
        return "The probabilities are taken for those of the TRUE labels, from a model that does not learn the errors."
    return (
        "The probabilities are taken for those of the GIVEN labels, as cross-entropy makes them: T̂ and counts come from "
        "decisions alone. They should be of rows that the model has not been trained on."
    )


def read_probabilities(path: Path) -> NDArray[np.floating]:
    """Return the probabilities of a ``.npy`` file, shape ``(N, C)``.

    Raises:
        UserError: it is none, or is damaged.
    """
    what, remedy = f"--probabilities {path}", "Save an array of shape (N, C) by numpy.save."
    if not path.is_file():
        raise UserError(f"{what}: there is no such file. {remedy}")
    with path.open("rb") as file:
        begins = file.read(len(MAGIC))
    if begins != MAGIC:
        raise UserError(f"{what} is no .npy file, but {kind_of_file(path) or 'something else'}. {remedy}")
    try:
        probs: NDArray[np.floating] = np.load(path, allow_pickle=False)
    except ValueError as error:
        fault = "holds Python objects, which are not loaded" if "bject" in str(error) else "is damaged or cut short"
        raise UserError(f"{what} {fault}. {remedy}") from error
    if probs.ndim != 2:
        raise UserError(f"{what} has the shape {probs.shape}, but must have (N, C): a row for each label. {remedy}")
    return probs


def read_labels(path: Path, shape: tuple[int, ...], class_names: list[str] | None) -> Labelled:
    """Return the labels of a CSV file, and what rows and classes are called.

    Args:
        path: the file, with the column ``label`` and maybe ``index`` and ``clean``.
        shape: ``(N, C)`` of the probabilities.
        class_names: in the order of their columns; ``None`` where they are not given.

    Raises:
        UserError: the labels are not N, or not those of C classes.
    """
    what, (samples, classes) = f"--labels {path}", shape
    if not path.is_file():
        raise UserError(f"{what}: there is no such file. Give a CSV file with the column label.")
    table = read_csv(path, ["label", "index", "clean"], what=what, skip_blank=True)
    if "label" not in table.cells:
        raise UserError(f"{what} has no column label, but {', '.join(table.names)}.")
    cells = table.cells["label"]
    if len(cells) != samples:
        raise UserError(
            f"{what} has {len(cells):,} labels, but there are probabilities of {samples:,} rows. Give one for each."
        )
    notes = list(table.notes)
    if class_names is None:
        class_names = found_names(cells, classes, what, notes)
    elif len(class_names) != classes or len(set(class_names)) < classes:
        raise UserError(
            f"--class_names names {len(set(class_names))} different classes, but the probabilities are of {classes}. Give each a "
            "name, in the order of their columns."
        )
    given = numbered(table, "label", class_names, what)
    clean = numbered(table, "clean", class_names, what) if "clean" in table.cells else None
    return Labelled(given, indices(table, what), clean, class_names, notes)


def found_names(cells: list[str], classes: int, what: str, notes: list[str]) -> list[str]:
    """Return the names of the classes as the labels have them; note in which order columns are taken for names."""
    names = sorted({original_text(cell.strip()) for cell in cells})
    if all(name.isdecimal() for name in names):
        return [str(number) for number in range(classes)]
    if len(names) != classes:
        raise UserError(
            f"{what} names {len(names)} classes ({', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''}), but the "
            f"probabilities are of {classes}. Name all in the order of their columns: --class_names A,B,…"
        )
    notes.append(
        f"The columns of the probabilities are taken for the classes in alphabetical order: {', '.join(names[:SHOWN])}"
        f"{', …' if len(names) > SHOWN else ''}; --class_names gives another."
    )
    return names


def numbered(table: CSVColumns, column: str, class_names: list[str], what: str) -> NDArray[np.int64]:
    """Return a column of names or numbers of classes as numbers, shape ``(N,)``."""
    number_of = {str(number): number for number in range(len(class_names))} | {
        name: number for number, name in enumerate(class_names)
    }
    labels = np.empty(len(table.lines), np.int64)
    for row, cell in enumerate(table.cells[column]):
        text = cell.strip()
        number = number_of.get(text, number_of.get(original_text(text), -1))
        if number < 0:
            raise UserError(
                f"{what}, line {table.lines[row]}: {column} {text!r} is no class. Labels are 0..{len(class_names) - 1} or one of "
                f"{', '.join(class_names[:SHOWN])}{', …' if len(class_names) > SHOWN else ''}."
            )
        labels[row] = number
    return labels


def indices(table: CSVColumns, what: str) -> NDArray[np.int64]:
    """Return what the rows are called: their numbers, or those of the column ``index``."""
    if "index" not in table.cells:
        return np.arange(len(table.lines))
    index = np.empty(len(table.lines), np.int64)
    for row, cell in enumerate(table.cells["index"]):
        if not cell.strip().isdecimal():
            raise UserError(f"{what}, line {table.lines[row]}: index must be a whole number from 0, but got {cell!r}.")
        index[row] = int(cell)
    values, counts = np.unique(index, return_counts=True)
    if (counts > 1).any():
        raise UserError(f"{what} has the index {values[counts > 1][0]} more than once: number all rows apart.")
    return index
