r"""The joint distribution matrix U of noisy labels and predictions, and what DMI makes of it.

With softmax outputs :math:`p_i` and noisy labels :math:`\tilde y_i`,

.. math:: U = \frac{1}{N} \sum_i \mathrm{onehot}(\tilde y_i)\, p_i^\top, \qquad
          \mathcal{L}_\mathrm{DMI} = -\log |\det U|

(Xu, Cao, Kong, Wang: L_DMI, NeurIPS 2019, section 4). Rows are noisy labels, columns are predictions. All of it is
float64: the determinant of a hundred classes is far below what float32 can hold. A device without float64 leaves it to the
CPU (:func:`in_float64`).
"""

import math
import sys
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ldmi_lightning.ranks import sum_over_ranks

SINGULAR_RCOND = 1e-8
"""Below this reciprocal condition number (1-norm) the sign of det U is a rounding error, not a direction.

It lies below what outputs in float32 can resolve. Constant outputs, whose U has rank one, reach 1e-14, and 4e-9 where a
memory of float32 outputs is mixed with a batch; a class with one sample in a million stands at 2e-6, and a hundred
classes learnt from batches of 64 with a memory at 1e-2. Of a thousand classes, outputs that differ by rounding alone reach
3e-14, a class with one sample in a million stands at 6e-5, and batches of 64 with a memory of 0.9 at 5e-3.
"""

EXACT_CLASSES = 256
"""Up to so many classes the test for singularity is made with all of U's inverse, above it with an estimate of its norm.

On 7,812 matrices of 20, 300 and 1,000 classes (learnt, mixed and constant outputs, missing, rare and doubled classes, made to
hide from the estimate's starts) the estimate was at least 0.48 of the norm, and always decided as the norm does.
It goes by the classes alone: ranks may hold different numbers of samples, but must decide alike.
"""


@cache
def _has_float64(device_type: str) -> bool:
    # Asked of the device itself: Apple's MPS says no with a TypeError, also where nothing is computed.
    try:
        torch.zeros((), dtype=torch.float64, device=device_type)
    except TypeError:
        return False
    return True


def float64_device(device: torch.device) -> torch.device:
    """Return where float64 belongs that goes with tensors on ``device``: there, or on the CPU if the device has none.

    >>> float64_device(torch.device("cpu"))
    device(type='cpu')
    """
    return device if device.type in ("cpu", "cuda") or _has_float64(device.type) else torch.device("cpu")


def in_float64(tensor: Tensor) -> Tensor:
    """Return a tensor in float64, on its own device where that has it, else on the CPU. Differentiable.

    >>> in_float64(torch.tensor([0.5])).dtype
    torch.float64
    """
    # Moved before it is converted: the device could not.
    return tensor.to(float64_device(tensor.device)).to(torch.float64)


def back_on(tensor: Tensor, device: torch.device) -> Tensor:
    """Return what was computed :func:`in_float64` on ``device``, in float64 where the device has it, else in float32.

    >>> back_on(torch.tensor([0.5]).double(), torch.device("cpu")).dtype
    torch.float64
    """
    if tensor.dtype == torch.float64 and float64_device(device) != device:
        tensor = tensor.to(torch.float32)
    return tensor.to(device)


def joint_sum(probs: Tensor, y: Tensor) -> Tensor:
    """Return ``sum_i onehot(y_i) p_i^T``, which is N times the batch's joint distribution matrix.

    Args:
        probs: softmax outputs, shape ``(N, C)``.
        y: noisy labels in ``0..C-1``, shape ``(N,)``.

    Returns:
        float64, shape ``(C, C)``; row = noisy label, column = prediction. Differentiable in ``probs``. It is where float64
        is: on the device of ``probs``, or on the CPU.

    >>> joint_sum(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 0])).tolist()
    [[1.25, 0.75], [0.0, 0.0]]
    """
    probs = in_float64(probs)
    zeros = torch.zeros(probs.shape[1], probs.shape[1], dtype=torch.float64, device=probs.device)
    return zeros.index_add_(0, y.to(probs.device), probs)


