"""Who gave the labels: what an audit says of each annotator, as figures, as a file, and in one line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning import files
from ldmi_lightning.audit.tables import UNENCODABLE, csv_cell
from ldmi_lightning.crowds.annotators import estimate_annotators, no_outputs
from ldmi_lightning.crowds.reliability import Reliability, reliabilities
from ldmi_lightning.naming import few

ANNOTATORS = "annotators.csv"
COLUMNS = ("annotator", "votes", "accuracy", "accuracy_low", "accuracy_high", "score", "p_value", "kind")
LARGEST = 1_000_000
"""``summary.json`` holds the matrices of all annotators up to so many numbers."""


class Crowd(NamedTuple):
    """What is known of A annotators.

    Attributes:
        names: A of them.
        judged: what the votes of each are worth.
        transitions: T of each, shape ``(A, C, C)``, row = true class, column = his vote.
    """

    names: Sequence[str]
    judged: Sequence[Reliability]
    transitions: NDArray[np.float64]


def judge_crowd(
    probs: NDArray[np.floating],
    votes: NDArray[np.int64],
    names: Sequence[str],
    seen: NDArray[np.bool_],
    outputs: str,
) -> Crowd:
    """Judge the annotators of the labels of an audit.

    Outputs of a model of the TRUE labels count as such for the rows that it has not been trained on; for the others the votes
    speak alone. A model of the labels as GIVEN is one more annotator: its decision is its vote.

    Args:
        probs: outputs, shape ``(N, C)``.
        votes: shape ``(N, A)``, int64, -1 where an annotator gave none.
        names: A of them.
        seen: whether the model was trained on the row, shape ``(N,)``.
        outputs: ``"true"`` or ``"given"``: what they are probabilities of.

    >>> y = np.arange(300) % 3
    >>> votes = np.stack([y, np.ones_like(y), (y + (np.arange(300) % 7 == 0)) % 3], axis=1)
    >>> found = judge_crowd(np.eye(3)[y], votes, ["al", "bo", "cy"], np.zeros(300, bool), "given")
    >>> [each.kind for each in found.judged]
    ['informative', 'spammer', 'informative']
    """
    known = no_outputs(*probs.shape)
    people = votes.shape[1]
    if outputs == "true":
        known[~seen] = probs[~seen]
    else:
        votes = np.column_stack([votes, np.where(seen, -1, probs.argmax(axis=1))])
    found = estimate_annotators(known, votes)
    return Crowd(list(names), reliabilities(found, votes)[:people], found.transitions[:people])


def crowd_summary(crowd: Crowd) -> dict[str, Any]:
    """Return what ``summary.json`` says of the annotators: a list of them, and the names of the spammers."""
    with_matrices = crowd.transitions.size <= LARGEST
    people = [
        {
            "annotator": name,
            "votes": each.votes,
            "accuracy": dict(zip(("value", "low", "high"), each.accuracy, strict=True)),
            "score": each.score,
            "p_value": each.p_value,
            "kind": each.kind,
            "transition": transition if with_matrices else None,
        }
        for name, each, transition in zip(crowd.names, crowd.judged, crowd.transitions, strict=True)
    ]
    return {"people": people, "spammers": _named(crowd, "spammer")}


def _named(crowd: Crowd, kind: str) -> list[str]:
    return [name for name, each in zip(crowd.names, crowd.judged, strict=True) if each.kind == kind]


def write_annotators(path: Path, crowd: Crowd, class_names: Sequence[str]) -> None:
    """Write a line for each annotator: what his votes are worth, and his T, row by row, as ``P(vote|true class)``.

    Numbers have six significant digits; those that are not known are empty.

    Args:
        path: the CSV file.
        crowd: the annotators.
        class_names: C of them.
    """
    cells = [f"P({vote}|{true})" for true in class_names for vote in class_names]
    with_matrices = crowd.transitions.size <= LARGEST
    lines = [",".join([*COLUMNS, *(map(csv_cell, cells) if with_matrices else ())])]
    for name, each, transition in zip(crowd.names, crowd.judged, crowd.transitions, strict=True):
        numbers = [*each.accuracy, each.score, each.p_value]
        shown = ["" if np.isnan(number) else f"{number:.6g}" for number in numbers]
        matrix = [f"{number:.6g}" for number in transition.ravel().tolist()] if with_matrices else []
        lines.append(",".join([csv_cell(name), str(each.votes), *shown, each.kind, *matrix]))
    files.write(path, ("\r\n".join(lines) + "\r\n").encode(errors=UNENCODABLE))


def crowd_line(crowd: Crowd) -> str:
    """Say which annotators are spammers, are contrary, or cannot be judged.

    >>> kinds = ("spammer", "informative", "contrary", "spammer")
    >>> people = [Reliability(9, (0.9, 0.8, 0.95), 0.0, 0.5, kind) for kind in kinds]
    >>> crowd_line(Crowd(["al", "bo", "cy", "di"], people, np.zeros((4, 2, 2))))
    'Of 4 annotators, 2 are spammers, whose votes say nothing of the class: al, di; 1 mostly named another class: cy.'
    """
    said = {
        "contrary": "mostly named another class",
        "too few votes": "gave too few votes to be judged",
    }
    found = {kind: _named(crowd, kind) for kind in said}
    parts = [f"{len(names)} {said[kind]}: {few(names)}" for kind, names in found.items() if names]
    named = _named(crowd, "spammer")
    which = {0: "none is a spammer", 1: "1 is a spammer"}.get(len(named), f"{len(named)} are spammers")
    parts.insert(0, f"{which}, whose votes say nothing of the class" + (f": {few(named)}" if named else ""))
    return f"Of {len(crowd.names)} annotators, {'; '.join(parts)}."
