r"""GCE, the generalised cross-entropy (Zhang and Sabuncu, NeurIPS 2018): between cross-entropy and absolute error."""

import math

import torch
from torch import Tensor

from ldmi_lightning.errors import UserError
from ldmi_lightning.losses.base import Loss, global_mean, log_probabilities


class GCELoss(Loss):
    r""":math:`(1 - p_y^q) / q` (equation 6): cross-entropy as q goes to 0, half the absolute error at q = 1.

    A sample weighs :math:`p_y^q` times as much as in cross-entropy, so that labels which the model doubts weigh little.

    Args:
        q: in (0, 1]; 0.7 in the paper.
        truncation: k in (0, 1) for the truncated form (equations 8 and 9): samples with :math:`p_y \le k` contribute the
            constant :math:`(1 - k^q) / q` and no gradient; 0.5 in the paper. ``None`` for all samples.

    >>> y = torch.tensor([0])
    >>> round(GCELoss(q=1)(torch.zeros(1, 4), y, y).item(), 6)  # 1 - 1/4
    0.75
    >>> round(GCELoss(q=1, truncation=0.5)(torch.zeros(1, 4), y, y).item(), 6)
    0.5
    """

    def __init__(self, q: float = 0.7, truncation: float | None = None) -> None:
        super().__init__()
        if not 0 < q <= 1:
            raise UserError(f"GCELoss: q must lie in (0, 1], but got {q}. The paper has 0.7; CELoss is the limit at 0.")
        if truncation is not None and not 0 < truncation < 1:
            raise UserError(
                f"GCELoss: truncation must lie in (0, 1) or be null, but got {truncation}. The paper has 0.5."
            )
        self.q = q
        self.truncation = truncation

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"q={self.q}, truncation={self.truncation}"

    def forward(self, logits: Tensor, y: Tensor, index: Tensor) -> Tensor:
        """Return the mean over the global batch; see :class:`~ldmi_lightning.losses.base.Loss` for the arguments."""
        log_p = log_probabilities(logits).gather(1, y[:, None]).squeeze(1)
        if self.truncation is not None:
            floor = torch.full_like(log_p, math.log(self.truncation))
            log_p = torch.where(log_p > floor, log_p, floor)
        # p^q as exp(q log p), whose gradient is finite where p is 0.
        return global_mean(-torch.expm1(self.q * log_p) / self.q)
