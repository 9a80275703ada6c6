"""The page of an audit: what it found, T̂, and the worst labels with their pictures or texts, in one file."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from ldmi_lightning.pages.base import render
from ldmi_lightning.pages.figures import heatmap

FLIPS = 15
"""So many of the most frequent errors are listed."""
TRUTH = {
    "known": "labels whose truth is known",
    "wrong": "of these wrong",
    "auroc": "AUROC of the ranking",
    "average_precision": "average precision of the ranking",
    "precision_at": "share of wrong ones among the first",
    "given_accuracy": "right as given",
    "suggested_accuracy": "right as suggested",
    "corrected_accuracy": "right after correction",
    "wrong_in_interval": "the interval holds the number of wrong ones",
    "wrong_by_class_in_interval": "classes whose interval holds theirs",
}
"""What the figures beside the truth are called on the page."""
TINY = 40
"""Up to so many pixels wide a picture is tiny."""


@dataclass(frozen=True)
class Suspect:
    """A label that may be wrong, as the page shows it.

    Attributes:
        rank: 1 for the worst.
        index: original index.
        split: of the data.
        seen: whether the model was trained on this label.
        given: class of the label.
        suggested: class that is suggested.
        quality: P(given is right).
        confidence: P(suggested is right).
        corrected: whether the corrected labels have the suggested class.
        true: true class, -1 where it is not known.
        caption: the text, or the path of the file; may be empty.
        is_text: whether the caption is the sample itself.
        picture: a small PNG; ``None`` where there is none.
    """

    rank: int
    index: int
    split: str
    seen: bool
    given: int
    suggested: int
    quality: float
    confidence: float
    corrected: bool
    true: int = -1
    caption: str = ""
    is_text: bool = False
    picture: bytes | None = None


def audit_page(summary: Mapping[str, Any], suspects: Sequence[Suspect]) -> str:
    """Return the page as HTML.

    Args:
        summary: the content of ``summary.json``.
        suspects: the labels that it shows, the worst first.
    """
    names = [each["class"] for each in summary["wrong_by_class"]]
    transition = np.array(summary["transition"]["value"], dtype=float)
    return render(
        "audit.html",
        script="audit.js",
        audit=summary,
        names=names,
        share_wrong=shares(summary["wrong"], summary["counted"]),
        flips=flips(summary, names),
        drawn=heatmap(transition, names, title="T̂, estimated", rows="true class", columns="given label"),
        suspects=suspects,
        pairs=pairs(suspects, names),
        image=image,
        tiny=tiny,
        truth_names=TRUTH,
        percent=percent,
        count=count,
        all=max(summary["samples"], 1),
    )


def shares(wrong: Mapping[str, Any], counted: int) -> dict[str, Any]:
    """Return the share of the labels that is wrong, with its interval.

    >>> shares({"value": 20.0, "low": 10.0, "high": None}, 100)
    {'value': 0.2, 'low': 0.1, 'high': None}
    """
    return {key: None if number is None else number / max(counted, 1) for key, number in wrong.items()}


def flips(summary: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the errors that occur most often: true class, given label, how many there are, and T̂ with its interval."""
    estimate = {key: np.array(matrix, dtype=float) for key, matrix in summary["transition"].items()}
    priors = np.array([each["share_of_true_labels"]["value"] for each in summary["wrong_by_class"]], dtype=float)
    number = np.nan_to_num(summary["counted"] * priors[:, None] * estimate["value"])
    np.fill_diagonal(number, 0)
    found = []
    for place in np.argsort(-number, axis=None, kind="stable")[:FLIPS].tolist():
        true, given = divmod(place, len(names))
        if number[true, given] >= 0.5:
            cell: dict[str, Any] = {key: float(matrix[true, given]) for key, matrix in estimate.items()}
            found.append({"true": names[true], "given": names[given], "number": float(number[true, given]), **cell})
    return found


def pairs(suspects: Sequence[Suspect], names: Sequence[str]) -> list[tuple[str, str, int]]:
    """Return which pairs of classes the filter offers: its value, what it says, and how many labels it leaves.

    >>> one = Suspect(1, 7, "train", False, 0, 1, 0.1, 0.9, True)
    >>> pairs([one, one], ["cat", "dog"])
    [('0-1', 'cat → dog', 2)]
    """
    counts: dict[tuple[int, int], int] = {}
    for each in suspects:
        key = (each.given, each.suggested)
        counts[key] = counts.get(key, 0) + 1
    return [
        (f"{given}-{suggested}", f"{names[given]} → {names[suggested]}", number)
        for (given, suggested), number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def image(picture: bytes) -> Markup:
    """Return a picture's address within the page."""
    return Markup("data:image/png;base64," + base64.b64encode(picture).decode())


def tiny(picture: bytes) -> bool:
    """Return whether a PNG is so narrow that it is shown pixel by pixel, and not blurred."""
    return int.from_bytes(picture[16:20]) <= TINY


def count(number: float | None) -> str:
    """Write a number of labels; a dash where it is not known.

    >>> count(2284.4), count(None)
    ('2,284', '–')
    """
    return "–" if number is None else f"{number:,.0f}"


def percent(share: float | None) -> str:
    """Write a probability so that one that is not 0 or 1 does not look like it; a dash where it is not known.

    >>> percent(0.254), percent(0.0004), percent(0.9997), percent(1.0), percent(None)
    ('25.4 %', '< 0.1 %', '> 99.9 %', '100 %', '–')
    """
    if share is None:
        return "–"
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    if share < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if share > 0.999 else f"{100 * share:.1f} %"
