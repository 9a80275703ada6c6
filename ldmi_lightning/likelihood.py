r"""The transition matrix T by likelihood: a temperature and T fitted together to noisy labels that the net was not trained on.

Counting the labels that come with each prediction is biased wherever classes are not told apart with certainty, and outputs
after L_DMI are too sure for their posteriors to be used as they are. So the outputs p are made softer by a temperature t,
:math:`q = \mathrm{softmax}(\log p / t)`, and T and t maximise the likelihood of the noisy labels,

.. math:: \ell(T, t) = \sum_i \log \sum_k q_{ik} T_{k \tilde y_i},

T by expectation maximisation, t on a grid. The outputs must be those of a net that predicts TRUE labels, as after L_DMI or a
loss with a T: a net trained with cross-entropy predicts noisy ones, and the likelihood then finds T close to the identity.

NumPy only, in float64.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.errors import UserError

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)
STEPS = 50
"""Steps of expectation maximisation for each temperature."""

TEMPERATURE_ROWS = 20_000
"""At most so many samples choose the temperature, which is one number; all of them estimate T."""

SPARSE = 8
"""Where at most one in so many pairs of a sample and a class can have made the sample's label, only those are looked at."""

_SMALLEST_OUTPUT = float(np.finfo(np.float32).tiny)
"""What an output of 0 stands for: float32 holds nothing smaller in full precision."""

_SMALLEST = float(np.finfo(np.float64).tiny)


class FittedTransition(NamedTuple):
    """The most likely T and temperature.

    Attributes:
        transition: T, float64, shape ``(C, C)``, C-contiguous, rows summing to 1.
        temperature: t.
        log_likelihood: the sum over all samples at T and t.
    """

    transition: Floats
    temperature: float
    log_likelihood: float


def fit_transition(
    probs: NDArray[np.floating], y: Labels, temperatures: tuple[float, ...] = TEMPERATURES, steps: int = STEPS
) -> FittedTransition:
    """Fit T and the temperature of the outputs to noisy labels.

    Args:
        probs: softmax outputs for held-out samples, shape ``(N, C)``.
        y: their noisy labels, shape ``(N,)``.
        temperatures: what is tried; of equally likely ones the first is taken.
        steps: of expectation maximisation, for each.

    Outputs that are certain and right leave nothing to a temperature, and T is the share of each label:

    >>> outputs = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> found = fit_transition(outputs, np.array([0, 1, 1]))
    >>> found.transition.round(9).tolist(), found.temperature
    ([[0.5, 0.5], [0.0, 1.0]], 1.0)
    >>> round(float(np.exp(found.log_likelihood)), 9)
    0.25
    """
    _check(probs, y)
    chosen = temperatures[0]
    if len(temperatures) > 1:
        rows = np.arange(len(y))
        if len(y) > TEMPERATURE_ROWS:
            rows = np.random.RandomState(0).permutation(len(y))[:TEMPERATURE_ROWS]
        logits, labels = _logits(probs[rows]), y[rows]
        tried = []
        for temperature in temperatures:
            q = _softmax(logits / temperature)
            tried.append(log_likelihood(q, labels, maximise(q, labels, steps=steps)))
        # Where two are equal but for rounding, the order of the samples shall not decide.
        enough = max(tried) - 1e-9 * (1 + abs(max(tried)))
        chosen = next(t for t, value in zip(temperatures, tried, strict=True) if value >= enough)
    q = tempered(probs, chosen)
    transition = maximise(q, y, steps=steps)
    return FittedTransition(transition, chosen, log_likelihood(q, y, transition))


def tempered(probs: NDArray[np.floating], temperature: float) -> Floats:
    """Return ``softmax(log p / t)``, float64, shape ``(N, C)``; finite, and above 0, also where p is 0.

    >>> tempered(np.array([[0.8, 0.2]]), 2.0).round(9).tolist()  # square roots, whose ratio is 2
    [[0.666666667, 0.333333333]]
    """
    return _softmax(_logits(probs) / temperature)