def joint_matrix(probs: Tensor, y: Tensor) -> Tensor:
    """Return the joint distribution matrix U of the GLOBAL batch, float64, shape ``(C, C)``, entries summing to 1.

    Args:
        probs: this rank's softmax outputs, shape ``(N, C)``.
        y: this rank's noisy labels in ``0..C-1``, shape ``(N,)``. Ranks may hold different numbers of samples.

    >>> joint_matrix(torch.eye(2), torch.tensor([0, 1])).tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    total = sum_over_ranks(joint_sum(probs, y))
    # Each sample's probabilities sum to 1, so the entries sum to the number of samples on all ranks.
    return total / total.detach().sum()


class Factors(NamedTuple):
    """U as a product of triangles: one factorisation serves its determinant, its inverse and the test for singularity.

    Attributes:
        triangles: both in one matrix, float64, shape ``(C, C)``.
        exchanges: of rows, int32, shape ``(C,)``.
        failed: whether a pivot was exactly 0, a bool scalar.
        inverse: U^-1, shape ``(C, C)``; ``None`` above ``EXACT_CLASSES``.
    """

    triangles: Tensor
    exchanges: Tensor
    failed: Tensor
    inverse: Tensor | None


def factorise(joint: Tensor) -> Factors:
    """Factorise U, shape ``(C, C)``, float64. A U that has no inverse gives infinities or NaN, no error and no host sync.

    >>> factorise(torch.tensor([[0.5, 0.0], [0.0, 0.25]]).double()).inverse.tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """
    triangles, exchanges, info = torch.linalg.lu_factor_ex(joint)
    found = Factors(triangles, exchanges, info != 0, None)
    return found._replace(inverse=_inverse(found)) if len(joint) <= EXACT_CLASSES else found


def inverse_columns(factors: Factors, y: Tensor) -> Tensor:
    """Return the columns ``U^-1[:, y_i]``, one for each sample, shape ``(N, C)``.

    They are the gradient of ``log |det U|``, times N, in the probabilities of a sample that is labelled ``y_i``.

    Args:
        factors: what :func:`factorise` returns.
        y: labels, shape ``(N,)``, int64, on the device of the factors.

    >>> factors = factorise(torch.tensor([[0.5, 0.0], [0.25, 0.25]]).double())
    >>> inverse_columns(factors, torch.tensor([0, 1, 1])).tolist()
    [[2.0, -2.0], [0.0, 4.0], [0.0, 4.0]]
    """
    if factors.inverse is None and len(y) < len(factors.triangles):
        return _solve(factors, _unit_columns(factors, y)).T
    inverse = _inverse(factors) if factors.inverse is None else factors.inverse
    return inverse.T.index_select(0, y)


def is_singular(joint: Tensor, factors: Factors | None = None) -> Tensor:
    """Say whether ``|det U|`` is too close to zero to have a direction, as a bool tensor on U's device (no host sync).

    The test is ``1 / (||U||_1 ||U^-1||_1) < SINGULAR_RCOND``, with NaN counting as singular.

    Args:
        joint: U, float64, shape ``(C, C)``.
        factors: of U, where they are at hand.

    >>> is_singular(torch.eye(2).double()).item(), is_singular(torch.ones(2, 2).double()).item()
    (False, True)
    """
    factors = factorise(joint) if factors is None else factors
    rcond = 1 / (_one_norm(joint) * _inverse_norm(factors))
    # Written so that NaN, which fails every comparison, counts as singular.
    return ~((rcond >= SINGULAR_RCOND) & ~factors.failed)


def log_dmi(joint: Tensor, factors: Factors | None = None) -> Tensor:
    """Return ``log |det U|``, finite for every U: an exactly singular one gives ``C * log(smallest normal double)``.

    Args:
        joint: U, float64, shape ``(C, C)``.
        factors: of U, where they are at hand.

    >>> round(log_dmi(torch.eye(2).double() / 2).exp().item(), 6)
    0.25
    >>> round(log_dmi(torch.zeros(2, 2).double()).item(), 2)
    -1416.79
    """
    value = torch.linalg.slogdet(joint).logabsdet if factors is None else factors.triangles.diagonal().abs().log().sum()
    # Filled in on the device: a number that is copied there makes the host wait.
    floor = torch.full_like(value, joint.shape[0] * math.log(sys.float_info.min))
    return torch.where(value > floor, value, floor)


def dmi_normalised(joint: Tensor, shares: Tensor | None = None) -> Tensor:
    r"""Return :math:`(|\det U| / \prod_k P(\tilde y = k))^{1/C}`, which lies in [0, 1] (Hadamard) for any C.

    1 means that predictions and labels determine each other; 0 that some class is not told from the others, or is
    missing.

    Args:
        joint: U, float64, shape ``(C, C)``.
        shares: the labels' shares, shape ``(C,)``; ``None`` for the sums of U's rows. Only those of a part of a larger U
            (:func:`judged`) are more.

    >>> round(dmi_normalised(torch.eye(4).double() / 4).item(), 6)
    1.0
    """
    log_rows = (joint.sum(1) if shares is None else shares).log().sum()
    value = ((log_dmi(joint) - log_rows) / joint.shape[0]).exp()
    return torch.where(torch.isfinite(log_rows), value, torch.zeros_like(value)).clamp(0, 1)


def judged(joint: Tensor) -> tuple[Tensor, Tensor]:
    """Leave the classes out of U that no sample is labelled, rows and columns: of these a determinant cannot say anything.

    What is predicted as such a class is lost, so that U of the others sums to less than 1 and has a smaller determinant.

    Args:
        joint: U, shape ``(C, C)``.

    Returns:
        U of the others, and their labels' shares. Where no class is missing, ``joint`` as it is.

    >>> part, shares = judged(torch.tensor([[0.5, 0.0, 0.25], [0.0, 0.0, 0.0], [0.0, 0.125, 0.125]]))
    >>> part.tolist(), shares.tolist()
    ([[0.5, 0.25], [0.0, 0.125]], [0.75, 0.25])
    """
    shares = joint.sum(dim=1)
    present = shares != 0  # true of NaN, which nothing may hide
    return (joint, shares) if bool(present.all()) else (joint[present][:, present], shares[present])


def _solve(factors: Factors, right: Tensor, transposed: bool = False) -> Tensor:
    """Return U^-1 or U^-T times columns, shape ``(C, K)``."""
    solved: Tensor = torch.linalg.lu_solve(factors.triangles, factors.exchanges, right, adjoint=transposed)
    return solved


def _unit_columns(factors: Factors, ones: Tensor) -> Tensor:
    """Return columns, shape ``(C, K)``, each of which is 1 at its place in ``ones``, shape ``(K,)``, and 0 elsewhere."""
    # Made as rows: column after column is the order in which a solver wants them.
    return factors.triangles.new_zeros(len(ones), len(factors.triangles)).scatter_(1, ones[:, None], 1.0).T


def _inverse(factors: Factors) -> Tensor:
    return _solve(factors, torch.eye(len(factors.triangles), dtype=torch.float64, device=factors.triangles.device))


def _one_norm(matrix: Tensor) -> Tensor:
    """Return the greatest sum of a column's absolute values."""
    return matrix.abs().sum(dim=0).amax()


