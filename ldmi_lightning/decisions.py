r"""Which of two classifiers knows more about the labels: a rule that looks at noisy held-out labels and at decisions alone.

If noise depends on the class alone, :math:`I(h(X); \tilde y) \le I(y; \tilde y)` for every classifier h (data processing):
no classifier's decisions tell as much about the noisy labels as the truth. What decisions tell is estimated by cross-fitting,
so that a classifier is not rewarded for the freedom of its table. Outputs are not compared, since those of a net trained with
cross-entropy are probabilities of the noisy label, and those of a net trained with L_DMI of the true one.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.errors import UserError

FOLDS = 5
FOLD_SEED = 0
"""The same parts for all that is compared, whatever the seed of the run: the choice shall not depend on it."""


class Comparison(NamedTuple):
    """How much better the later of two classifiers is on the same samples.

    Attributes:
        difference: mean of the later one's scores less the kept one's.
        standard_error: of that mean; infinite for fewer than two samples.
        z: their ratio.
    """

    difference: float
    standard_error: float
    z: float


def decision_scores(predicted: NDArray[np.int64], y: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    r"""Return :math:`\log \hat P(\tilde y_i \mid h(x_i))` for each sample, with the table of the four parts without it.

    The samples are put at random, but always the same way, into five parts. With :math:`n_{kj}` samples of the other four
    parts predicted as k and labelled j, n in all, and one pseudo-count that falls on the labels by their shares,

    .. math:: \hat P(j \mid k) = \frac{n_{kj} + s_j}{\sum_l n_{kl} + 1}, \qquad
              s_j = \frac{\sum_k n_{kj} + 1 / C}{n + 1}.

    So a class that the four parts never predict scores by the shares of the labels, and no score is infinite. The names of the
    predicted classes do not matter.

    Args:
        predicted: the classifier's classes, shape ``(N,)``.
        y: noisy labels that it was not trained on, shape ``(N,)``.
        num_classes: C.

    Returns:
        Shape ``(N,)``. Two samples are in different parts, each the other's table. If they agree, :math:`s_0 = 3/4` and the
        score is :math:`\log((1 + 3/4) / 2)`; if they do not, it is :math:`\log(s_0) = \log(1/4)`:

    >>> np.exp(decision_scores(np.array([0, 0]), np.array([0, 0]), num_classes=2)).tolist()
    [0.875, 0.875]
    >>> np.exp(decision_scores(np.array([0, 1]), np.array([0, 1]), num_classes=2)).tolist()
    [0.25, 0.25]
    """
    for name, classes in (("predicted", predicted), ("y", y)):
        if len(classes) and not 0 <= classes.min() <= classes.max() < num_classes:
            raise UserError(
                f"decision_scores: {name} must lie in 0..{num_classes - 1}, but goes from {classes.min()} to "
                f"{classes.max()}. Give num_classes the number of classes."
            )
    if len(predicted) != len(y):
        raise UserError(f"decision_scores: {len(predicted)} predictions cannot be compared with {len(y)} labels.")
    part = np.empty(len(y), dtype=np.int64)
    part[np.random.RandomState(FOLD_SEED).permutation(len(y))] = np.arange(len(y)) % FOLDS
    scores = np.empty(len(y))
    for number in range(FOLDS):
        inside, outside = part == number, part != number
        cells = predicted[outside] * num_classes + y[outside]
        counts = np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)
        shares = (counts.sum(axis=0) + 1 / num_classes) / (len(cells) + 1)
        k, j = predicted[inside], y[inside]
        scores[inside] = np.log((counts[k, j] + shares[j]) / (counts.sum(axis=1)[k] + 1))
    return scores


def compare(later: NDArray[np.float64], kept: NDArray[np.float64]) -> Comparison:
    """Compare the scores of two classifiers on the same samples, both of shape ``(N,)``, in the same order.

    >>> compare(np.array([1.0, 3.0]), np.array([0.0, 0.0]))  # 1 and 3: mean 2, deviation sqrt(2), over sqrt(2)
    Comparison(difference=2.0, standard_error=1.0, z=2.0)
    >>> compare(np.array([1.0]), np.array([0.0]))
    Comparison(difference=1.0, standard_error=inf, z=0.0)
    """
    if len(later) != len(kept):
        raise UserError(f"compare: {len(later)} scores cannot be paired with {len(kept)}. Score the same samples.")
    differences = later - kept
    difference = float(differences.mean()) if len(differences) else 0.0
    if len(differences) < 2:
        return Comparison(difference, math.inf, 0.0)
    error = float(differences.std(ddof=1) / math.sqrt(len(differences)))
    if error == 0:
        return Comparison(difference, 0.0, math.copysign(math.inf, difference) if difference else 0.0)
    return Comparison(difference, error, difference / error)


def is_better(comparison: Comparison) -> bool:
    """Whether the later classifier is better by more than one standard error, which an equal one is in 16 % of all cases.

    >>> is_better(Comparison(0.2, 0.1, 2.0)), is_better(Comparison(0.1, 0.1, 1.0)), is_better(Comparison(0.0, 0.0, 0.0))
    (True, False, False)
    """
    return comparison.difference > comparison.standard_error
