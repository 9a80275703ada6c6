r"""What each annotator's votes are worth: how many are right, and whether they say anything of the class at all.

**Right ones.** The share of his votes that are right is the mean :math:`\alpha` of the posteriors :math:`\rho_i` of the class he
named. What is not known of the classes counts as if he had given fewer votes, :math:`\sum_i (\rho_i - \alpha)^2 / (\alpha (1 -
\alpha))`, which is all of them where the posteriors are sure: it is the information on a share that scales his rows. The interval
is Wilson's, of so many.

**Spammers.** An annotator is a spammer if what he votes has nothing to do with the class, be it at random or always the same.
With :math:`r_i`, what everybody else (and the net) says of the class of his i-th item, and :math:`e_i`, his vote as a row of 0
and 1,

.. math:: X = (M - 1)\, \mathrm{tr}(S_{rr}^{-1} S_{re} S_{ee}^{-1} S_{er}),

the sum of squared canonical correlations (Pillai's trace). With his M votes shuffled among his items, the mean of X is
:math:`\mathrm{rank}(S_{rr})\,\mathrm{rank}(S_{ee})` exactly, however few they are, and X is close to chi-squared. He is named
if X does not exceed what chance reaches with the probability :data:`LEVEL`, shared by all annotators (Bonferroni), and the common
T in his place would have exceeded it with the probability :data:`POWER`. Where it would not, he has too few votes to be judged.

A permuted vote says as much as a right one. Who passes the test and names, for most items, another class than the true one
more often than any, is no spammer but *contrary*: his T makes use of his votes, and a majority does not.

The score beside it is that of Raykar and Yu (JMLR 2012): 0 where all rows of T are alike, 1 for the identity or a permutation.
"""

from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.crowds.annotators import Annotators, Votes, cast_votes, without_own
from ldmi_lightning.crowds.shrinkage import Floats

LEVEL = 0.01
"""With this probability somebody is held for informative, among any number of spammers."""
POWER = 0.95

Kind = Literal["informative", "contrary", "spammer", "too few votes"]

_NORMAL = NormalDist()
_WITHIN = _NORMAL.inv_cdf(0.975)
_RANK = 1e-6
"""A direction has no spread if its share of it is below this."""


class Reliability(NamedTuple):
    """What one annotator's votes are worth.

    Attributes:
        votes: how many he gave.
        accuracy: share of them that is right, with its 95 % interval: value, low, high; NaN without votes.
        score: 0 where his T tells nothing of the class, 1 where it tells all.
        p_value: how often chance alone would tie his votes to the class as much.
        kind: what he is.
    """

    votes: int
    accuracy: tuple[float, float, float]
    score: float
    p_value: float
    kind: Kind


def reliabilities(found: Annotators, votes: Votes) -> list[Reliability]:
    """Judge each annotator.

    Args:
        found: the estimate.
        votes: what it was made from, shape ``(N, A)``.

    >>> from ldmi_lightning.crowds.annotators import estimate_annotators
    >>> y = np.arange(300) % 3
    >>> votes = np.stack([y, (y + 1) % 3, np.ones_like(y), np.where(y < 0, y, -1)], axis=1)
    >>> votes[0, 3] = 0  # who has given one vote
    >>> [each.kind for each in reliabilities(estimate_annotators(np.eye(3)[y], votes), votes)]
    ['informative', 'contrary', 'spammer', 'too few votes']
    """
    cast = cast_votes(votes)
    others = without_own(found, cast)
    shares = found.posterior.mean(axis=0)
    number = max(int((votes >= 0).any(axis=0).sum()), 1)
    judged = []
    for annotator, transition in enumerate(found.transitions):
        own = cast.annotator == annotator
        labels, said = cast.label[own], others[own]
        right = found.posterior[cast.item[own], labels]
        tied, degrees = association(said, np.eye(len(transition))[labels])
        expected, free = association(said, said @ found.common, spread_of_votes=True)
        p_value = upper_tail(tied, degrees)
        bound = critical(LEVEL / number, free)
        if p_value <= LEVEL / number:
            other = shares[transition.argmax(axis=1) != np.arange(len(transition))].sum() > 0.5
            kind: Kind = "contrary" if other else "informative"
        else:
            kind = "spammer" if free and upper_tail(bound, free, expected) >= POWER else "too few votes"
        judged.append(Reliability(int(own.sum()), share_right(right), spammer_score(transition), p_value, kind))
    return judged


