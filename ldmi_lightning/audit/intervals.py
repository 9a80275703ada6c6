r"""How sure the figures are: T over bootstrap samples, the temperature, and the luck of the labels at hand.

Asked is for the number of wrong labels IN THESE DATA, not for the rate of the process that made them. Given inputs and labels
it is a sum of independent coins, each of which shows "wrong" with the posterior's probability. So its variance has two parts,

.. math:: \sum_i r_i (1 - r_i) + \mathrm{Var}_{\hat T, \hat t}\Big[\sum_i r_i(\hat T, \hat t)\Big],
          \qquad r_i = P(\text{given is right}),

the coins' own, and what not knowing T and the temperature t adds, with these data held fast. T varies as over bootstrap samples,
t as the likelihood's curvature says.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.likelihood import expected_counts, log_likelihood, maximise, tempered

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

REPLICATES = 60
"""So many bootstrap samples; a deviation is known to a tenth by them."""

STEPS = 5
"""Steps of expectation maximisation for each, from the T that all samples gave."""

WITHIN = 1.959964
"""95 % of a normal distribution lie within so many deviations."""

VALUES = 500_000
"""At most so many outputs are sampled again. Of more samples a part is taken, and deviations shrink with its square root."""

MIN_ROWS = 5_000
"""That part has at least so many samples."""

WARMER = 1.25
"""Temperatures so many times higher and lower show the likelihood's curvature; the grid's lie half as far again apart."""

WARM_STEPS = 10
"""Steps of expectation maximisation at each of them."""


class Estimate(NamedTuple):
    """A figure, or an array of them, with the 95 % interval of each.

    Attributes:
        value: a float, or an array.
        low: the interval's lower end, of the same shape.
        high: its upper end.
    """

    value: Any
    low: Any
    high: Any


class Temperature(NamedTuple):
    """The most likely temperature between those of a grid.

    Attributes:
        value: t.
        deviation: standard deviation of log t; 0 where the likelihood says nothing of it.
    """

    value: float
    deviation: float


class Deviations(NamedTuple):
    """Standard deviations by what T and t are not known, the data held fast.

    Attributes:
        transition: of T, shape ``(C, C)``.
        classes: of the number of samples of each true class, shape ``(C,)``.
        right: of the number of right labels among those given as each class, shape ``(C,)``.
        all_right: of the number of right labels.
    """

    transition: Floats
    classes: Floats
    right: Floats
    all_right: float


class Spread:
    """Running sums for standard deviations of numbers and arrays, of which none is kept.

    >>> spread = Spread()
    >>> for change in (-1.0, 0.0, 1.0):
    ...     spread.add([change, np.array([2 * change, 0.0])])
    >>> [each.tolist() for each in spread.deviations()]
    [1.0, [2.0, 0.0]]
    """

    def __init__(self) -> None:
        self.many = 0
        self.sums: list[Any] = []
        self.squares: list[Any] = []

    def add(self, changes: Sequence[Any]) -> None:
        """Add one value of each, best as its distance from a middle, since squares are summed."""
        if not self.many:
            self.sums, self.squares = [0.0] * len(changes), [0.0] * len(changes)
        self.many += 1
        self.sums = [total + change for total, change in zip(self.sums, changes, strict=True)]
        self.squares = [total + change**2 for total, change in zip(self.squares, changes, strict=True)]

    def deviations(self) -> list[Any]:
        """Return the standard deviation of each, by what was added twice at least."""
        return [
            np.sqrt(np.maximum(square - total**2 / self.many, 0) / (self.many - 1))
            for total, square in zip(self.sums, self.squares, strict=True)
        ]


def normal_interval(value: Any, deviation: Any, low: float = 0.0, high: Any = 1.0) -> Estimate:
    """Return the value with its 95 % interval, cut at what is possible.

    >>> [round(each, 3) for each in normal_interval(0.5, 0.1)]
    [0.5, 0.304, 0.696]
    >>> normal_interval(0.9, 0.1).high
    1.0
    """
    ends = np.clip(value - WITHIN * deviation, low, high), np.clip(value + WITHIN * deviation, low, high)
    return Estimate(value, *(ends if np.ndim(value) else map(float, ends)))


def sampled_rows(num_samples: int, num_classes: int, random: np.random.RandomState) -> NDArray[np.intp]:
    """Return the samples to draw from again, all of them unless there are too many.

    >>> len(sampled_rows(100, 10, np.random.RandomState(0))), len(sampled_rows(10**5, 10, np.random.RandomState(0)))
    (100, 50000)
    """
    enough = max(MIN_ROWS, VALUES // num_classes)
    return np.arange(num_samples) if num_samples <= enough else np.sort(random.permutation(num_samples)[:enough])


def warmer(
    probs: NDArray[np.floating], y: Labels, transition: Floats, temperature: float
) -> list[tuple[Floats, Floats]]:
    """Return q and the most likely T at a lower, at this and at a higher temperature, each T from the one that is given.

    Args:
        probs: outputs, shape ``(N, C)``.
        y: given labels, shape ``(N,)``.
        transition: T to start from, shape ``(C, C)``.
        temperature: t.
    """
    found = []
    for other in (temperature / WARMER, temperature, temperature * WARMER):
        q = tempered(probs, other)
        found.append((q, maximise(q, y, start=transition, steps=WARM_STEPS)))
    return found


def refined_temperature(
    probs: NDArray[np.floating], y: Labels, transition: Floats, temperature: float, num_samples: int
) -> Temperature:
    """Return the temperature between those of a grid: the top of a parabola through three likelihoods, over log t.

    Args:
        probs: outputs of some samples, shape ``(M, C)``.
        y: their given labels, shape ``(M,)``.
        transition: the most likely T at the grid's best temperature, shape ``(C, C)``.
        temperature: the grid's best.
        num_samples: N, of all samples.

    Outputs that are certain say nothing of it:

    >>> refined_temperature(np.eye(2), np.array([0, 1]), np.eye(2), 1.0, 2)
    Temperature(value=1.0, deviation=0.0)
    """
    low, middle, high = (log_likelihood(q, y, t) for q, t in warmer(probs, y, transition, temperature))
    step = np.log(WARMER)
    curvature = (low - 2 * middle + high) / step**2
    if -curvature * step**2 <= 1e-6 * (1 + abs(middle)):
        return Temperature(temperature, 0.0)
    top = float(np.clip((high - low) / (2 * step) / -curvature, -step, step))
    deviation = float(np.sqrt(len(y) / num_samples / -curvature))
    return Temperature(temperature * float(np.exp(top)), min(deviation, float(step)))


def transitions(q: Floats, y: Labels, transition: Floats, random: np.random.RandomState) -> Iterator[Floats]:
    """Give T of each bootstrap sample: each sample counts as often as a Poisson draw of mean 1 says.

    Args:
        q: P(true = k | x), shape ``(N, C)``.
        y: given labels, shape ``(N,)``.
        transition: T that all gave, shape ``(C, C)``.
        random: draws.
    """
    for _ in range(REPLICATES):
        weights = random.poisson(1.0, size=len(y)).astype(np.float64)
        yield maximise(q, y, start=transition, steps=STEPS, weights=weights)


def deviations(
    probs: NDArray[np.floating],
    y: Labels,
    transition: Floats,
    temperature: Temperature,
    num_samples: int,
    random: np.random.RandomState,
) -> Deviations:
    """Return how far the figures of ``num_samples`` samples vary with T and t, sampled again from some of them.

    Args:
        probs: outputs of those that are sampled again, shape ``(M, C)``.
        y: their given labels, shape ``(M,)``.
        transition: T that all samples gave, shape ``(C, C)``.
        temperature: t.
        num_samples: N, at least M.
        random: draws.
    """
    q = tempered(probs, temperature.value)
    spread = Spread()
    middle = _figures(q, y, transition)
    for drawn in transitions(q, y, transition, random):
        spread.add([one - other for one, other in zip(_figures(q, y, drawn), middle, strict=True)])
    of_t = spread.deviations()
    low, _, high = (_figures(q, y, t) for q, t in warmer(probs, y, transition, temperature.value))
    slopes = [(one - other) / (2 * np.log(WARMER)) for one, other in zip(high, low, strict=True)]
    # Of a part of M samples T varies by sqrt(N / M) more than of all, t's deviation is that of all already, and numbers of
    # samples are N / M times the part's.
    share = len(y) / num_samples
    matrix, classes, right, all_right = (
        np.sqrt(one**2 * share + (slope * temperature.deviation) ** 2) for one, slope in zip(of_t, slopes, strict=True)
    )
    return Deviations(matrix, classes / share, right / share, float(all_right / share))


def _figures(q: Floats, y: Labels, transition: Floats) -> list[Any]:
    counts = expected_counts(q, y, transition)
    right = counts.diagonal()
    return [transition, counts.sum(axis=1), right, right.sum()]
