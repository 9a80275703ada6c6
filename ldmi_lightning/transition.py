"""Noise transition matrices: T[i, j] = P(noisy label = j | clean label = i), known ones and estimates.

Each estimate is float64 and contiguous when it is made: neither a state dict nor a buffer that is loaded keeps strides, and
``probs @ T`` with other strides differs in the last digits. The estimate by likelihood is in
:mod:`ldmi_lightning.likelihood`.
"""

import sys

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ldmi_lightning.errors import UserError
from ldmi_lightning.joint import in_float64, joint_sum

ROW_SUM_TOLERANCE = 1e-6


def check_transition_matrix(matrix: ArrayLike) -> NDArray[np.float64]:
    """Return ``matrix`` as a float64 array, or raise :class:`UserError` if it is no transition matrix.

    Args:
        matrix: shape ``(C, C)``, entries in [0, 1], each row summing to 1 within ``ROW_SUM_TOLERANCE``.

    >>> check_transition_matrix([[1, 0], [0.4, 0.6]]).tolist()
    [[1.0, 0.0], [0.4, 0.6]]
    """
    try:
        transition = np.array(matrix, dtype=np.float64, order="C")
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


def anchor_transition(probs: Tensor) -> Tensor:
    """Estimate T by anchor points: row i is the output for the sample with the highest probability of class i.

    Exact where the outputs are the true ``P(noisy label | x)`` and each class has a sample that certainly belongs to it
    (Patrini et al.: Making deep neural networks robust to label noise, CVPR 2017, theorem 3).

    Args:
        probs: softmax outputs for the training set, shape ``(N, C)``.

    Returns:
        float64, shape ``(C, C)``, each row summing to 1.

    >>> anchor_transition(torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.625, 0.375]])).tolist()
    [[0.75, 0.25], [0.5, 0.5]]
    """
    anchors = in_float64(probs[probs.argmax(dim=0)])
    return anchors / anchors.sum(dim=1, keepdim=True)


def held_out_transition(probs: Tensor, y: Tensor) -> Tensor:
    """Estimate T by the labels that come with each prediction: ``T[k, j] = P(noisy label = j | prediction = k)``.

    It takes the predictions for the true labels, and so needs neither anchor points nor a dominant diagonal, but samples
    that the model was not trained on. A prediction is the most probable class: weighting by the outputs instead would
    mix the rows of classes that the model tells apart, but not with certainty. Only for a class that is never predicted
    do the outputs count. Where classes are not told apart with certainty it is biased, which
    :func:`ldmi_lightning.likelihood.fit_transition` is not.

    Args:
        probs: softmax outputs for held-out samples, shape ``(N, C)``.
        y: their noisy labels, shape ``(N,)``, int64.

    Returns:
        float64, shape ``(C, C)``, rows summing to 1.

    >>> outputs = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    >>> held_out_transition(outputs, torch.tensor([0, 1, 1])).tolist()
    [[0.5, 0.5], [0.0, 1.0]]
    """
    predicted = torch.nn.functional.one_hot(probs.argmax(dim=1), probs.shape[1])
    counts, weighted = joint_sum(predicted, y).T, joint_sum(probs, y).T
    counts = torch.where(counts.sum(dim=1, keepdim=True) > 0, counts, weighted)
    # Outputs of exactly 0 weigh nothing: such a class has the shares of the labels.
    counts = torch.where(counts.sum(dim=1, keepdim=True) > 0, counts, weighted.sum(dim=0))
    return (counts / counts.sum(dim=1, keepdim=True)).contiguous()


def log_joint(log_probs: Tensor, y: Tensor, transition: Tensor) -> Tensor:
    r"""Return :math:`\log(p_k T_{k, y})`, the joint probability of true label k and noisy label y, finite for every T.

    An entry of T that is 0 counts as the smallest normal double.

    Args:
        log_probs: logarithms of the softmax outputs, shape ``(N, C)``.
        y: noisy labels, shape ``(N,)``, int64.
        transition: T, float64, shape ``(C, C)``.

    Returns:
        Shape ``(N, C)``, in the precision of ``log_probs`` and differentiable in it.

    >>> log_joint(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([1]), torch.tensor([[0.5, 0.5], [0.0, 1.0]]).double()).exp()
    tensor([[0.2500, 0.5000]])
    """
    # Logarithms of what is needed alone: of a thousand classes, T has a million entries.
    few = len(y) < len(transition)
    columns = transition.T.index_select(0, y.to(transition.device)) if few else transition.T
    log_columns = columns.clamp(min=sys.float_info.min).log().to(log_probs.dtype).to(log_probs.device)
    return log_probs + (log_columns if few else log_columns.index_select(0, y))


def posterior_sums(log_joints: Tensor, y: Tensor) -> Tensor:
    """Sum the posteriors ``P(true label = k | x, noisy label) ∝ p_k T[k, y]`` of samples, for each k and label.

    Args:
        log_joints: what :func:`log_joint` returns, shape ``(N, C)``.
        y: noisy labels, shape ``(N,)``, int64.

    Returns:
        float64, shape ``(C, C)``: row = true label k, column = noisy label, entries summing to N. It has no gradient.

    >>> posterior_sums(torch.tensor([[0.25, 0.5]]).log(), torch.tensor([1])).tolist()  # 1/3 and 2/3
    [[0.0, 0.33333...], [0.0, 0.66666...]]
    """
    return joint_sum(in_float64(log_joints.detach()).softmax(dim=1), y).T.contiguous()


def renewed_transition(transition: Tensor, sums: Tensor) -> Tensor:
    """Return T with the rows of ``sums``, normalised; a row whose sum is 0 stays as it is.

    With the :func:`posterior_sums` of a data set it is a step of expectation maximisation for T at fixed outputs.

    Args:
        transition: T, float64, shape ``(C, C)``.
        sums: float64, shape ``(C, C)``, not negative.

    >>> renewed_transition(torch.eye(2).double(), torch.tensor([[1.0, 3.0], [0.0, 0.0]]).double()).tolist()
    [[0.25, 0.75], [0.0, 1.0]]
    """
    mass = sums.sum(dim=1, keepdim=True)
    return torch.where(mass > 0, sums / mass, transition).contiguous()


def smoothed_transition(counts: Tensor, prior: float) -> Tensor:
    """Return the mean of T under a symmetric Dirichlet prior, given how often true label k came with noisy label j.

    Args:
        counts: shape ``(C, C)``, row = true label k, column = noisy label j.
        prior: what is added to each count, above 0.

    >>> smoothed_transition(torch.tensor([[2, 0], [0, 0]]), prior=1).tolist()
    [[0.75, 0.25], [0.5, 0.5]]
    """
    added = in_float64(counts) + prior
    return (added / added.sum(dim=1, keepdim=True)).contiguous()


def noisy_probabilities(probs: Tensor, transition: Tensor) -> Tensor:
    """Return ``P(noisy label = j | x) = sum_k p_k T[k, j]``, shape ``(N, C)``, in the precision of ``probs``.

    >>> noisy_probabilities(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.5, 0.5], [0.0, 1.0]]).double())
    tensor([[0.2500, 0.7500]])
    """
    with torch.autocast(probs.device.type, enabled=False):
        # Converted before it is moved: the device may have no float64.
        return probs @ transition.to(probs.dtype).to(probs.device)