def _inverse_norm(factors: Factors) -> Tensor:
    """Return the 1-norm of U^-1: of the inverse where there is one, else an estimate by five solves, never above the norm.

    The estimate is the block algorithm of Higham and Tisseur (SIAM J. Matrix Anal. Appl. 21, 2000), with four columns, fixed
    starts and a fixed number of steps: an end by comparison would make the host wait, and ranks must decide alike.
    """
    if factors.inverse is not None:
        return _one_norm(factors.inverse)
    size = len(factors.triangles)
    place = torch.arange(size, dtype=torch.float64, device=factors.triangles.device)
    # Starts of 1-norm 1: even; alternating and growing, as LAPACK's, so that no two rows cancel in both; two patterns of signs.
    grows = (1 + place / (size - 1)) * (1 - 2 * (place % 2)) / (1.5 * size)
    patterns = [(factor * place**2).cos().sign() / size for factor in (1, 2)]
    columns = torch.stack([torch.full_like(place, 1 / size), grows, *patterns]).T
    found = torch.zeros_like(place[0])
    for _ in range(2):
        solved = _solve(factors, columns)
        found = torch.maximum(found, _one_norm(solved))
        signs = 2 * (solved >= 0).to(torch.float64) - 1
        largest = _solve(factors, signs, transposed=True).abs().argmax(dim=0)
        columns = _unit_columns(factors, largest)
    return torch.maximum(found, _one_norm(_solve(factors, columns)))
