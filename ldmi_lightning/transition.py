"""Noise transition matrices: T[i, j] = P(noisy label = j | clean label = i)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ldmi_lightning.errors import UserError

ROW_SUM_TOLERANCE = 1e-6


def check_transition_matrix(matrix: ArrayLike) -> NDArray[np.float64]:
    """Return ``matrix`` as a float64 array, or raise :class:`UserError` if it is no transition matrix.

    Args:
        matrix: shape ``(C, C)``, entries in [0, 1], each row summing to 1 within ``ROW_SUM_TOLERANCE``.

    >>> check_transition_matrix([[1, 0], [0.4, 0.6]]).tolist()
    [[1.0, 0.0], [0.4, 0.6]]
    """
    try:
        transition = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"A transition matrix must be C rows of C numbers, but got {matrix!r}.") from error
    if transition.ndim != 2 or transition.shape[0] != transition.shape[1]:
        raise UserError(f"A transition matrix must have shape (C, C), but got shape {transition.shape}.")
    if not np.all((transition >= 0) & (transition <= 1)):
        raise UserError(f"The entries of a transition matrix must lie in [0, 1], but got {transition.tolist()}.")
    sums = transition.sum(axis=1)
    wrong = np.flatnonzero(np.abs(sums - 1) > ROW_SUM_TOLERANCE)
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"Each row of a transition matrix must sum to 1, but row {row}, {transition[row].tolist()}, "
            f"sums to {sums[row]:.6g}. Row i holds P(noisy label | clean label i)."
        )
    return transition


def realised_matrix(clean: NDArray[np.int64], noisy: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Return the share of class i's samples that carry label j, shape ``(C, C)``; NaN rows for classes without samples.

    >>> realised_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[0.5, 0.5], [0.0, 1.0]]
    """
    counts = np.bincount(clean * num_classes + noisy, minlength=num_classes**2).reshape(num_classes, num_classes)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.full(counts.shape, np.nan)
    np.divide(counts, totals, out=shares, where=totals > 0)
    return shares


def flip_rates(transition: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each class's rate of wrong labels, ``1 - T[i, i]``, shape ``(C,)``.

    >>> flip_rates(np.array([[1.0, 0.0], [0.25, 0.75]])).tolist()
    [0.0, 0.25]
    """
    return np.asarray(1 - transition.diagonal())


def dominated_classes(transition: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the classes i that break diagonal dominance: ``T[i, i] > T[i, j]`` for all j other than i (Xu et al., 2019).

    >>> dominated_classes(np.array([[0.4, 0.3, 0.3], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])).tolist()
    [1]
    """
    others = transition.copy()
    np.fill_diagonal(others, -np.inf)
    return np.flatnonzero(transition.diagonal() <= others.max(axis=1))


def condition_number(transition: NDArray[np.float64]) -> float:
    """Return the largest singular value over the smallest; infinite where T is singular to working precision.

    >>> condition_number(np.eye(3)), condition_number(np.full((2, 2), 0.5))
    (1.0, inf)
    """
    largest, *_, smallest = np.linalg.svd(transition, compute_uv=False)
    return float(largest / smallest) if smallest > largest * len(transition) * np.finfo(np.float64).eps else np.inf


def samples_to_tell_from_singular(transition: NDArray[np.float64], shares: NDArray[np.float64]) -> float:
    r"""Return how many labelled samples show that det T is not 0: its smallest singular value is three standard errors.

    Counted in N samples, row i of T has the covariance :math:`(\operatorname{diag}(t_i) - t_i t_i^\top) / (N \pi_i)`. With
    the singular vectors u, v of the smallest singular value :math:`\sigma`, to first order

    .. math:: \operatorname{var}(\hat\sigma) = \frac1N \sum_i \frac{u_i^2}{\pi_i} \operatorname{var}_{j \sim t_i}(v_j).

    It is what the best classifier needs; one that is still learning needs more.

    Args:
        transition: T, shape ``(C, C)``.
        shares: share of each true class :math:`\pi`, shape ``(C,)``, all positive.

    Returns:
        N; infinite where T is singular. For :math:`T = [[.6, .4], [.4, .6]]` and equal shares
        :math:`\sigma = .2`, each variance is .48, and :math:`N = 9 \cdot .96 / .2^2 = 216`:

    >>> round(samples_to_tell_from_singular(np.array([[0.6, 0.4], [0.4, 0.6]]), np.array([0.5, 0.5])), 9)
    216.0
    """
    if np.isinf(condition_number(transition)):
        return np.inf
    left, values, right = np.linalg.svd(transition)
    u, v = left[:, -1], right[-1]
    spread = transition @ v**2 - (transition @ v) ** 2
    return float(9 * (u**2 / shares * spread).sum() / values[-1] ** 2)
