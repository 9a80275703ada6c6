r"""ELR, early-learning regularisation (Liu et al.: Early-learning regularization prevents memorization of noisy labels, NeurIPS 2020)."""  # noqa: E501

import torch
from torch import Tensor

from ldmi_lightning.errors import UserError
from ldmi_lightning.losses.base import Loss, Predictions, global_mean, log_probabilities, samples_told_apart
from ldmi_lightning.ranks import gather_over_ranks, is_distributed

LEAST = 1e-4
"""The least probability that the loss and the targets are made of, and 1 less it the greatest, as in the released code."""


class ELRLoss(Loss):
    r""":math:`-\log p_y + \lambda \log(1 - \langle p, t \rangle)` (equation 6), with a target t for each training sample.

    The target is a moving average of the sample's own outputs, :math:`t \leftarrow \beta t + (1 - \beta) p` (equation 9). What
    was learnt early keeps pulling, and a label against it pulls ever less.

    The published run starts from nothing, with targets of 0. Here a stage comes after another one, so that the targets start at
    what its selected model predicts, as if they had followed it.

    **Ranks.** A sample's target changes where the sample is seen; the ranks exchange their targets at the end of an epoch.

    Args:
        weight: λ, at least 0; 3 in the paper for CIFAR-10, 7 for CIFAR-100, 1 in the released code for asymmetric noise.
        momentum: β in [0, 1); 0.7 in the paper for CIFAR-10, 0.9 for CIFAR-100 and for asymmetric noise.

    A target of (1/2, 1/2) meets outputs of (1/2, 1/2), and stays:

    >>> loss, rows = ELRLoss(weight=1), torch.tensor([0])
    >>> loss.prepare(*[Predictions(torch.tensor([[0.5, 0.5]]), rows, rows)] * 2)
    >>> round(loss(torch.zeros(1, 2), rows, rows).item(), 6)  # log 2 + log(1 - 1/2)
    0.0
    """

    targets: Tensor

    def __init__(self, weight: float = 3.0, momentum: float = 0.7) -> None:
        super().__init__()
        if not 0 <= weight < float("inf"):
            raise UserError(f"ELRLoss: weight must be at least 0, but got {weight}. The paper has 3 for CIFAR-10.")
        if not 0 <= momentum < 1:
            raise UserError(
                f"ELRLoss: momentum must lie in [0, 1), but got {momentum}. The paper has 0.7 for CIFAR-10."
            )
        self.weight = weight
        self.momentum = momentum
        # The last row belongs to all samples that were not predicted when the stage began.
        self.register_buffer("targets", torch.empty(0, 0))
        self._moved: list[tuple[Tensor, Tensor]] = []  # (index, target) that the other ranks do not know yet

    @property
    def needs_predictions(self) -> bool:
        """The targets start from one pass over the training set."""
        return True

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"weight={self.weight}, momentum={self.momentum}"

    def prepare(self, train: Predictions, held_out: Predictions) -> None:
        """Start each target at the prediction of the model selected in the stage before."""
        targets = torch.zeros(samples_told_apart(self, "a target", train) + 1, train.probs.shape[1])
        targets[train.index] = bounded(train.probs.float())
        self.targets, self._moved = targets.to(self.targets), []  # in the run's precision, as after a resume

    def forward(self, logits: Tensor, y: Tensor, index: Tensor) -> Tensor:
        """Return the mean over the global batch; see :class:`~ldmi_lightning.losses.base.Loss` for the arguments."""
        if self.targets.shape[1] != logits.shape[1]:
            raise UserError(
                f"ELRLoss has no targets for {logits.shape[1]} classes: call prepare(train, held_out) with the predictions of "
                "the warmed-up model first. LDMIModule does so when the stage begins."
            )
        log_p = log_probabilities(logits)
        p = log_p.exp().clamp(LEAST, 1 - LEAST)
        where = index.clamp(max=len(self.targets) - 1)
        target = self.targets[where].to(p)
        if self.training:
            target = self.momentum * target + (1 - self.momentum) * bounded(p.detach())
            self._keep(where, target)
        early = (1 - (target * p).sum(dim=1)).log()
        return global_mean(-log_p.gather(1, y[:, None]).squeeze(1) + self.weight * early)

    def _keep(self, where: Tensor, target: Tensor) -> None:
        known = where < len(self.targets) - 1
        where, target = where[known], target[known].to(self.targets)
        self.targets.index_copy_(0, where, target)
        if is_distributed():
            self._moved.append((where, target))

    def synchronise(self) -> None:
        """Write what the other ranks have moved."""
        if self._moved:
            where, target = (gather_over_ranks(torch.cat(each)) for each in zip(*self._moved, strict=True))
            self.targets.index_copy_(0, where, target)
            self._moved = []

    def end_epoch(self) -> None:
        """Make the targets equal on all ranks, as a checkpoint takes them from one of them."""
        self.synchronise()


def bounded(probs: Tensor) -> Tensor:
    """Return probabilities without those of 0 or 1, shape ``(N, C)``.

    >>> bounded(torch.tensor([[0.0, 1.0]])).mul(1e4).round().tolist()
    [[1.0, 9999.0]]
    """
    kept = probs.clamp(LEAST, 1 - LEAST)
    return kept / kept.sum(dim=1, keepdim=True)