def counted_transition(probs: Floats, y: Labels) -> Floats:
    """Return the share of each label among the samples predicted as k; where there are none, as the outputs weigh them.

    A class to which the outputs give nothing at all has the shares of the labels.

    It is what :func:`ldmi_lightning.transition.held_out_transition` returns, and where :func:`maximise` starts.

    >>> outputs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    >>> counted_transition(outputs, np.array([0, 1, 1])).tolist()
    [[0.5, 0.5], [0.0, 1.0]]
    """
    num_classes = probs.shape[1]
    cells = probs.argmax(axis=1) * num_classes + y
    counts = np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.float64)
    never = counts.sum(axis=1) == 0
    if never.any():
        for label, rows in _by_label(y):
            counts[never, label] = probs[rows][:, never].sum(axis=0)
    counts[counts.sum(axis=1) == 0] = np.bincount(y, minlength=num_classes)
    transition: Floats = counts / counts.sum(axis=1, keepdims=True)
    return transition


def maximise(
    q: Floats, y: Labels, start: Floats | None = None, steps: int = STEPS, weights: Floats | None = None
) -> Floats:
    r"""Return T after so many steps of expectation maximisation at fixed probabilities of the true label.

    A step replaces T by the rows, normalised, of :math:`\sum_i \mathbb 1[\tilde y_i = j]\, q_{ik} T_{kj} / \sum_l q_{il}
    T_{lj}`, and never lowers the likelihood. A row without mass stays as it is.

    Args:
        q: probabilities of the true label, float64, shape ``(N, C)``.
        y: noisy labels, shape ``(N,)``.
        start: T to start from, shape ``(C, C)``; ``None`` for :func:`counted_transition`. An entry of 0 stays 0.
        steps: 0 returns the start.
        weights: how often each sample counts in a step, shape ``(N,)``; ``None`` for once.

    One sample, of which nothing is known but its label: its posterior is proportional to that label's column, (1, 3) / 4.

    >>> q, y = np.array([[0.5, 0.5]]), np.array([1])
    >>> maximise(q, y, start=np.array([[0.8, 0.2], [0.4, 0.6]]), steps=1).tolist()  # no other label was seen
    [[0.0, 1.0], [0.0, 1.0]]

    Of outputs that are certain, T is the share of each label; the second sample counts three times:

    >>> q, y = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([0, 1, 1])
    >>> maximise(q, y, weights=np.array([1.0, 3.0, 1.0])).tolist()
    [[0.25, 0.75], [0.0, 1.0]]
    """
    transition = np.array(counted_transition(q, y) if start is None else start, dtype=np.float64, order="C")
    possible = np.count_nonzero(transition, axis=0)[y].sum()
    return (_sparse_steps if possible * SPARSE <= q.size else _dense_steps)(q, y, transition, steps, weights)


def expected_counts(q: Floats, y: Labels, transition: Floats) -> Floats:
    """Return how many samples of each true class are expected among those of each label: the sums of their posteriors.

    Args:
        q: probabilities of the true label, float64, shape ``(N, C)``.
        y: noisy labels, shape ``(N,)``.
        transition: T, shape ``(C, C)``.

    Returns:
        Shape ``(C, C)``, row = true class, column = label. A label that no class can have made counts for none.

    One sample labelled 1, whose posterior is (1, 3) / 4:

    >>> expected_counts(np.array([[0.5, 0.5]]), np.array([1]), np.array([[0.8, 0.2], [0.4, 0.6]])).tolist()
    [[0.0, 0.25], [0.0, 0.75]]
    """
    return _posterior_sums(_groups(q, y, None), transition)


Groups = list[tuple[int, Floats, Floats | float]]
"""For each label that occurs its samples' outputs and weights."""


def _groups(q: Floats, y: Labels, weights: Floats | None) -> Groups:
    return [
        (label, np.ascontiguousarray(q[rows]), 1.0 if weights is None else weights[rows])
        for label, rows in _by_label(y)
    ]


def _posterior_sums(groups: Groups, transition: Floats) -> Floats:
    sums = np.zeros_like(transition)
    for label, rows, weights in groups:
        column = transition[:, label]
        # einsum and not `@`, whose sums would depend on the number of threads, and so on the rank.
        likelihoods = np.einsum("nk,k->n", rows, column)
        # A sample that no class can have made counts for none; its weight, summed, would be infinite.
        counted = (likelihoods >= _SMALLEST) / np.maximum(likelihoods, _SMALLEST) * weights
        sums[:, label] = column * np.einsum("n,nk->k", counted, rows)
    return sums


