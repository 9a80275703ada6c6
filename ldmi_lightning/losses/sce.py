r"""SCE, symmetric cross-entropy (Wang et al.: Symmetric cross entropy for robust learning with noisy labels, ICCV 2019)."""

from torch import Tensor

from ldmi_lightning.errors import UserError
from ldmi_lightning.losses.base import Loss, global_mean, log_probabilities


class SCELoss(Loss):
    r""":math:`\alpha\,\mathrm{CE} + \beta\,\mathrm{RCE}` (equation 7): cross-entropy, and cross-entropy the other way round.

    In the reverse one (equation 6) the label takes the output's place, :math:`-\sum_k p_k \log y_k`, with
    :math:`\log 0 = A`; it is :math:`-A (1 - p_y)`, an absolute error, which symmetric noise does not mislead.

    Args:
        alpha: weight of cross-entropy, at least 0; 0.1 in the paper for CIFAR-10, 6 for CIFAR-100.
        beta: weight of the reverse, at least 0; 1 in the paper for CIFAR-10, 0.1 for CIFAR-100.
        log_zero: A, below 0; -4 in the paper.

    >>> import torch
    >>> y = torch.tensor([0])
    >>> round(SCELoss(alpha=0, beta=1)(torch.zeros(1, 4), y, y).item(), 6)  # 4 · (1 - 1/4)
    3.0
    >>> round(SCELoss(alpha=1, beta=0)(torch.zeros(1, 4), y, y).item(), 6)  # log 4
    1.386294
    """

    def __init__(self, alpha: float = 0.1, beta: float = 1.0, log_zero: float = -4.0) -> None:
        super().__init__()
        if not (0 <= alpha < float("inf") and 0 <= beta < float("inf") and alpha + beta > 0):
            raise UserError(
                f"SCELoss: alpha and beta must be at least 0, and one of them above it, but got {alpha} and {beta}. The paper "
                "has 0.1 and 1 for CIFAR-10."
            )
        if not float("-inf") < log_zero < 0:
            raise UserError(f"SCELoss: log_zero must be below 0, but got {log_zero}. The paper has -4.")
        self.alpha = alpha
        self.beta = beta
        self.log_zero = log_zero

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"alpha={self.alpha}, beta={self.beta}, log_zero={self.log_zero}"

    def forward(self, logits: Tensor, y: Tensor, index: Tensor) -> Tensor:
        """Return the mean over the global batch; see :class:`~ldmi_lightning.losses.base.Loss` for the arguments."""
        log_p = log_probabilities(logits).gather(1, y[:, None]).squeeze(1)
        # 1 - p as -expm1(log p), which is exact where p is near 1.
        return global_mean(-self.alpha * log_p + self.beta * self.log_zero * log_p.expm1())
