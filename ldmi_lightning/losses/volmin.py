r"""VolMinNet, a transition matrix of smallest volume (Li et al.: Provably end-to-end label-noise learning without anchor points, ICML 2021)."""  # noqa: E501

import math

import torch
from torch import Tensor, nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.joint import in_float64
from ldmi_lightning.losses.base import TransitionLoss, global_mean, log_probabilities
from ldmi_lightning.transition import log_joint

START = -2.0
"""Where the matrix starts, before a sigmoid, for up to ten classes; as in the released code."""


class VolMinLoss(TransitionLoss):
    r""":math:`-\log (p^T \hat T)_y + \lambda \log|\det \hat T|` (equation 5): the net and the smallest T that explain the labels.

    Many pairs of outputs and T give the noisy labels the same probabilities. Of all T, the true one spans the smallest simplex
    around them, if samples are scattered widely enough: where L_DMI makes the determinant of its own joint matrix large, this
    makes that of T small.

    T is learnt with the net: each row is :math:`(1, \sigma(w))`, with the 1 on the diagonal, divided by its sum, so that each
    class keeps more than any other takes from it. The start is the released code's: a diagonal of 0.48, whatever the number
    of classes from ten on.

    In the released code T has an optimizer of its own at the rate 0.01, without weight decay: SGD for CIFAR-10, Adam for MNIST
    and CIFAR-100. Here it shares the kind of the stage's optimizer, at a rate of its own.

    Args:
        weight: λ, at least 0; 1e-4 in the paper.
        lr: learning rate of T, above 0; ``None`` for the nets'.

    >>> loss = VolMinLoss()
    >>> loss.build(10)
    >>> round(loss.transition[0, 0].item(), 2), round(loss.transition.sum().item(), 6)
    (0.48, 10.0)
    """

    weights: nn.Parameter | None

    def __init__(self, weight: float = 1e-4, lr: float | None = 0.01) -> None:
        super().__init__()
        if not 0 <= weight < float("inf"):
            raise UserError(f"VolMinLoss: weight must be at least 0, but got {weight}. The paper has 1e-4.")
        if lr is not None and not 0 < lr < float("inf"):
            raise UserError(f"VolMinLoss: lr must be above 0, or null for the nets', but got {lr}. The paper has 0.01.")
        self.weight = weight
        self.lr = lr
        self.register_parameter("weights", None)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"weight={self.weight}, lr={self.lr}"

    def build(self, num_classes: int) -> None:
        """Make the parameters of T, shape ``(C, C)``; those of the diagonal are not used."""
        self.weights = nn.Parameter(torch.full((num_classes, num_classes), start(num_classes)))

    @property
    def transition(self) -> Tensor:  # type: ignore[override]  # of parameters, not a buffer
        """T, float64, shape ``(C, C)``; ``(0, 0)`` before :meth:`build`."""
        if self.weights is None:
            return torch.empty(0, 0, dtype=torch.float64)
        shares = in_float64(self.weights).sigmoid()
        own = torch.eye(len(shares), dtype=shares.dtype, device=shares.device)
        return torch.nn.functional.normalize(own + shares * (1 - own), p=1, dim=1)

    def forward(self, logits: Tensor, y: Tensor, index: Tensor) -> Tensor:
        """Return the mean over the global batch; see :class:`~ldmi_lightning.losses.base.Loss` for the arguments."""
        transition = self.transition
        if len(transition) != logits.shape[1]:
            raise UserError(
                f"VolMinLoss has no T for {logits.shape[1]} classes: call build({logits.shape[1]}) first. LDMIModule does so."
            )
        likelihood = log_joint(log_probabilities(logits), y, transition).logsumexp(dim=1)
        volume = torch.linalg.slogdet(transition).logabsdet.to(likelihood)
        return global_mean(self.weight * volume - likelihood)


def start(num_classes: int) -> float:
    """Return where the parameters of T start: for more than ten classes so that the diagonal is that of ten.

    >>> start(10), round(start(100), 1)  # the released code has -4.5 for 100 classes
    (-2.0, -4.5)
    """
    others = 9 / (1 + math.exp(-START))
    share = others / (num_classes - 1)
    return START if num_classes <= 10 else math.log(share / (1 - share))
