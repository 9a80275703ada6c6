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
