"""The tables of an audit: every label with what is thought of it, those to look at by hand, and a clean label file."""

import re
from collections.abc import Callable, Sequence
from itertools import islice
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
LINES = 1_000
"""So many become one text before they are written."""
WHOLE = re.compile(r"\s*[+-]?[0-9]+(?:\.0*)?\s*")
"""How a class may be called that could be taken for the number of one."""
DIVIDES = re.compile(r'[",\r\n]')
"""What a cell of a CSV file holds in quotation marks alone."""


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
    names = {name: csv_cell(name) for name in rows.class_names}
    six_digits = "%.6g".__mod__  # which takes most of the time: a million rows have two million of them

    def chunk(at: NDArray[np.int64]) -> dict[str, list[Any]]:
        columns = issue_columns(found, rows, at)
        right, sure = columns["label_quality"], columns["confidence"]
        columns["original"] = [text and csv_cell(text) for text in columns["original"]]
        for name in {"given_name", "predicted_name"} & columns.keys():
            columns[name] = [names[each] for each in columns[name]]
        columns["label_quality"] = texts = list(map(six_digits, right))
        # Where the given label is suggested, both are the same.
        both = zip(texts, right, sure, strict=True)
        columns["confidence"] = [text if one == other else six_digits(other) for text, one, other in both]
        return columns

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
    names = np.array([csv_cell(name) for name in rows.class_names], dtype=object)
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


def csv_cell(text: str) -> str:
    """Return a text as it stands in a CSV file: harmless, and in quotation marks where it needs them.

    >>> [csv_cell(text) for text in ("a, b", "cat", "=1+1")]
    ['"a, b"', 'cat', "'=1+1"]
    """
    safe = safe_cell(text)
    return '"' + safe.replace('"', '""') + '"' if DIVIDES.search(safe) else safe


def _write_table(
    path: Path, chunk: Callable[[NDArray[np.int64]], dict[str, list[Any]]], places: NDArray[np.int64]
) -> None:
    """Write a CSV file whose columns ``chunk(places)`` returns for some of its rows: numbers, and texts of :func:`csv_cell`.

    The lines are those of Python's :mod:`csv`, which would look at each cell of a million rows once more.
    """

    def write(file: Any) -> None:
        for start in range(0, max(len(places), 1), CHUNK):  # at least once, for the names of the columns
            columns = chunk(places[start : start + CHUNK])
            line = ",".join(["%s"] * len(columns)) + "\r\n"
            if start == 0:
                file.write((line % tuple(columns)).encode())
            lines = map(line.__mod__, zip(*columns.values(), strict=True))
            while some := "".join(islice(lines, LINES)):
                file.write(some.encode(errors=UNENCODABLE))

    files.write_with(path, write)
