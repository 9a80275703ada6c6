"""``ldmi audit --probabilities P.npy --labels L.csv``: labels judged by anybody's model, without PyTorch."""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.audit import audit
from ldmi_lightning.audit.audit import Outputs
from ldmi_lightning.audit.rows import Rows
from ldmi_lightning.commands.audit_result import Told, finish
from ldmi_lightning.commands.audit_votes import with_votes
from ldmi_lightning.commands.output import refuse_existing
from ldmi_lightning.csv_file import original_text, read_csv
from ldmi_lightning.errors import UserError
from ldmi_lightning.file_kinds import kind_of_file
from ldmi_lightning.label_table import NO_LABEL, Written, named_class, read_label_table, whole_number

MAGIC = b"\x93NUMPY"
"""What each .npy file begins with."""
ARCHIVE = b"PK"
"""What an .npz file begins with."""
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
        originals=[None] * len(probs),
        true=labels.clean,
    )
    about = {"data": options.labels, "runs": [options.probabilities], "outputs": outputs, "seed": 0}
    then = (
        f"`ldmi fit --config DATA --data.noise LabelFileNoise --data.noise.path {folder / 'labels.csv'}` trains on the "
        "corrected labels."
    )
    rows = with_votes(rows, options.votes)
    finish(folder, found, found, rows, options.threshold, Told(command, "probabilities", about, notes, then), probs)
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
    begins = beginning(path, what, remedy)
    if begins != MAGIC:
        kind = "an archive, as .npz files are" if begins.startswith(ARCHIVE) else kind_of_file(path)
        raise UserError(f"{what} is no .npy file, but {kind or 'something else'}. {remedy}")
    try:
        probs: NDArray[np.floating] = np.load(path, allow_pickle=False)
    except ValueError as error:
        fault = "holds Python objects, which are not loaded" if "bject" in str(error) else "is damaged or cut short"
        raise UserError(f"{what} {fault}. {remedy}") from error
    except MemoryError as error:
        raise UserError(f"{what} does not fit into memory. {remedy}") from error
    if probs.ndim != 2:
        raise UserError(f"{what} has the shape {probs.shape}, but must have (N, C): a row for each label. {remedy}")
    return probs


def beginning(path: Path, what: str, remedy: str) -> bytes:
    """Return the first bytes of a file, as many as :data:`MAGIC` has; refuse what is none, or cannot be read."""
    if not path.is_file():
        fault = " is no file" if path.exists() else ": there is no such file"
        raise UserError(f"{what}{' is a folder' if path.is_dir() else fault}. {remedy}")
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC))
    except OSError as error:
        raise UserError(f"{what} cannot be read ({error.strerror or error}). {remedy}") from error


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
    remedy = "Give a CSV file with the column label."
    if beginning(path, what, remedy) == MAGIC:
        raise UserError(f"{what} is an .npy file. {remedy}")
    table = read_label_table(path, what=what, needed=["label"])
    if len(table.label) != samples:
        raise UserError(
            f"{what} has {len(table.label):,} labels, but there are probabilities of {samples:,} rows. Give one for each."
        )
    notes = list(table.notes)
    if class_names is None:
        class_names = found_names(table.label, classes, path, notes)
    elif len(class_names) != classes or len(set(class_names)) < classes:
        raise UserError(
            f"--class_names names {len(set(class_names))} different classes, but the probabilities are of {classes}. Give each a "
            "name, in the order of their columns."
        )
    given = numbered(table.label, "label", class_names, path)
    clean = None if table.clean is None else numbered(table.clean, "clean", class_names, path)
    index = np.arange(samples) if table.index is None else table.index
    return Labelled(given, index, clean, class_names, notes)


def found_names(labels: Written, classes: int, path: Path, notes: list[str]) -> list[str]:
    """Return the names of the classes as the labels have them; note in which order columns are taken for names."""
    if labels.dtype.kind != "U":
        return [str(number) for number in range(classes)]
    for name in np.unique(labels).tolist():
        if name.lower() in NO_LABEL:
            raise UserError(
                f"{place_of(labels, name, 'label', path)} is none: write one, or leave the row out. If a class is called so, "
                "name all in the order of their columns: --class_names A,B,…"
            )
    names = sorted({original_text(name) for name in np.unique(labels).tolist()})
    if len(names) != classes:
        raise UserError(
            f"--labels {path} names {len(names)} classes ({shown(names)}), but the probabilities are of {classes}. Name all in "
            "the order of their columns: --class_names A,B,…"
        )
    notes.append(
        f"The columns of the probabilities are taken for the classes in alphabetical order: {shown(names)}; --class_names "
        "gives another."
    )
    return names


def shown(names: list[str]) -> str:
    """Return the first names.

    >>> shown(["a", "b"]), shown(list("abcdefg"))
    ('a, b', 'a, b, c, d, e, …')
    """
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def numbered(labels: Written, column: str, class_names: list[str], path: Path) -> NDArray[np.int64]:
    """Return names or numbers of classes as numbers, shape ``(N,)``.

    Raises:
        UserError: one names no class, or may mean two.
    """
    spelled, which = np.unique(labels, return_inverse=True)
    numbers = []
    for name in spelled.tolist():
        meant = classes_meant(str(name), class_names)
        if len(meant) != 1:
            where = place_of(labels, name, column, path)
            if meant:
                raise UserError(
                    f"{where} is a class, and what is written for the class {class_names[meant[1]]!r}: it is unclear which is "
                    f"meant. Write the labels as 0 to {len(class_names) - 1}."
                )
            raise UserError(f"{where} is no class. Labels are {' or one of '.join(known_labels(class_names))}.")
        numbers.append(meant[0])
    return np.array(numbers, np.int64)[which]


def classes_meant(name: str, class_names: list[str]) -> list[int]:
    """Return the classes that a label may mean; where they are called by numbers, it is such a name and no position.

    >>> classes_meant("b", ["a", "b"]), classes_meant("1", ["a", "b"])
    ([1], [1])
    >>> classes_meant("1", ["1", "2"]), classes_meant("0", ["1", "2"])
    ([0], [])
    """
    number = whole_number(name)
    if called_by_numbers(class_names):
        return [place for place, each in enumerate(class_names) if whole_number(each) == number]
    meant = named_class(name, class_names)
    return meant or ([number] if number is not None and 0 <= number < len(class_names) else [])


def known_labels(class_names: list[str]) -> list[str]:
    """Return what labels may be: positions, names, or either.

    >>> known_labels(["a", "b"]), known_labels(["1", "2"]), known_labels(["0", "1"])
    (['0..1', 'a, b'], ['1, 2'], ['0..1'])
    """
    positions = f"0..{len(class_names) - 1}"
    if class_names == [str(number) for number in range(len(class_names))]:
        return [positions]
    return [shown(class_names)] if called_by_numbers(class_names) else [positions, shown(class_names)]


def called_by_numbers(class_names: list[str]) -> bool:
    """Whether the classes are called by whole numbers."""
    return all(whole_number(name) is not None for name in class_names)


def place_of(labels: Written, name: str | int, column: str, path: Path) -> str:
    """Name the first row that has a label; its line takes another look at the file, which only a mistake pays for."""
    row = int(np.argmax(labels == name))
    what = f"--labels {path}"
    return f"{what}, line {read_csv(path, [column], what=what, skip_blank=True).lines[row]}: {column} {str(name)!r}"
