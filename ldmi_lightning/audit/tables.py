"""The tables of an audit: every label with what is thought of it, those to look at by hand, and a clean label file."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning import files
from ldmi_lightning.audit.audit import Audit
from ldmi_lightning.audit.rows import Rows
from ldmi_lightning.csv_file import safe_cell
from ldmi_lightning.originals import caption

UNENCODABLE = "backslashreplace"
"""What becomes of characters that no encoding has, as the names of files may hold: ``\\udcff``."""
CHUNK = 50_000
"""So many rows are made at a time, which bounds the memory."""
WHOLE = re.compile(r"\s*[+-]?[0-9]+(?:\.0*)?\s*")
"""How a class may be called that could be taken for the number of one."""


def doubtful(found: Audit) -> NDArray[np.bool_]:
    """Return for which samples another label is suggested, or the given one is more likely wrong than right, shape ``(N,)``."""
    return found.is_issue | (found.quality < 0.5)


def to_review(found: Audit, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which labels a person should look at, shape ``(N,)``: those that are doubtful and were not corrected.

    Args:
        found: the audit.
        labels: corrected labels, shape ``(N,)``.
    """
    kept: NDArray[np.bool_] = labels == found.given
    return doubtful(found) & kept


def ranks(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rank of each sample, 1 for the worst label, shape ``(N,)``.

    >>> ranks(np.array([2, 0, 1])).tolist()
    [2, 3, 1]
    """
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    return rank


def speaking(class_names: Sequence[str]) -> bool:
    """Return whether the classes are called by anything else than their numbers.

    >>> speaking(["0", "1"]), speaking(["cat", "dog"]), speaking(["1", "2"])
    (False, True, True)
    """
    return list(class_names) != [str(number) for number in range(len(class_names))]


def issue_columns(found: Audit, rows: Rows, places: NDArray[np.int64]) -> dict[str, list[Any]]:
    """Return what is thought of some labels, as columns by name.

    The columns ``given_label, predicted_label, label_quality, is_label_issue`` are those of the DataFrame that cleanlab's
    ``find_label_issues`` returns, and mean the same: classes as numbers, P(given is right), and whether another label is
    suggested. ``confidence`` is P(suggested is right), ``rank`` is 1 for the worst label, ``original`` a text or the path of
    a file, and ``seen`` says whether the model was trained on the label. Classes that are called by more than their numbers
    have columns ``given_name`` and ``predicted_name``, true labels that are known the column ``true_label``.

    Args:
        found: the audit.
        rows: its samples.
        places: positions of the labels in their order, shape ``(M,)``.

    Returns:
        M values for each column.
    """
    given, suggested = found.given[places], found.suggested[places]
    names = np.array(rows.class_names, dtype=object)
    named = speaking(rows.class_names)
    return {
        "rank": ranks(found.order)[places].tolist(),
        "index": rows.index[places].tolist(),
        "split": rows.split[places].tolist(),
        "original": [caption(rows.originals[place]) for place in places.tolist()],
        "given_label": given.tolist(),
        **({"given_name": names[given].tolist()} if named else {}),
        "predicted_label": suggested.tolist(),
        **({"predicted_name": names[suggested].tolist()} if named else {}),
        "label_quality": found.quality[places].tolist(),
        "confidence": found.confidence[places].tolist(),
        "is_label_issue": found.is_issue[places].tolist(),
        "seen": rows.seen[places].tolist(),
        **({} if rows.true is None else {"true_label": rows.true[places].tolist()}),
    }


def write_issues(path: Path, found: Audit, rows: Rows, places: NDArray[np.int64]) -> None:
    """Write :func:`issue_columns` as a CSV file: probabilities with six significant digits, -1 for an unknown true label.

    Args:
        path: the file.
        found: the audit.
        rows: its samples.
        places: positions of the labels in their order.
    """
    safe = {name: safe_cell(name) for name in rows.class_names}
    as_cell: dict[str, Callable[[Any], Any]] = {
        "original": safe_cell,
        **dict.fromkeys(("given_name", "predicted_name"), safe.__getitem__),
        **dict.fromkeys(("label_quality", "confidence"), "{:.6g}".format),
    }

    def chunk(at: NDArray[np.int64]) -> dict[str, list[Any]]:
        columns = issue_columns(found, rows, at)
        return {name: list(map(as_cell[name], each)) if name in as_cell else each for name, each in columns.items()}

    _write_table(path, chunk, places)


def write_labels(path: Path, found: Audit, rows: Rows, labels: NDArray[np.int64]) -> None:
    """Write one label for each sample, in the order of the original indices, as ``LabelFileNoise`` reads it.

    Where classes are called by other numbers than their own (the stars 1 to 5), a number alone would be unclear: the column
    ``clean`` then proves what is meant, by the labels as the data set has them.

    Args:
        path: the CSV file.
        found: the audit.
        rows: its samples.
        labels: corrected labels, shape ``(N,)``.
    """
    names = np.array([safe_cell(name) for name in rows.class_names], dtype=object)
    spoken = speaking(rows.class_names)
    unclear = spoken and all(WHOLE.fullmatch(name) for name in rows.class_names)
    own = found.given if rows.true is None else np.where(rows.true >= 0, rows.true, found.given)

    def chunk(at: NDArray[np.int64]) -> dict[str, list[Any]]:
        columns = {"index": rows.index[at].tolist(), "label": labels[at].tolist()}
        if unclear:
            columns["clean"] = own[at].tolist()
        if spoken:
            columns["name"] = names[labels[at]].tolist()
        return columns

    _write_table(path, chunk, np.argsort(rows.index, kind="stable"))


def _write_table(
    path: Path, chunk: Callable[[NDArray[np.int64]], dict[str, list[Any]]], places: NDArray[np.int64]
) -> None:
    """Write a CSV file whose columns ``chunk(places)`` returns for some of its rows."""

    def rows() -> Iterator[Iterable[Sequence[Any]]]:
        for start in range(0, max(len(places), 1), CHUNK):  # at least once, for the names of the columns
            columns = chunk(places[start : start + CHUNK])
            if start == 0:
                yield [list(columns)]
            yield zip(*columns.values(), strict=True)

    def write(file: Any) -> None:
        text = io.TextIOWrapper(file, "utf-8", UNENCODABLE, newline="")
        writer = csv.writer(text)
        for each in rows():
            writer.writerows(each)
        text.detach()

    files.write_with(path, write)
