r"""T of each annotator by likelihood, from all votes at once, with a net's outputs or without.

The votes on an item are independent of each other once its true class is known, so that those of N items have the likelihood

.. math:: \sum_i \log \sum_k q_{ik} \prod_a T_a[k, v_{ia}],

over the annotators a that voted on item i. It is maximised by expectation maximisation: an item's posterior is proportional to
:math:`q_{ik} \prod_a T_a[k, v_{ia}]`, and T of each annotator is what the posteriors count, drawn towards what all have in common
(:mod:`ldmi_lightning.crowds.shrinkage`). q are a net's outputs, made softer or sharper by a temperature that the same likelihood
chooses, or, where there are none, the shares of the classes: that is the estimate of Dawid and Skene (Applied Statistics, 1979),
with shrinkage.

Outputs must be of items that the net has not been trained on. Those of a net trained with cross-entropy are probabilities of
the labels that it was given; as long as most items have two votes or more, their disagreement tells T all the same.

NumPy only, in float64.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.crowds.shrinkage import Floats, fit_priors, shrunk
from ldmi_lightning.errors import UserError
from ldmi_lightning.likelihood import tempered

Votes = NDArray[np.int64]

TEMPERATURES = (0.35, 0.5, 0.7, 1.0, 1.5, 2.5, 4.0, 7.0)
"""Below 1 too: outputs of a net that has learnt wrong labels are less sure of the true class than they might be."""
TEMPERATURE_ROWS = 5_000
"""At most so many items choose the temperature."""
TEMPERATURE_STEPS = 16
STEPS = 50
"""Steps of expectation maximisation."""
REFITS = (3, 8, 15, 25, 40)
"""Steps before which the priors are fitted anew."""

_SMALLEST = float(np.finfo(np.float64).tiny)


class Annotators(NamedTuple):
    """What the votes of A annotators on N items of C classes tell.

    Attributes:
        transitions: T of each annotator, ``transitions[a, k, j] = P(a votes j | true class k)``, float64, shape ``(A, C, C)``.
        posterior: probability of each item's classes given its votes, and outputs, shape ``(N, C)``.
        common: T of those who look, shape ``(C, C)``.
        looks: how probable it is for each annotator that his votes depend on the class, shape ``(A,)``.
        temperature: of the outputs; ``None`` where there are none.
        log_likelihood: of all votes.
    """

    transitions: Floats
    posterior: Floats
    common: Floats
    looks: Floats
    temperature: float | None
    log_likelihood: float


def no_outputs(num_items: int, num_classes: int) -> Floats:
    """Return what stands for the outputs of items of which only the votes are known: NaN, shape ``(N, C)``."""
    return np.full((num_items, num_classes), np.nan)


def estimate_annotators(
    probs: NDArray[np.floating],
    votes: Votes,
    *,
    temperatures: Sequence[float] = TEMPERATURES,
    steps: int = STEPS,
) -> Annotators:
    """Estimate T of each annotator.

    Args:
        probs: outputs for items that the net was not trained on, shape ``(N, C)``; rows of NaN for items without, of which
            :func:`no_outputs` makes some.
        votes: shape ``(N, A)``, int64, -1 where annotator a gave none.
        temperatures: what is tried; of equally likely ones the first is taken.
        steps: of expectation maximisation.

    Raises:
        UserError: the shapes do not fit, a vote is for no class, or there is none.

    Of 90 items whose class is known, the first annotator has all right; the second says 1 whatever it is:

    >>> y = np.arange(90) % 3
    >>> found = estimate_annotators(np.eye(3)[y], np.stack([y, np.ones_like(y)], axis=1))
    >>> found.transitions.round(1).tolist()
    [[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]]
    """
    _check(probs, votes)
    known = np.isfinite(probs).all(axis=1)
    temperature = None
    q = np.array(probs, dtype=np.float64)
    if known.any():
        rows = np.flatnonzero(known & (votes >= 0).any(axis=1))
        if len(rows) > TEMPERATURE_ROWS:
            rows = np.sort(np.random.RandomState(0).permutation(rows)[:TEMPERATURE_ROWS])
        temperature = _temperature(probs[rows], votes[rows], temperatures) if len(rows) else 1.0
        q[known] = tempered(probs[known], temperature)
    return _maximise(q, votes, steps)._replace(temperature=temperature)


class Cast(NamedTuple):
    """The M votes that were given, item by item.

    Attributes:
        item: on which item, shape ``(M,)``, ascending.
        annotator: whose, shape ``(M,)``.
        label: for which class, shape ``(M,)``.
    """

    item: NDArray[np.intp]
    annotator: NDArray[np.intp]
    label: Votes


def cast_votes(votes: Votes) -> Cast:
    """Return the votes that were given.

    >>> [each.tolist() for each in cast_votes(np.array([[-1, 2], [0, 1]]))]
    [[0, 1, 1], [1, 0, 1], [2, 0, 1]]
    """
    item, annotator = np.nonzero(votes >= 0)
    return Cast(item, annotator, votes[item, annotator])


def without_own(found: Annotators, votes: Cast) -> Floats:
    """Return what all but the annotator himself say of the class of the item he votes on, shape ``(M, C)``.

    >>> q, votes = np.array([[0.5, 0.5]]), np.array([[0, 1]])
    >>> of_two = np.array([[[0.8, 0.2], [0.2, 0.8]], [[0.6, 0.4], [0.1, 0.9]]])
    >>> posterior = np.array([[0.8 * 0.4, 0.2 * 0.9]]) / 0.5
    >>> others = without_own(Annotators(of_two, posterior, of_two[0], np.ones(2), None, 0.0), cast_votes(votes))
    >>> others.round(3).tolist()  # the second's vote says 4 : 9, the first's 8 : 2
    [[0.308, 0.692], [0.8, 0.2]]
    """
    own = np.maximum(found.transitions[votes.annotator, :, votes.label], _SMALLEST)
    others = np.maximum(found.posterior[votes.item], _SMALLEST) / own
    normalised: Floats = others / others.sum(axis=1, keepdims=True)
    return normalised


def _temperature(probs: NDArray[np.floating], votes: Votes, temperatures: Sequence[float]) -> float:
    tried = [_maximise(tempered(probs, each), votes, TEMPERATURE_STEPS).log_likelihood for each in temperatures]
    # Where two are equal but for rounding, the order of the items shall not decide.
    enough = max(tried) - 1e-9 * (1 + abs(max(tried)))
    return next(each for each, value in zip(temperatures, tried, strict=True) if value >= enough)


def _maximise(q: Floats, votes: Votes, steps: int) -> Annotators:
    """Return the estimate at fixed outputs, NaN where there are none."""
    cast, num_classes = cast_votes(votes), q.shape[1]
    cells = cast.annotator * num_classes + cast.label
    order = np.argsort(cells, kind="stable")
    filled, starts = np.unique(cells[order], return_index=True)
    items, firsts = np.unique(cast.item, return_index=True)
    unknown = np.asarray(np.isnan(q).any(axis=1))
    voted = unknown & (votes >= 0).any(axis=1)

    def counted(posterior: Floats) -> Floats:
        counts = np.zeros((votes.shape[1] * num_classes, num_classes))
        counts[filled] = np.add.reduceat(posterior[cast.item[order]], starts)
        return np.ascontiguousarray(counts.reshape(-1, num_classes, num_classes).transpose(0, 2, 1))

    # Without outputs, the shares of an item's votes are a first guess; each class has a little, or it would never get more.
    shares = np.full(q.shape, 0.01 / num_classes)
    np.add.at(shares, (cast.item, cast.label), 1.0)
    posterior = np.where(unknown[:, None], shares / shares.sum(axis=1, keepdims=True), q)
    log_q = np.log(np.maximum(np.where(unknown[:, None], 1.0, q), _SMALLEST))
    counts = counted(posterior)
    priors, total = fit_priors(counts), 0.0
    for step in range(steps):
        if step in REFITS:
            priors = fit_priors(counts, priors.looks)
        transitions = shrunk(counts, priors)
        logs = np.log(np.maximum(transitions, _SMALLEST)).transpose(0, 2, 1)[cast.annotator, cast.label]
        if voted.any():
            log_q[unknown] = np.log(np.maximum(posterior[voted].mean(axis=0), _SMALLEST))
        log_joint = log_q.copy()
        log_joint[items] += np.add.reduceat(logs, firsts)
        most = log_joint.max(axis=1, keepdims=True)
        posterior = np.asarray(np.exp(log_joint - most))
        mass = posterior.sum(axis=1, keepdims=True)
        posterior /= mass
        counts, total = counted(posterior), float((np.log(mass) + most)[items].sum())
    return Annotators(transitions, posterior, priors.common, priors.looks, None, total)


def _check(probs: NDArray[np.floating], votes: Votes) -> None:
    if probs.ndim != 2 or votes.ndim != 2 or len(probs) != len(votes):
        raise UserError(
            f"estimate_annotators needs outputs of shape (N, C) and votes of shape (N, A), but got {probs.shape} and "
            f"{votes.shape}. Give each item a row of both."
        )
    if not (votes >= 0).any():
        raise UserError("estimate_annotators needs votes, but all are -1, which is none. Give it items that have some.")
    if votes.max() >= probs.shape[1]:
        raise UserError(
            f"estimate_annotators: votes must lie in 0..{probs.shape[1] - 1}, but go up to {votes.max()}. Give it one column of "
            "outputs for each class."
        )
    nothing = np.isnan(probs).all(axis=1)
    wrong = np.flatnonzero(~nothing & ~(np.isfinite(probs) & (probs >= 0)).all(axis=1))
    if len(wrong):
        raise UserError(
            f"estimate_annotators: outputs must be probabilities, but row {wrong[0]} is {probs[wrong[0]].tolist()}. Give it "
            "softmax outputs, or rows of NaN where there are none."
        )
