"""How well an audit found the wrong labels, where the true ones are known."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.audit.audit import THRESHOLD, Audit, corrected
from ldmi_lightning.errors import UserError

Labels = NDArray[np.int64]

FIRST = (100, 500, 1000)
"""Of so many labels, the worst first, the share that is wrong."""


def against_truth(found: Audit, true: Labels, threshold: float = THRESHOLD) -> dict[str, Any]:
    """Compare an audit with the true labels.

    Args:
        found: the audit.
        true: true label of each sample, shape ``(N,)``; -1 where it is not known.
        threshold: of the corrections.

    Returns:
        Of the samples whose true label is known: ``known``, their number; ``wrong``, how many of their labels are;
        ``auroc`` and ``average_precision`` of 1 - P(given is right) for "the label is wrong", ``None`` where all are right, or
        all wrong; ``precision_at``, the share of wrong ones among the first 100, 500 and 1,000, as far as there are so many,
        and among the first ``wrong``; ``given_accuracy``, ``suggested_accuracy`` and ``corrected_accuracy``, the share of each
        that is true. Where all are known, ``wrong_in_interval``, whether the interval holds their number, and
        ``wrong_by_class_in_interval``, for how many of the classes it does; else ``None``.

    Raises:
        UserError: there are not N of them, none is known, or one is no class.
    """
    if true.shape != found.given.shape:
        raise UserError(
            f"There are {len(found.given)} labels, but true ones of shape {true.shape}. Give one for each, -1 where unknown."
        )
    if len(true) and not -1 <= true.min() <= true.max() < found.num_classes:
        raise UserError(
            f"True labels must lie in 0..{found.num_classes - 1}, or be -1 where unknown, but go from {true.min()} to "
            f"{true.max()}. Number them as the given ones."
        )
    known = true >= 0
    if not known.any():
        raise UserError("No true label is known: all are -1. Leave them out.")
    is_wrong = found.given != true
    ordered = is_wrong[found.order][known[found.order]]
    wrong = int(ordered.sum())
    firsts = sorted({k for k in (*FIRST, wrong) if 0 < k <= len(ordered)})
    everything = bool(known.all())
    by_class = np.bincount(found.given[is_wrong & known], minlength=found.num_classes)
    interval, intervals = found.wrong, found.wrong_by_class
    return {
        "known": len(ordered),
        "wrong": wrong,
        "auroc": auroc(1 - found.quality[known], is_wrong[known]),
        "average_precision": average_precision(1 - found.quality[known], is_wrong[known]),
        "precision_at": {k: float(ordered[:k].mean()) for k in firsts},
        "given_accuracy": 1 - wrong / len(ordered),
        "suggested_accuracy": float((found.suggested == true)[known].mean()),
        "corrected_accuracy": float((corrected(found, threshold) == true)[known].mean()),
        "wrong_in_interval": bool(interval.low <= wrong <= interval.high) if everything else None,
        "wrong_by_class_in_interval": int(((intervals.low <= by_class) & (by_class <= intervals.high)).sum())
        if everything
        else None,
    }


def auroc(scores: NDArray[np.float64], is_wrong: NDArray[np.bool_]) -> float | None:
    """Return the probability that a wrong label scores above a right one, an equal score counting half; ``None`` without both.

    One of the two wrong ones is above both right ones, the other is equal to one and above the other: (2 + 1.5) / 4.

    >>> auroc(np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False]))
    0.875
    """
    many = int(is_wrong.sum())
    if many in (0, len(is_wrong)):
        return None
    _, tied, ties = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (ties.cumsum() - (ties - 1) / 2)[tied]
    return float((ranks[is_wrong].sum() - many * (many + 1) / 2) / (many * (len(is_wrong) - many)))


def average_precision(scores: NDArray[np.float64], is_wrong: NDArray[np.bool_]) -> float | None:
    """Return the mean, over the wrong labels, of the precision down to each one's score; ``None`` where none is wrong.

    Down to the first wrong one 1 of 1 is wrong, down to the second, which is equal to a right one, 2 of 3:

    >>> average_precision(np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False])) == (1 + 2 / 3) / 2
    True
    """
    many = int(is_wrong.sum())
    if not many:
        return None
    order = np.argsort(-scores, kind="stable")
    hits = is_wrong[order].cumsum()
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    new = np.diff(hits[last], prepend=0)
    return float((new * hits[last] / (last + 1)).sum() / many)
