r"""How far each annotator's matrix is drawn towards what all have in common: an empirical-Bayes mixture, which is fitted.

Somebody with 200 votes on ten classes has 20 a row, and counts alone miss a row by 0.3 (L1). So rows have a prior: Dirichlet,
with one of these means m and strengths s, in votes a row:

- the common T, each row to the power of b and normalised: b > 1 for somebody who errs less than most, b < 1 for more;
- the shares of his own votes, the same in each row: for somebody who does not look.

How common each of these is among the annotators is estimated with them (by the likelihood of the counts, in which the rows are
integrated out), and each annotator's T is the mean over them by how probable each is for him. With many votes the counts decide.

NumPy only, in float64.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SHARPNESS = (0.25, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0)
STRENGTHS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
OF_GUESSES = (16.0, 64.0, 256.0, 1024.0)
"""Strengths of the prior of somebody who does not look: with a weaker one any rows would do."""
STEPS = 100
"""Steps of expectation maximisation for how common each prior is; one costs A times 58 products."""

_NO_COUNT = 1e-6
"""Cells of the counts that hold less are not looked at: of a thousand classes most are such."""
_NO_WEIGHT = 1e-6


class Priors(NamedTuple):
    """The priors of A annotators.

    Attributes:
        common: T of those who look, shape ``(C, C)``.
        own: shares of each one's votes, smoothed, shape ``(A, C)``.
        weights: how probable each prior is for each annotator, shape ``(A, G)``, rows summing to 1.
    """

    common: Floats
    own: Floats
    weights: Floats

    @property
    def looks(self) -> Floats:
        """How probable it is for each annotator that he looks, shape ``(A,)``."""
        return np.asarray(self.weights[:, : len(SHARPNESS) * len(STRENGTHS)].sum(axis=1))


def fit_priors(counts: Floats, looks: Floats | None = None) -> Priors:
    """Fit how common each prior is, and how probable for each annotator.

    Args:
        counts: how often each annotator's vote was j where the true class is thought to be k, shape ``(A, C, C)``.
        looks: how probable it is for each that he looks, as far as that is known, shape ``(A,)``; ``None`` for 1. The common T
            is counted with these weights.

    Three that are right nine times of ten, and one who says 0 and 1 by turns:

    >>> counts = 10 * np.array([[[9.0, 1.0], [1.0, 9.0]]] * 3 + [[[5.0, 5.0], [5.0, 5.0]]])
    >>> found = fit_priors(counts)
    >>> found.looks.round(1).tolist()
    [1.0, 1.0, 1.0, 0.0]
    """
    weight = np.ones(len(counts)) if looks is None else looks
    common = (counts * weight[:, None, None]).sum(axis=0) + 1 / counts.shape[1]
    common /= common.sum(axis=1, keepdims=True)
    own = counts.sum(axis=1) + 1 / counts.shape[1]
    own /= own.sum(axis=1, keepdims=True)
    annotator, row, column = np.nonzero(counts > _NO_COUNT)
    seen, totals = counts[annotator, row, column], counts.sum(axis=2)
    likelihoods = []
    for mean, strength in _priors(common, own):
        # A mean is one matrix for all, or one row for each.
        place = (row, column) if mean is not own else (annotator, column)
        at, less = strength * mean, _log_gamma(strength * mean)
        rows = _log_gamma(np.array(strength)) - _log_gamma(totals + strength)
        cells = np.bincount(annotator, _log_gamma(seen + at[place]) - less[place], len(counts))
        likelihoods.append(cells + rows.sum(axis=1))
    table = np.stack(likelihoods, axis=1)
    table = np.exp(table - table.max(axis=1, keepdims=True))
    shares = np.full(table.shape[1], 1 / table.shape[1])
    weights = table
    for _ in range(STEPS):
        weights = table * shares
        weights /= weights.sum(axis=1, keepdims=True)
        shares = weights.mean(axis=0)
    return Priors(common, own, weights)


def shrunk(counts: Floats, priors: Priors) -> Floats:
    """Return the mean of each annotator's T, given counts and priors, shape ``(A, C, C)``, rows summing to 1.

    >>> certain = np.zeros((1, len(SHARPNESS) * len(STRENGTHS) + len(OF_GUESSES)))
    >>> certain[0, -4] = 1  # he does not look: 16 votes in proportion to his own, (1, 3) / 4
    >>> shrunk(np.array([[[4.0, 0.0], [0.0, 0.0]]]), Priors(np.eye(2), np.array([[0.25, 0.75]]), certain)).tolist()
    [[[0.4, 0.6], [0.25, 0.75]]]
    """
    transitions = np.zeros_like(counts)
    totals = counts.sum(axis=2, keepdims=True)
    for place, (mean, strength) in enumerate(_priors(priors.common, priors.own)):
        weight = priors.weights[:, place]
        some = np.flatnonzero(weight > _NO_WEIGHT)
        if len(some):
            rows = mean if mean is not priors.own else mean[some][:, None, :]
            posterior = (counts[some] + strength * rows) / (totals[some] + strength)
            transitions[some] += weight[some, None, None] * posterior
    normalised: Floats = transitions / transitions.sum(axis=2, keepdims=True)
    return normalised


def _priors(common: Floats, own: Floats) -> Iterator[tuple[Floats, float]]:
    """Return mean and strength of each prior, ``own`` itself for those of somebody who does not look."""
    for sharpness in SHARPNESS:
        mean = common**sharpness
        mean /= mean.sum(axis=1, keepdims=True)
        for strength in STRENGTHS:
            yield mean, strength
    for strength in OF_GUESSES:
        yield own, strength


def _log_gamma(x: Floats) -> Floats:
    """Return the logarithm of the gamma function of positive numbers, by Stirling's series from x + 6 on.

    >>> bool(np.allclose(_log_gamma(np.array([1e-5, 1.5, 30.0])), [math.lgamma(x) for x in (1e-5, 1.5, 30)], rtol=1e-10))
    True
    """
    z = x + 6
    r = 1 / z
    rest = r * (1 / 12 - r * r * (1 / 360 - r * r / 1260)) + math.log(2 * math.pi) / 2
    return np.asarray((z - 0.5) * np.log(z) - z + rest - np.log(x * (x + 1) * (x + 2) * (x + 3) * (x + 4) * (x + 5)))
