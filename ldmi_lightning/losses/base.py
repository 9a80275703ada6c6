"""The contract of a loss, the same for every method.

A loss is an ``nn.Module`` called as ``loss(logits, y, index)`` that returns a scalar: the mean over the GLOBAL batch.
All else is the contract of :class:`~ldmi_lightning.method.Method`.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ldmi_lightning.batch import Batch
from ldmi_lightning.errors import UserError
from ldmi_lightning.method import Clock, Method, Predictions
from ldmi_lightning.ranks import is_distributed, sum_over_ranks
from ldmi_lightning.transition import noisy_probabilities

__all__ = ["Loss", "Predictions", "TransitionLoss", "global_mean", "log_probabilities"]


def global_mean(per_sample: Tensor, counts: Tensor | None = None) -> Tensor:
    """Average ``(N,)`` losses over the samples of ALL ranks, however unevenly they are spread.

    The value is this rank's share, ``local sum * world size / global count``: the mean of the ranks' values is the
    global mean, and so DDP's average of their gradients is the exact gradient.

    Args:
        per_sample: this rank's losses.
        counts: which of them are averaged, bool, shape ``(N,)``; ``None`` for all. Without any the mean is 0.

    >>> global_mean(torch.tensor([1.0, 3.0])).item(), global_mean(torch.tensor([1.0, 3.0]), torch.tensor([False, True])).item()
    (2.0, 3.0)
    """
    if counts is None and not is_distributed():
        return per_sample.mean()
    if counts is None:
        counts = torch.ones_like(per_sample, dtype=torch.bool)
    count = sum_over_ranks(counts.sum().to(per_sample.dtype)).clamp(min=1)
    world_size = torch.distributed.get_world_size() if is_distributed() else 1
    return torch.where(counts, per_sample, 0).sum() * world_size / count


def log_probabilities(logits: Tensor) -> Tensor:
    """Return log-softmax outputs, shape ``(N, C)``, in 32 bits at least, whatever precision the model works in.

    >>> log_probabilities(torch.zeros(1, 2, dtype=torch.bfloat16)).exp()
    tensor([[0.5000, 0.5000]])
    """
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=1)


def samples_told_apart(method: Method, keeps: str, train: Predictions) -> int:
    """Return how many training samples there are, one more than the highest index, for a method that keeps something of each.

    Args:
        method: whose it is.
        keeps: what it keeps, for messages.
        train: what the model selected before says of the training set.

    Raises:
        UserError: the data does not tell which sample is which.
    """
    if not len(train.index) or int(train.index.min()) < 0:
        kind = "loss" if isinstance(method, Loss) else "method"
        raise UserError(
            f"{type(method).__name__} keeps {keeps} for each training sample, but the data does not tell which sample is which: "
            f"let the datamodule yield ldmi_lightning.Batch(x, y, index, y_clean), or use another {kind}."
        )
    return int(train.index.max()) + 1


class Loss(Method):
    """Base of all losses: a method of one net and one view, which is a function of logits, labels and indices."""

    def forward(self, logits: Tensor, y: Tensor, index: Tensor) -> Tensor:
        """Return the mean loss over the global batch.

        Args:
            logits: this rank's outputs, shape ``(N, C)``.
            y: labels to learn from, shape ``(N,)``, int64.
            index: positions in the training set, shape ``(N,)``, int64; -1 where unknown.
        """
        raise NotImplementedError

    def step(self, nets: Sequence[nn.Module], batch: Batch, clock: Clock) -> Tensor:
        """Return the loss of the net's outputs."""
        loss: Tensor = self(nets[0](batch.x), batch.y, batch.index)
        return loss


class TransitionLoss(Loss):
    """Base of the losses that have a noise transition matrix T.

    They are selected by the likelihood of the noisy validation labels under T: accuracy against noisy labels is the wrong
    judge of a net that predicts true ones.

    Attributes:
        transition: T, float64, shape ``(C, C)``, a buffer; ``(0, 0)`` before it is known.
    """

    monitor = "val/nll"
    mode: Literal["min", "max"] = "min"
    transition: Tensor

    def noisy_probs(self, probs: Tensor) -> Tensor:
        """Return ``probs @ T``, and ``probs`` as they are before T is known."""
        return noisy_probabilities(probs, self.transition) if len(self.transition) else probs
