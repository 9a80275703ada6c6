r"""Co-teaching (Han et al.: Robust training of deep neural networks with extremely noisy labels, NeurIPS 2018)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldmi_lightning.audit.counts import calibrated, confident_joint
from ldmi_lightning.batch import Batch
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses.base import Predictions, global_mean, log_probabilities
from ldmi_lightning.method import Clock, Method
from ldmi_lightning.ranks import gather_over_ranks


class CoTeaching(Method):
    r"""Two nets, each of which learns by cross-entropy the samples of a batch whose losses are small in the OTHER net.

    In epoch t of the stage, from 1, each net passes on the share :math:`R(t) = 1 - \min(t / t_k, 1)\, \tau` of the global batch
    (algorithm 1, step 8). Wrong labels have large losses while a net has not learnt them by heart; what one net lets pass,
    the other has not seen in the same light.

    Args:
        forget_rate: τ in [0, 1), the share of wrong labels in the paper; ``None`` estimates it when the stage
            begins, by how the model selected before decides on held-out labels (:func:`~ldmi_lightning.audit.confident_joint`).
        ramp: t_k, epochs until so many are left out, at least 1; 10 in the paper.
    """

    networks = 2
    rate: Tensor

    def __init__(self, forget_rate: float | None = None, ramp: int = 10) -> None:
        super().__init__()
        if forget_rate is not None and not 0 <= forget_rate < 1:
            raise UserError(
                f"CoTeaching: forget_rate must lie in [0, 1), or be null to be estimated, but got {forget_rate}. It is the share "
                "of wrong labels."
            )
        if ramp < 1:
            raise UserError(f"CoTeaching: ramp must be at least 1 epoch, but got {ramp}. The paper has 10.")
        self.forget_rate = forget_rate
        self.ramp = ramp
        self.register_buffer("rate", torch.tensor(-1.0 if forget_rate is None else forget_rate, dtype=torch.float64))
        self._rate = float(self.rate)  # for the host, which would have to wait for a GPU's
        self.register_load_state_dict_post_hook(_after_loading)  # type: ignore[no-untyped-call]

    @property
    def needs_predictions(self) -> bool:
        """The share of wrong labels is estimated where it is not given."""
        return self.forget_rate is None

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"forget_rate={self.forget_rate}, ramp={self.ramp}"

    def prepare(self, train: Predictions, held_out: Predictions) -> None:
        """Estimate the share of wrong labels on the held-out ones."""
        if self.forget_rate is None:
            self._rate = share_of_wrong(held_out.probs, held_out.y)
            self.rate = self.rate.new_tensor(self._rate)

    def step(self, nets: Sequence[nn.Module], batch: Batch, clock: Clock) -> Tensor:
        """Return the sum of the nets' losses, each on what the other passes on."""
        if self._rate < 0:
            raise UserError(
                "CoTeaching does not know the share of wrong labels: give forget_rate, or call prepare(train, held_out) first. "
                "LDMIModule does so when the stage begins."
            )
        losses = [F.nll_loss(log_probabilities(net(batch.x)), batch.y, reduction="none") for net in nets]
        kept = 1 - self._rate * min((clock.epoch + 1) / self.ramp, 1)
        one, other = (smallest(each.detach(), kept) for each in losses)
        return global_mean(losses[0], other) + global_mean(losses[1], one)

    def epoch_figures(self) -> dict[str, float]:
        """Return the share of labels that is left out at last."""
        return {"train/forget_rate": self._rate}

    def follow_buffer(self) -> None:
        """Take the rate from the buffer, after a state dict was loaded."""
        self._rate = float(self.rate)


def _after_loading(method: nn.Module, _: object) -> None:
    # No method of its own: a copy of it would call the first one's.
    assert isinstance(method, CoTeaching)
    method.follow_buffer()


def share_of_wrong(probs: Tensor, y: Tensor) -> float:
    """Return the share of wrong labels, by decisions alone.

    Args:
        probs: outputs for samples that the net was not trained on, shape ``(N, C)``.
        y: their labels, shape ``(N,)``.

    >>> probs = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.1, 0.9], [0.1, 0.9]])
    >>> share_of_wrong(probs, torch.tensor([0, 0, 1, 1]))
    0.25
    """
    joint = confident_joint(probs.double().numpy(), y.numpy())
    return calibrated(joint, y.bincount(minlength=len(joint)).numpy()).wrong / len(y)


def smallest(losses: Tensor, share: float) -> Tensor:
    """Return which losses are among the smallest of the global batch, bool, shape ``(N,)``; of equal ones all or none.

    Args:
        losses: this rank's, shape ``(N,)``.
        share: how many of the global batch, rounded down, at least one.

    >>> smallest(torch.tensor([3.0, 1.0, 2.0, 4.0]), 0.5).tolist()
    [False, True, True, False]
    """
    every = gather_over_ranks(losses)
    most = every.kthvalue(max(1, int(share * len(every)))).values
    kept: Tensor = losses <= most
    return kept
