"""Cross-entropy: the warm-up's loss, and the baseline that noise breaks."""

import torch.nn.functional as F
from torch import Tensor

from ldmi_lightning.losses.base import Loss, global_mean


class CELoss(Loss):
    """Cross-entropy against the labels as they are.

    >>> import torch
    >>> round(CELoss()(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0])).exp().item(), 6)
    2.0
    """

    def forward(self, logits: Tensor, y: Tensor, index: Tensor) -> Tensor:
        """Return the mean cross-entropy over the global batch; see :class:`~ldmi_lightning.losses.base.Loss`."""
        return global_mean(F.cross_entropy(logits, y, reduction="none"))