def share_right(right: Floats) -> tuple[float, float, float]:
    """Return the share of votes that are right, with its 95 % interval.

    Args:
        right: the posterior probability of each that it is right, shape ``(M,)``.

    Where all is known it is Wilson's interval of a share:

    >>> [round(each, 3) for each in share_right(np.array([1.0] * 8 + [0.0] * 2))]
    [0.8, 0.49, 0.943]
    >>> [round(each, 3) for each in share_right(np.full(10, 0.8))]  # nothing is known but this
    [0.8, 0.0, 1.0]
    """
    if not len(right):
        return float("nan"), float("nan"), float("nan")
    value = float(right.mean())
    spread = value * (1 - value)
    # Of votes that are all right with certainty each is one.
    known = float(((right - value) ** 2).sum()) / spread if spread > 1e-12 else float(len(right))
    if known < 1e-9:
        return value, 0.0, 1.0
    z = _WITHIN**2 / known
    middle = (value + z / 2) / (1 + z)
    half = _WITHIN / (1 + z) * np.sqrt(spread / known + z / (4 * known))
    return value, float(max(middle - half, 0.0)), float(min(middle + half, 1.0))


def spammer_score(transition: Floats) -> float:
    r"""Return :math:`\frac{1}{C (C - 1)} \sum_{k < l} \lVert T_k - T_l \rVert^2`, of the rows of T.

    >>> spammer_score(np.eye(3)), spammer_score(np.eye(3)[[1, 2, 0]]), spammer_score(np.full((3, 3), 1 / 3))
    (1.0, 1.0, 0.0)
    """
    # The sum over pairs is C times the sum of squared distances to the mean row.
    distances = (transition - transition.mean(axis=0)) ** 2
    return float(distances.sum() / (len(transition) - 1))


def association(said: Floats, voted: Floats, spread_of_votes: bool = False) -> tuple[float, int]:
    """Return how much votes depend on what others say of the class, and the mean that it has by chance.

    Args:
        said: probabilities of the classes, shape ``(M, C)``.
        voted: the votes as rows of 0 and 1, or their probabilities, shape ``(M, C)``.
        spread_of_votes: whether ``voted`` are probabilities of votes; what is expected BEYOND chance is returned then.

    >>> association(np.eye(2)[[0, 1] * 4], np.eye(2)[[0, 1] * 4]), association(np.eye(2)[[0, 1] * 4], np.eye(2)[[0] * 8])
    ((7.0, 1), (0.0, 0))
    """
    if len(said) < 2:
        return 0.0, 0
    r, e = said - said.mean(axis=0), voted - voted.mean(axis=0)
    shares = voted.mean(axis=0)
    # Votes are 0 or 1, with what spread those have, also where only their probabilities are known.
    of_votes = np.diag(shares) - np.outer(shares, shares) if spread_of_votes else e.T @ e / len(e)
    inverse_r, rank_r = _inverse(r.T @ r / len(r))
    inverse_e, rank_e = _inverse(of_votes)
    both = r.T @ e / len(e)
    trace = float(np.trace(inverse_r @ both @ inverse_e @ both.T))
    return round((len(said) - 1) * trace, 9), rank_r * rank_e


def _inverse(covariance: Floats) -> tuple[Floats, int]:
    values, vectors = np.linalg.eigh(covariance)
    some = values > max(_RANK * values.sum(), 1e-12)
    return (vectors[:, some] / values[some]) @ vectors[:, some].T, int(some.sum())


def upper_tail(value: float, degrees: int, beyond: float = 0.0) -> float:
    """Return how often a chi-squared number exceeds a value, by the cube root of Wilson and Hilferty; 1 without freedom.

    Args:
        value: at least 0.
        degrees: of freedom.
        beyond: noncentrality, as a chi-squared number of the same mean and variance (Patnaik).

    >>> round(upper_tail(18.31, 10), 3), round(upper_tail(103.0, 81), 3), upper_tail(3.0, 0)
    (0.05, 0.05, 1.0)
    """
    if not degrees:
        return 1.0
    mean, half = degrees + beyond, degrees + 2 * beyond
    scale, freedom = half / mean, mean**2 / half
    root = (value / (scale * freedom)) ** (1 / 3)
    return _NORMAL.cdf((1 - 2 / (9 * freedom) - root) / (2 / (9 * freedom)) ** 0.5)


def critical(level: float, degrees: int) -> float:
    """Return what a chi-squared number exceeds with a probability; 0 without freedom.

    >>> round(critical(0.05, 10), 1)
    18.3
    """
    if not degrees:
        return 0.0
    root = 1 - 2 / (9 * degrees) - _NORMAL.inv_cdf(level) * (2 / (9 * degrees)) ** 0.5
    return float(degrees * root**3)


def spammers(judged: list[Reliability]) -> NDArray[np.intp]:
    """Return the positions of the spammers."""
    return np.flatnonzero([each.kind == "spammer" for each in judged])
