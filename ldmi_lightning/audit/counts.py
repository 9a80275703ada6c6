r"""Counting wrong labels by decisions alone: for outputs of a net that was trained to predict the labels as GIVEN.

Such outputs, as after cross-entropy, are probabilities of the given label at best. The likelihood of T would find the
identity in them; but where a sample is surer of another class than the samples of that class are on average, its label is
doubtful. That is the confident joint of Northcutt, Jiang and Chuang ("Confident learning", JAIR 2021):

.. math:: t_j = \mathrm{mean}_{i: \tilde y_i = j}\; p_{ij}, \qquad
          c_{jk} = \#\{i: \tilde y_i = j,\; k = \arg\max_{l:\, p_{il} \ge t_l} p_{il}\},

each row of c scaled to the number of labels given as j. It is right where each class keeps most of its own labels. Where more
labels of a class go to another one than stay, the net decides for the other one, agrees with the wrong labels, and the count is
too low: train with L_DMI then.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.audit.intervals import Estimate, Spread, normal_interval
from ldmi_lightning.audit.posterior import Judged, chunks, judge
from ldmi_lightning.likelihood import TEMPERATURE_ROWS, log_likelihood, tempered

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

REPLICATES = 400
"""So many bootstrap samples of the counts; a tenth of them where there are many cells."""

MANY_CELLS = 100_000

SHARPER = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12)
"""What sharpens outputs of the labels as given; of equally likely ones the first is taken."""

_SMALLEST_THRESHOLD = 1e-9
"""What the mean probability counts for that a net gives to a class it knows nothing of."""


class Counted(NamedTuple):
    """T, the classes and the wrong labels by counts.

    Attributes:
        transition: T, shape ``(C, C)``, row = true class.
        priors: shares of the true classes, shape ``(C,)``.
        wrong: number of wrong labels.
        wrong_by_class: of those given as each class, shape ``(C,)``.
    """

    transition: Floats
    priors: Floats
    wrong: float
    wrong_by_class: Floats


def thresholds(probs: NDArray[np.floating], y: Labels) -> Floats:
    """Return for each class the mean probability that its samples are given for it, shape ``(C,)``; infinite without samples.

    >>> thresholds(np.array([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6]]), np.array([0, 0, 1])).round(9).tolist()
    [0.8, 0.6]
    """
    num_classes = probs.shape[1]
    own = probs[np.arange(len(y)), y].astype(np.float64)
    many = np.bincount(y, minlength=num_classes)
    found = np.full(num_classes, np.inf)
    np.divide(np.bincount(y, own, num_classes), many, out=found, where=many > 0)
    return found


def confident_joint(probs: NDArray[np.floating], y: Labels) -> NDArray[np.int64]:
    """Return how many samples labelled j are confidently of class k, shape ``(C, C)``, row = GIVEN label; not scaled.

    Args:
        probs: outputs for samples that the net was not trained on, shape ``(N, C)``.
        y: given labels, shape ``(N,)``.

    Thresholds are 0.5 and 0.7: the second sample is confidently of class 1, the third of neither:

    >>> probs = np.array([[0.9, 0.1], [0.1, 0.9], [0.4, 0.6], [0.2, 0.8]])
    >>> confident_joint(probs, np.array([0, 0, 1, 1])).tolist()
    [[1, 1], [0, 1]]
    """
    num_classes = probs.shape[1]
    # A mean of equal numbers may lie above them by rounding.
    least = thresholds(probs, y) * (1 - 1e-9)
    counts = np.zeros(num_classes**2, dtype=np.int64)
    for rows in chunks(*probs.shape):
        sure = np.where(probs[rows] >= least, probs[rows], -1.0)
        best = sure.argmax(axis=1)
        known = sure[np.arange(len(best)), best] >= 0
        counts += np.bincount((y[rows] * num_classes + best)[known], minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def calibrated(joint: NDArray[np.floating | np.int64], label_counts: NDArray[np.floating | np.int64]) -> Counted:
    """Scale each label's row to its number of samples, and read off T, priors and the wrong labels.

    Args:
        joint: of :func:`confident_joint`. A label with an empty row counts as right, a class without a column as never wrong.
        label_counts: number of samples given each label, shape ``(C,)``.

    >>> found = calibrated(np.array([[1, 1], [0, 1]]), np.array([2, 2]))  # of three of class 1 one is labelled 0
    >>> found.transition.round(3).tolist(), found.priors.tolist(), found.wrong, found.wrong_by_class.tolist()
    ([[1.0, 0.0], [0.333, 0.667]], [0.25, 0.75], 1.0, [1.0, 0.0])
    """
    joint = joint.astype(np.float64)
    joint[np.diag_indices_from(joint)] += joint.sum(axis=1) == 0
    scaled = joint / joint.sum(axis=1, keepdims=True) * label_counts[:, None]
    by_class = scaled.sum(axis=0)
    transition = np.eye(len(scaled))
    np.divide(scaled.T, by_class[:, None], out=transition, where=by_class[:, None] > 0)
    wrong = label_counts - scaled.diagonal()
    return Counted(transition, by_class / label_counts.sum(), float(wrong.sum()), wrong)


def counted(joint: NDArray[np.int64], label_counts: NDArray[np.int64], random: np.random.RandomState) -> list[Estimate]:
    """Return T, priors, wrong labels and wrong labels by class with 95 % intervals.

    A bootstrap over samples: each label's samples fall anew on the cells of its row, and on none. The thresholds, means over
    all samples of a label, are held fast. The interval speaks of chance alone, not of what decisions cannot see.

    Args:
        joint: of :func:`confident_joint`.
        label_counts: number of samples given each label, shape ``(C,)``.
        random: draws.
    """
    value: tuple[Any, ...] = calibrated(joint, label_counts)
    spread = Spread()
    for _ in range(REPLICATES if joint.size < MANY_CELLS else REPLICATES // 10):
        drawn: tuple[Any, ...] = calibrated(random.poisson(joint), label_counts)
        spread.add([one - middle for one, middle in zip(drawn, value, strict=True)])
    most = (1.0, 1.0, float(label_counts.sum()), label_counts)
    return [
        normal_interval(middle, deviation, high=high)
        for middle, deviation, high in zip(value, spread.deviations(), most, strict=True)
    ]


def judge_given(probs: NDArray[np.floating], y: Labels, transition: Floats) -> Judged:
    r"""Judge each label by :math:`q_k T_{k \tilde y}`, with :math:`q = \mathrm{softmax}(\log(p / t) / \tau)`.

    Outputs of the labels as given are small for a class that loses many of its labels: dividing by the thresholds t takes that
    back. And they are flat, since labels are noisy where the class is not: of :data:`SHARPER` that tau is taken under which the
    labels are most likely, T held fast. The probabilities rank well; how near they are to shares depends on the net.

    Args:
        probs: outputs, shape ``(N, C)``.
        y: given labels, shape ``(N,)``.
        transition: T of :func:`calibrated`, shape ``(C, C)``.
    """
    least = np.maximum(thresholds(probs, y), _SMALLEST_THRESHOLD)

    def true_probs(part: NDArray[np.floating], tau: float) -> Floats:
        return tempered(part / least, tau)

    rows = np.arange(len(y))
    if len(y) > TEMPERATURE_ROWS:
        rows = np.sort(np.random.RandomState(0).permutation(len(y))[:TEMPERATURE_ROWS])
    part, labels = probs[rows], y[rows]
    best = max(SHARPER, key=lambda tau: log_likelihood(true_probs(part, tau), labels, transition))
    return judge(probs, y, transition, partial(true_probs, tau=best))
