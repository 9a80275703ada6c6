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

import torch
from torch import Tensor

from ldmi_lightning.ranks import sum_over_ranks

SINGULAR_RCOND = 1e-8
"""Below this reciprocal condition number (1-norm) the sign of det U is a rounding error, not a direction.

It lies below what outputs in float32 can resolve. Constant outputs, whose U has rank one, reach 1e-14, and 4e-9 where a
memory of float32 outputs is mixed with a batch; a class with one sample in a million stands at 2e-6, and a hundred
classes learnt from batches of 64 with a memory at 1e-2.
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
    return zeros.index_add(0, y.to(probs.device), probs)


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


def is_singular(joint: Tensor) -> Tensor:
    """Say whether ``|det U|`` is too close to zero to have a direction, as a bool tensor on U's device (no host sync).

    The test is ``1 / (||U||_1 ||U^-1||_1) < SINGULAR_RCOND``, with NaN counting as singular.

    >>> is_singular(torch.eye(2).double()).item(), is_singular(torch.ones(2, 2).double()).item()
    (False, True)
    """
    inverse = torch.linalg.inv_ex(joint).inverse
    rcond = 1 / (torch.linalg.matrix_norm(joint, 1) * torch.linalg.matrix_norm(inverse, 1))
    # Written so that NaN, which fails every comparison, counts as singular.
    usable: Tensor = rcond >= SINGULAR_RCOND
    return ~usable


def log_dmi(joint: Tensor) -> Tensor:
    """Return ``log |det U|``, finite for every U: an exactly singular one gives ``C * log(smallest normal double)``.

    >>> round(log_dmi(torch.eye(2).double() / 2).exp().item(), 6)
    0.25
    >>> round(log_dmi(torch.zeros(2, 2).double()).item(), 2)
    -1416.79
    """
    value = torch.linalg.slogdet(joint).logabsdet
    # Filled in on the device: a number that is copied there makes the host wait.
    floor = torch.full_like(value, joint.shape[0] * math.log(sys.float_info.min))
    return torch.where(value > floor, value, floor)


def dmi_normalised(joint: Tensor) -> Tensor:
    r"""Return :math:`(|\det U| / \prod_k P(\tilde y = k))^{1/C}`, which lies in [0, 1] (Hadamard) for any C.

    1 means that predictions and labels determine each other; 0 that some class is not told from the others, or is
    missing.

    >>> round(dmi_normalised(torch.eye(4).double() / 4).item(), 6)
    1.0
    """
    log_rows = joint.sum(1).log().sum()
    value = ((log_dmi(joint) - log_rows) / joint.shape[0]).exp()
    return torch.where(torch.isfinite(log_rows), value, torch.zeros_like(value)).clamp(0, 1)
