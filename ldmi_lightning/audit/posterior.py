r"""P(true label | input, given label), and what it says of each label.

With q = P(true = k | x), and given labels that depend on the true class alone, Bayes' rule gives

.. math:: P(k \mid x, \tilde y) = \frac{P(k \mid x)\, P(\tilde y \mid k, x)}{P(\tilde y \mid x)}
          = \frac{q_k T_{k \tilde y}}{\sum_l q_l T_{l \tilde y}}.

q is a posterior already: it holds the share of each class in the data, and nothing is to be divided by it. (A likelihood
P(x | k) would have to be multiplied by that share.)
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.likelihood import order_by_label

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

VALUES_AT_ONCE = 2**20
"""So many outputs are worked on together."""

_SMALLEST = float(np.finfo(np.float64).tiny)


class Judged(NamedTuple):
    """What the posteriors say of each label, and of all.

    Attributes:
        suggested: the most probable class given input and label, shape ``(N,)``; of equal ones the given label, then the first.
        quality: P(given is right), shape ``(N,)``.
        confidence: P(suggested is right), shape ``(N,)``.
        counts: expected number of samples of each true class among those of each label, shape ``(C, C)``, row = true class.
        spread: variance of the number of right labels among those given as each class, shape ``(C,)``.
        class_spread: variance of the number of samples of each true class, shape ``(C,)``.
        decided: the most probable class by the outputs alone, shape ``(N,)``.
    """

    suggested: Labels
    quality: Floats
    confidence: Floats
    counts: Floats
    spread: Floats
    class_spread: Floats
    decided: Labels


def posterior(q: Floats, y: Labels, transition: Floats) -> Floats:
    r"""Return :math:`q_k T_{k \tilde y} / \sum_l q_l T_{l \tilde y}`, float64, shape ``(N, C)``.

    Args:
        q: P(true = k | x), shape ``(N, C)``.
        y: given labels, shape ``(N,)``.
        transition: T, shape ``(C, C)``. A label that no class can have made leaves q as it is.

    >>> transition = np.array([[0.8, 0.2], [0.4, 0.6]])
    >>> posterior(np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([0, 1]), transition).round(3).tolist()  # 8 : 4, and 2 : 6
    [[0.667, 0.333], [0.25, 0.75]]
    """
    joint = q * np.ascontiguousarray(transition.T)[y]
    total = joint.sum(axis=1, keepdims=True)
    impossible = total[:, 0] < _SMALLEST
    if impossible.any():
        joint[impossible] = q[impossible]
        total[impossible] = q[impossible].sum(axis=1, keepdims=True)
    joint /= total
    return joint


def chunks(num_samples: int, num_classes: int) -> Iterator[slice]:
    """Give the rows that are worked on together.

    >>> [(each.start, each.stop) for each in chunks(2**20, 2)]
    [(0, 524288), (524288, 1048576)]
    """
    step = max(1, VALUES_AT_ONCE // num_classes)
    return (slice(start, min(start + step, num_samples)) for start in range(0, num_samples, step))


def judge(
    probs: NDArray[np.floating],
    y: Labels,
    transition: Floats,
    true_probs: Callable[[NDArray[np.floating]], Floats] = np.asarray,
) -> Judged:
    """Judge each label by its posterior.

    Args:
        probs: outputs, shape ``(N, C)``.
        y: given labels, shape ``(N,)``.
        transition: T, shape ``(C, C)``.
        true_probs: makes of some rows of ``probs`` P(true = k | x), float64, of the same shape; unless they are that already.

    The label of the second sample is more probably 0, by 3 to 2 (0.5 · 0.6 against 0.5 · 0.4):

    >>> transition = np.array([[0.4, 0.6], [0.6, 0.4]])
    >>> found = judge(np.array([[0.0, 1.0], [0.5, 0.5]]), np.array([1, 1]), transition)
    >>> found.suggested.tolist(), found.quality.round(3).tolist(), found.confidence.round(3).tolist()
    ([1, 0], [1.0, 0.4], [1.0, 0.6])
    >>> found.counts.round(3).tolist()
    [[0.0, 0.6], [0.0, 1.4]]
    """
    num_samples, num_classes = probs.shape
    transition = np.asfortranarray(transition)  # its columns are looked up for each sample
    suggested, decided = np.empty(num_samples, dtype=np.int64), np.empty(num_samples, dtype=np.int64)
    quality, confidence = np.empty(num_samples), np.empty(num_samples)
    counts, class_spread = np.zeros((num_classes, num_classes)), np.zeros(num_classes)
    for rows in chunks(num_samples, num_classes):
        outputs, labels = probs[rows], y[rows]
        found = posterior(true_probs(outputs), labels, transition)
        each = np.arange(len(labels))
        best = found.argmax(axis=1)
        quality[rows], confidence[rows] = found[each, labels], found[each, best]
        suggested[rows] = np.where(quality[rows] >= confidence[rows], labels, best)
        decided[rows] = outputs.argmax(axis=1)
        add_by_label(counts, found, labels)
        class_spread += (found * (1 - found)).sum(axis=0)
    spread = np.bincount(y, quality * (1 - quality), num_classes).astype(np.float64)
    return Judged(suggested, quality, confidence, counts, spread, class_spread, decided)


def add_by_label(counts: Floats, found: Floats, labels: Labels) -> None:
    """Add each sample's row, shape ``(N, C)``, to its label's column of ``counts``, shape ``(C, C)``.

    >>> counts = np.zeros((2, 2))
    >>> add_by_label(counts, np.array([[0.25, 0.75], [0.5, 0.5]]), np.array([1, 1]))
    >>> counts.tolist()
    [[0.0, 0.75], [0.0, 1.25]]
    """
    order = order_by_label(labels)
    present, starts = np.unique(labels[order], return_index=True)
    counts[:, present] += np.add.reduceat(found[order], starts, axis=0).T
