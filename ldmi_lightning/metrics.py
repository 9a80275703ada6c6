"""DMI over a whole split: sum U over all batches and ranks first, then take the determinant.

The determinant of a mean is no mean of determinants, so per-batch values must never be averaged.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ldmi_lightning.joint import dmi_normalised, in_float64, joint_sum


class JointMatrix(Metric):
    """The joint distribution matrix U of noisy labels (rows) and predictions (columns) over everything it was shown.

    ``update(probs, y)`` takes softmax outputs ``(N, C)`` and labels ``(N,)``; ``compute()`` gives float64 ``(C, C)``, on the CPU
    where the device has no float64.

    >>> metric = JointMatrix(num_classes=2)
    >>> metric.update(torch.eye(2), torch.tensor([0, 1]))
    >>> metric.update(torch.eye(2), torch.tensor([0, 0]))
    >>> metric.compute().tolist()
    [[0.5, 0.25], [0.0, 0.25]]
    """

    # Its value for a batch alone is then made from the batch, and no state of another device or precision is added to it.
    full_state_update = True
    total: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        # Nothing in float32 until there is something to sum: a device without float64 would refuse to hold it.
        self.add_state("total", torch.zeros(num_classes, num_classes), dist_reduce_fx="sum")

    def update(self, probs: Tensor, y: Tensor) -> None:
        """Add a batch of softmax outputs ``(N, C)`` and labels ``(N,)``."""
        self.total = in_float64(self.total) + joint_sum(probs, y)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Sum over the ranks, of which one may have had nothing to add; see torchmetrics for the arguments."""
        self.total = in_float64(self.total)
        super().sync(*args, **kwargs)

    def compute(self) -> Tensor:
        """Return U; NaN before the first update."""
        total = in_float64(self.total)
        return total / total.sum()


class NormalisedDMI(JointMatrix):
    """Normalised DMI, in [0, 1], comparable across numbers of classes: see :func:`ldmi_lightning.joint.dmi_normalised`.

    >>> metric = NormalisedDMI(num_classes=2)
    >>> metric.update(torch.eye(2), torch.tensor([0, 1]))
    >>> round(metric.compute().item(), 6)
    1.0
    """

    def compute(self) -> Tensor:
        """Return a float64 scalar in [0, 1]."""
        return dmi_normalised(super().compute())
