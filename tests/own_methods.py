"""Two methods of one's own, which prove the contract: small, and knowing neither Lightning nor ranks beyond ``ranks.py``."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldmi_lightning import Batch, Method
from ldmi_lightning.losses import Predictions, global_mean
from ldmi_lightning.losses.base import log_probabilities
from ldmi_lightning.method import Clock
from ldmi_lightning.ranks import gather_over_ranks


class MovingTargets(Method):
    """One net, a target for each sample that moves towards its outputs over the epochs, and a matrix that is learnt.

    The targets start from the predictions of the stage before, move at each epoch's end by what all ranks saw in it, and the
    loss is cross-entropy against ``targets @ softmax(matrix)``, half of it against the label.
    """

    monitor = "val/nll"
    mode = "min"
    targets: Tensor

    def __init__(self, num_classes: int, momentum: float = 0.7) -> None:
        super().__init__()
        self.momentum = momentum
        self.matrix = nn.Parameter(3 * torch.eye(num_classes))
        self.register_buffer("targets", torch.empty(0, 0))
        self._seen: list[Tensor] = []

    def extra_repr(self) -> str:
        return f"momentum={self.momentum}"

    @property
    def needs_predictions(self) -> bool:
        return True

    def prepare(self, train: Predictions, held_out: Predictions) -> None:
        self.targets = train.probs.to(self.matrix)

    def step(self, nets: Sequence[nn.Module], batch: Batch, clock: Clock) -> Tensor:
        log_p = log_probabilities(nets[0](batch.x))
        noisy = log_p.exp() @ self.matrix.softmax(dim=1).to(log_p)
        if self.training:
            self._seen.append(torch.cat([batch.index[:, None].to(log_p), log_p.detach().exp()], dim=1))
        likelihood = -noisy.gather(1, batch.y[:, None]).log().squeeze(1)
        towards = -(self.targets[batch.index].to(log_p) * log_p).sum(dim=1)
        return global_mean(likelihood + 0.5 * towards)

    def noisy_probs(self, probs: Tensor) -> Tensor:
        return probs @ self.matrix.softmax(dim=1).to(probs)

    def end_epoch(self) -> None:
        if self._seen:
            seen = gather_over_ranks(torch.cat(self._seen))
            index = seen[:, 0].long()
            moved = self.momentum * self.targets[index] + (1 - self.momentum) * seen[:, 1:].to(self.targets)
            self.targets = self.targets.index_copy(0, index, moved)
            self._seen = []


class TwoOfTwo(Method):
    """Two nets, two views: each net learns the labels on one view, and to agree with the other net on the other view."""

    networks = 2
    views = 2

    def step(self, nets: Sequence[nn.Module], batch: Batch, clock: Clock) -> Tensor:
        assert batch.second_view is not None
        one, other = nets[0](batch.x), nets[1](batch.second_view)
        weight = (clock.epoch + 1) / clock.epochs
        labels = F.cross_entropy(one, batch.y, reduction="none") + F.cross_entropy(other, batch.y, reduction="none")
        agree = (one.softmax(dim=1) - other.softmax(dim=1)).square().sum(dim=1)
        return global_mean(labels + weight * agree)


class Turns(nn.Module):
    """A transform whose views differ, and are the same in each epoch and on any rank: the second of two negates.

    Args:
        data: tells how many views there are.
    """

    def __init__(self, data: Any) -> None:
        super().__init__()
        self._data = [data]  # no part of the module
        self._calls = 0

    def forward(self, x: Tensor) -> Any:
        if self._data[0].views == 1:
            return x
        self._calls += 1
        return x if self._calls % 2 else -x
