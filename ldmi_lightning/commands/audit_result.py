"""What all three ways of ``ldmi audit`` share: the audit's folder, and the lines on the terminal; without PyTorch."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.audit import THRESHOLD, Audit, advice, against_truth
from ldmi_lightning.audit.annotators import crowd_line, judge_crowd
from ldmi_lightning.audit.rows import Rows
from ldmi_lightning.audit.written import LABELS, PAGE, write_audit
from ldmi_lightning.commands.output import show
from ldmi_lightning.errors import UserError
from ldmi_lightning.originals import Original, caption

SHOWN = 10
LETTERS = 60
"""The terminal shows so many characters of a text or of a path."""
VERSIONS = ("ldmi_lightning", "numpy")
SCORES = {"AUROC": "auroc", "average precision": "average_precision"}


@dataclass(frozen=True)
class Told:
    """What a command knows of its audit.

    Attributes:
        command: its words, ``ldmi`` first.
        way: ``"folds"``, ``"run"`` or ``"probabilities"``.
        about: what else ``summary.json`` says of how it was made; no times, so that a resumed audit writes the same.
        notes: sentences that a reader must know to take the figures as they are meant.
        then: the command that comes next.
    """

    command: Sequence[str]
    way: str
    about: Mapping[str, Any]
    notes: Sequence[str]
    then: str


def finish(
    folder: Path,
    found: Audit,
    counted: Audit,
    rows: Rows,
    threshold: float | None,
    told: Told,
    probs: NDArray[np.floating] | None = None,
) -> None:
    """Write the audit, and say what it has found.

    Args:
        folder: is made.
        found: the audit of all rows.
        counted: the audit of those rows alone that no model has seen in training, in the same order.
        rows: what is known of all rows.
        threshold: from which probability labels are corrected; ``None`` for the default.
        told: what the command knows.
        probs: outputs for all rows, shape ``(N, C)``, by which annotators are judged where there are votes.
    """
    crowd = None
    if rows.votes is not None and probs is not None:
        crowd = judge_crowd(probs, rows.votes, rows.annotators, rows.seen, found.outputs)
    threshold = THRESHOLD if threshold is None else threshold
    true = None if rows.true is None else rows.true[~rows.seen]
    # A run has chosen its epochs by its validation labels; of anybody's outputs nobody knows.
    said = advice(counted, rows.class_names, held_out=True if told.way == "folds" else None)
    head = {
        "command": shlex.join(map(str, told.command)),
        "way": told.way,
        **told.about,
        "notes": list(told.notes),
        "versions": {name: version(name) for name in VERSIONS},
        "truth": None if true is None or (true < 0).all() else against_truth(counted, true, threshold),
        "advice": said,
    }
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_audit(folder, found, rows, threshold=threshold, head=head, crowd=crowd)
    except OSError as error:
        raise UserError(
            f"The audit cannot be written to {folder}: {error.strerror or error}. Choose another folder with --output."
        ) from error
    people = [] if crowd is None else [crowd_line(crowd)]
    lines = [*told.notes, "", *worst_lines(found, rows), "", said, *truth_line(head["truth"]), *people, ""]
    files = f"Files: {folder}; {PAGE} shows the worst, {LABELS} has the corrected labels."
    show("\n".join([*lines, files, told.then]))


def truth_line(truth: Mapping[str, Any] | None) -> list[str]:
    """Say how well wrong labels were found, where the true ones are known.

    >>> truth_line({"known": 9, "wrong": 2, "wrong_in_interval": True, "auroc": 0.9, "average_precision": 0.5})
    ['True labels are known of 9: 2 are wrong, within the interval; AUROC 0.900, average precision 0.500.']
    """
    if truth is None:
        return []
    held = {True: ", within the interval", False: ", outside the interval", None: ""}[truth["wrong_in_interval"]]
    found = [f"{name} {truth[key]:.3f}" for name, key in SCORES.items() if truth[key] is not None]
    scores = f"; {', '.join(found)}" if found else ""
    return [f"True labels are known of {truth['known']:,}: {truth['wrong']:,} are wrong{held}{scores}."]


def worst_lines(found: Audit, rows: Rows) -> list[str]:
    """Return a table of the worst labels."""
    places = found.order[:SHOWN]
    names = rows.class_names
    table = [["rank", "index", "given", "suggested", "P(given)", "P(suggested)", ""]]
    for rank, place in enumerate(places.tolist(), 1):
        seen = " (seen in training)" if rows.seen[place] else ""
        table.append(
            [
                str(rank),
                str(rows.index[place]),
                names[found.given[place]],
                names[found.suggested[place]],
                f"{found.quality[place]:.3f}",
                f"{found.confidence[place]:.3f}",
                shortened(rows.originals[place]) + seen,
            ]
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def shortened(original: Original | None) -> str:
    r"""Return what a sample was as it fits into a line of the terminal: of a long text the beginning, of a long path the end.

    >>> shortened(Original("text", "one\ntwo")), shortened(None)
    ('one two', '')
    >>> shortened(Original("text", "a" * 70)) == "a" * 60 + "…", shortened(Original("file", Path("b" * 70))) == "…" + "b" * 60
    (True, True)
    """
    line = " ".join(caption(original).split())
    if original is None or len(line) <= LETTERS:
        return line
    return f"…{line[-LETTERS:]}" if original.kind == "file" else f"{line[:LETTERS]}…"
