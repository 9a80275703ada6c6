r"""FW, forward correction with a noise transition matrix (Patrini et al., CVPR 2017)."""

from typing import Literal

import torch
from torch import Tensor

from ldmi_lightning.errors import UserError
from ldmi_lightning.likelihood import fit_transition
from ldmi_lightning.losses.base import Predictions, TransitionLoss, global_mean, log_probabilities
from ldmi_lightning.ranks import sum_over_ranks
from ldmi_lightning.transition import (
    anchor_transition,
    check_transition_matrix,
    log_joint,
    posterior_sums,
    renewed_transition,
)


class ForwardLoss(TransitionLoss):
    r""":math:`-\log \sum_k p_k T_{k, y}`: cross-entropy of the NOISY label's probabilities.

    With the true T its minimiser is that of cross-entropy on clean labels (theorem 2). T is estimated once, from what
    the model selected in the stage before predicts, or known.

    Args:
        transition: ``"anchor"``, the authors' estimate from the training set
            (:func:`~ldmi_lightning.transition.anchor_transition`); ``"held_out"``, the most likely one on the noisy
            validation set (:func:`~ldmi_lightning.likelihood.fit_transition`), which suits a model that predicts true
            labels, as after L_DMI; or the matrix itself, C rows ``T[i]`` of ``P(noisy label | true label i)``.
        renew: renew T at the end of each epoch from the posteriors of the training samples seen in it
            (:func:`~ldmi_lightning.transition.renewed_transition`).

    >>> y = torch.tensor([1])
    >>> loss = ForwardLoss([[0.5, 0.5], [0.0, 1.0]])
    >>> round(loss(torch.zeros(1, 2), y, y).neg().exp().item(), 6)  # 1/2 * 1/2 + 1/2 * 1
    0.75
    """

    epoch_sums: Tensor

    def __init__(
        self, transition: Literal["anchor", "held_out"] | list[list[float]] = "anchor", renew: bool = False
    ) -> None:
        super().__init__()
        self.source = transition
        self.renew = renew
        known = torch.empty(0, 0, dtype=torch.float64)
        if not isinstance(transition, str):
            known = torch.from_numpy(check_transition_matrix(transition))
        elif transition not in ("anchor", "held_out"):
            raise UserError(
                f"ForwardLoss: transition must be 'anchor', 'held_out' or a matrix, but got {transition!r}."
            )
        self.register_buffer("transition", known)
        # Posteriors of the running epoch on this rank; they end with it, so no checkpoint holds them.
        self.register_buffer("epoch_sums", torch.empty(0, 0, dtype=torch.float64), persistent=False)

    @property
    def needs_predictions(self) -> bool:
        """A matrix that is known need not be estimated."""
        return isinstance(self.source, str)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"transition={self.source!r}, renew={self.renew}"

    def check_setting(self, num_classes: int, batch_size: int) -> None:
        """A matrix that is known must have a row for each class."""
        if not self.needs_predictions and len(self.source) != num_classes:
            raise UserError(
                f"ForwardLoss has a transition matrix of {len(self.source)} classes, but the data has {num_classes}. Give "
                "--model.STAGE.loss.transition a row and a column for each class."
            )

    def prepare(self, train: Predictions, held_out: Predictions) -> None:
        """Estimate T from the predictions of the model selected in the stage before."""
        _refuse_missing_classes(train)
        estimate = anchor_transition(train.probs) if self.source == "anchor" else _held_out_estimate(held_out)
        self.transition = estimate.to(self.transition.device)

    def forward(self, logits: Tensor, y: Tensor, index: Tensor) -> Tensor:
        """Return the mean over the global batch; see :class:`~ldmi_lightning.losses.base.Loss` for the arguments."""
        if len(self.transition) != logits.shape[1]:
            raise UserError(
                f"ForwardLoss has no transition matrix for {logits.shape[1]} classes: call prepare(train, held_out) with "
                "the predictions of the warmed-up model first. LDMIModule does so when the stage begins."
            )
        log_joints = log_joint(log_probabilities(logits), y, self.transition)
        if self.training and self.renew:
            sums = posterior_sums(log_joints, y)
            self.epoch_sums = self.epoch_sums + sums if len(self.epoch_sums) else sums
        return global_mean(-log_joints.logsumexp(dim=1))

    def end_epoch(self) -> None:
        """Renew T, if it is to be, from what all ranks saw in the epoch."""
        if len(self.epoch_sums):
            self.transition = renewed_transition(self.transition, sum_over_ranks(self.epoch_sums))
            self.epoch_sums = self.epoch_sums.new_empty(0, 0)


def _refuse_missing_classes(train: Predictions) -> None:
    missing = (torch.bincount(train.y, minlength=train.probs.shape[1]) == 0).nonzero().flatten().tolist()
    if missing:
        raise UserError(
            f"ForwardLoss estimates a row of T for each class, but no training sample is labelled "
            f"{', '.join(map(str, missing))}. Raise --trainer.limit_train_batches if it is set, lower the noise, or give "
            "--model.STAGE.loss.transition the matrix."
        )


def _held_out_estimate(held_out: Predictions) -> Tensor:
    if not len(held_out.y):
        raise UserError(
            "ForwardLoss(transition='held_out') estimates T from the validation set, but there is none. Give a "
            "validation set, or use --model.STAGE.loss.transition anchor."
        )
    return torch.from_numpy(fit_transition(held_out.probs.numpy(), held_out.y.numpy()).transition)