def _dense_steps(q: Floats, y: Labels, transition: Floats, steps: int, weights: Floats | None) -> Floats:
    groups = _groups(q, y, weights)
    for _ in range(steps):
        sums = _posterior_sums(groups, transition)
        mass = sums.sum(axis=1, keepdims=True)
        np.divide(sums, mass, out=transition, where=mass > 0)
    return transition


def _sparse_steps(q: Floats, y: Labels, transition: Floats, steps: int, weights: Floats | None) -> Floats:
    """Take the same steps over the entries of T that are not 0, and each sample's classes that can have made its label."""
    label_of, class_of = np.nonzero(transition.T)
    entries = transition[class_of, label_of]
    first = np.searchsorted(label_of, np.arange(len(transition)))
    many = np.bincount(label_of, minlength=len(transition))[y]
    sample = np.repeat(np.arange(len(y)), many)
    entry = np.arange(len(sample)) + np.repeat(first[y] - (many.cumsum() - many), many)
    outputs = q[sample, class_of[entry]]
    for _ in range(steps):
        posteriors = outputs * entries[entry]
        posteriors /= np.maximum(np.bincount(sample, posteriors, len(y)), _SMALLEST)[sample]
        if weights is not None:
            posteriors *= weights[sample]
        sums = np.bincount(entry, posteriors, len(entries))
        mass = np.bincount(class_of, sums, len(transition))[class_of]
        np.divide(sums, mass, out=entries, where=mass > 0)
    transition[class_of, label_of] = entries
    return transition


def log_likelihood(q: Floats, y: Labels, transition: Floats) -> float:
    """Return the sum over the samples of ``log sum_k q_k T[k, y]``; finite, as no probability counts for less than 2e-308.

    >>> found = log_likelihood(np.array([[0.5, 0.5]]), np.array([1]), np.array([[0.5, 0.5], [0.0, 1.0]]))
    >>> round(float(np.exp(found)), 9)
    0.75
    """
    likelihoods = np.einsum("nk,nk->n", q, np.ascontiguousarray(transition.T)[y])
    return float(np.log(np.maximum(likelihoods, _SMALLEST)).sum())


def _logits(probs: NDArray[np.floating]) -> Floats:
    """Return ``log p``, float64, shape ``(N, C)``, finite."""
    logits = np.maximum(probs.astype(np.float64), _SMALLEST_OUTPUT)
    return np.log(logits, out=logits)


def _softmax(logits: Floats) -> Floats:
    """Return the softmax of logits, which are overwritten."""
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def _by_label(y: Labels) -> list[tuple[int, NDArray[np.intp]]]:
    """Return each label that occurs, with the positions of its samples in their order."""
    order = order_by_label(y)
    labels, starts = np.unique(y[order], return_index=True)
    return list(zip(labels.tolist(), np.split(order, starts[1:]), strict=True))


def order_by_label(y: Labels) -> NDArray[np.intp]:
    """Return the positions of all samples, label by label, in their order within each; in linear time.

    >>> order_by_label(np.array([1, 0, 1])).tolist()
    [1, 0, 2]
    """
    # NumPy sorts integers of 16 bits, and no longer ones, by counting.
    return np.argsort(y.astype(np.uint16) if y.max(initial=0) < 2**16 else y, kind="stable")


def _check(probs: NDArray[np.floating], y: Labels) -> None:
    if probs.ndim != 2 or probs.shape[:1] != y.shape or not len(y):
        raise UserError(
            f"fit_transition needs outputs of shape (N, C) and N labels, N at least 1, but got shapes {probs.shape} and "
            f"{y.shape}. Give it the outputs and noisy labels of held-out samples."
        )
    if not 0 <= y.min() <= y.max() < probs.shape[1]:
        raise UserError(
            f"fit_transition: labels must lie in 0..{probs.shape[1] - 1}, but go from {y.min()} to {y.max()}. Give it one "
            "column of outputs for each class."
        )
    wrong = np.flatnonzero(~(np.isfinite(probs) & (probs >= 0)).all(axis=1))
    if len(wrong):
        raise UserError(
            f"fit_transition: outputs must be probabilities, but row {wrong[0]} is {probs[wrong[0]].tolist()}. Give it "
            "softmax outputs."
        )
