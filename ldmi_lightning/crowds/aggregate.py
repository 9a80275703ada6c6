"""One label for each item from the votes of several people: by majority, or by Dawid and Skene's estimate of each of them."""

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.crowds.votes import NO_VOTE, Votes
from ldmi_lightning.errors import UserError

TIED = 1e-9
"""Classes whose probabilities differ by no more are tied."""


class Aggregate(NamedTuple):
    """What the votes on N items come to.

    Attributes:
        labels: the most probable class of each, shape ``(N,)``, int64.
        posterior: probability of each class, shape ``(N, C)``, float64, rows summing to 1.
        transition: T of each annotator, ``transition[a, k, j] = P(annotator a votes j | true class k)``, shape ``(A, C, C)``;
            ``None`` where it is not estimated.
        ties: items whose label was decided by lot.
    """

    labels: NDArray[np.int64]
    posterior: NDArray[np.float64]
    transition: NDArray[np.float64] | None
    ties: int


def majority_vote(votes: Votes, num_classes: int) -> Aggregate:
    """Take the class with most votes; the posterior is the share of votes.

    Where several classes have most, one of them is taken by lot. The i-th item's lot is the same in each run and whatever the
    other items are, and each of the tied classes is as likely as the others: none gains, as the lowest would.

    Args:
        votes: shape ``(N, A)``, int64, -1 where annotator a gave none.
        num_classes: C.

    Raises:
        UserError: an item has no vote.

    >>> majority_vote(np.array([[0, 1, 1, -1], [2, -1, -1, -1]]), 3).posterior.round(2).tolist()
    [[0.33, 0.67, 0.0], [0.0, 0.0, 1.0]]
    >>> found = majority_vote(np.array([[0, 1]] * 1000), 2)
    >>> found.ties, round(float(found.labels.mean()), 1)
    (1000, 0.5)
    """
    item, annotator = _given(votes)
    flat = np.bincount(item * num_classes + votes[item, annotator], minlength=len(votes) * num_classes)
    counts = flat.reshape(len(votes), num_classes).astype(np.float64)
    posterior = counts / counts.sum(axis=1, keepdims=True)
    labels, ties = decide(posterior)
    return Aggregate(labels, posterior, None, ties)


def dawid_skene(votes: Votes, num_classes: int) -> Aggregate:
    r"""Estimate true classes and each annotator's T together, by expectation maximisation.

    Votes are taken as independent given the true class: :math:`P(k \mid v_i) \propto \pi_k \prod_a T_a[k, v_{ia}]` (Dawid and
    Skene: Maximum likelihood estimation of observer error-rates using the EM algorithm, Applied Statistics 28, 1979). The
    start is the shares of votes; it ends after 100 steps, or when the bound rises by less than 1e-5 a vote. The computation
    is that of the library crowd-kit. Who gave few votes gets a T that fits just these: see
    :mod:`ldmi_lightning.crowds.annotators` for one that is shrunk.

    Args:
        votes: shape ``(N, A)``, int64, -1 where annotator a gave none.
        num_classes: C.

    Returns:
        Labels, posterior and T of each annotator; a row of which no vote tells anything is 1/C throughout.

    Raises:
        UserError: an item has no vote, or crowd-kit is not installed.
    """
    item, annotator = _given(votes)
    try:
        from crowdkit.aggregation import DawidSkene
    except ImportError as error:
        raise UserError("Dawid-Skene needs crowd-kit: pip install 'ldmi-lightning[crowd]'.") from error
    import pandas as pd

    table = pd.DataFrame({"task": item, "worker": annotator, "label": votes[item, annotator]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas' keywords that will go
        fitted: Any = DawidSkene().fit(table)
    items, classes, people = range(len(votes)), range(num_classes), range(votes.shape[1])
    posterior = fitted.probas_.reindex(index=items, columns=classes).fillna(0).to_numpy(np.float64)
    posterior = posterior / posterior.sum(axis=1, keepdims=True)
    every = pd.MultiIndex.from_product([people, classes])  # rows are what is voted
    errors = fitted.errors_.reindex(index=every, columns=classes).fillna(0).to_numpy(np.float64)
    transition = errors.reshape(votes.shape[1], num_classes, num_classes).transpose(0, 2, 1)
    mass = transition.sum(axis=2, keepdims=True)
    transition = np.divide(transition, mass, out=np.full_like(transition, 1 / num_classes), where=mass > 0)
    labels, ties = decide(posterior)
    return Aggregate(labels, posterior, transition, ties)


def decide(posterior: NDArray[np.float64]) -> tuple[NDArray[np.int64], int]:
    """Return the most probable class of each item, of tied ones one by lot, shape ``(N,)``; and how many ties there were."""
    tied = posterior >= posterior.max(axis=1, keepdims=True) - TIED
    among = tied.sum(axis=1)
    lot = (np.random.default_rng(0).random(len(posterior)) * among).astype(np.int64)  # 0 to among - 1
    labels = (tied.cumsum(axis=1) == (lot + 1)[:, None]).argmax(axis=1)
    return labels.astype(np.int64), int((among > 1).sum())


def agreement(votes: Votes) -> float:
    """Return the share of pairs of votes on one item that agree; NaN where no item has two.

    >>> agreement(np.array([[0, 0, 1], [2, -1, -1]]))  # one of three pairs
    0.3333333333333333
    """
    given = (votes != NO_VOTE).sum(axis=1)
    pairs, agreeing = float((given * (given - 1)).sum()), 0.0
    for label in np.unique(votes[votes != NO_VOTE]):
        same = (votes == label).sum(axis=1)
        agreeing += float((same * (same - 1)).sum())
    return agreeing / pairs if pairs else float("nan")


def _given(votes: Votes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns of the votes that there are."""
    given = votes != NO_VOTE
    empty = np.flatnonzero(~given.any(axis=1))
    if len(empty):
        raise UserError(
            f"{len(empty):,} of {len(votes):,} items have no vote, first item {empty[0]}: leave such items out of votes."
        )
    item, annotator = np.nonzero(given)
    return item, annotator
