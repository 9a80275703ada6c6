r"""DivideMix (Li, Socher and Hoi: Learning with noisy labels as semi-supervised learning, ICLR 2020)."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from ldmi_lightning.batch import Batch
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses.base import Predictions, global_mean, log_probabilities, samples_told_apart
from ldmi_lightning.method import Clock, Method
from ldmi_lightning.ranks import gather_over_ranks, sum_over_ranks

RAMP = 16
"""Epochs over which the weight of the guessed labels rises, as in the released code."""


class DivideMix(Method):
    r"""Two nets; each divides the samples for the OTHER into labelled and unlabelled ones, which that one learns by MixMatch.

    After some epochs of cross-entropy a mixture of two Gaussians is fitted to the losses of all samples in each net; that of the
    small losses gives :math:`w_i`, the probability that a label is right (algorithm 1, lines 4 and 5). For the other net the
    samples with :math:`w_i > \tau` are labelled, by :math:`w_i y_i + (1 - w_i) p_i` (equation 3), and the rest by what both nets
    guess (equation 4); both are sharpened by the temperature (equation 5) and mixed with each other by MixUp (equations 6 to 9).
    Cross-entropy on the labelled ones, :math:`\lambda_u` times the squared error on the others, which rises over 16 epochs, and a
    penalty where the mean output is not uniform make up the loss (equations 10 to 12).

    Other than in the released code both nets take a step together, and the mixture sees the losses that the samples had when they
    were trained on last, so that no pass over the data comes before each epoch.

    The paper selects no epoch on noisy labels. Accuracy on them would count a net that predicts true labels as wrong, so that the
    best epoch is the one whose decisions say most about them (:func:`~ldmi_lightning.decisions.decision_scores`).

    Inputs are mixed: images or features, not token ids. Features have no augmentation, and ``views=1`` then leaves out the second
    view, which would be the first.

    Args:
        warmup: epochs of cross-entropy of both nets to begin with, at least 1; 10 in the paper for CIFAR-10, 30 for CIFAR-100.
        threshold: τ in (0, 1); 0.5 in the paper.
        unlabelled_weight: λ_u, at least 0; in the paper 0, 25 or 50 for more and more noise.
        temperature: above 0; 0.5 in the paper.
        alpha: of the Beta distribution that MixUp draws from, above 0; 4 in the paper.
        views: augmented views of a sample, 1 or 2; 2 in the paper.
        confidence_penalty: whether the negative entropy of the outputs is added to cross-entropy; in the paper for noise that
            depends on the class, which is soon learnt with confidence.
    """

    networks = 2
    monitor = "val/decision_score"
    losses: Tensor
    right: Tensor

    def __init__(
        self,
        warmup: int = 10,
        threshold: float = 0.5,
        unlabelled_weight: float = 25.0,
        temperature: float = 0.5,
        alpha: float = 4.0,
        views: int = 2,
        confidence_penalty: bool = False,
    ) -> None:
        super().__init__()
        for name, value, fits in (
            ("warmup must be at least 1 epoch", warmup, warmup >= 1),
            ("threshold must lie in (0, 1)", threshold, 0 < threshold < 1),
            ("unlabelled_weight must be at least 0", unlabelled_weight, 0 <= unlabelled_weight < float("inf")),
            ("temperature must be above 0", temperature, 0 < temperature < float("inf")),
            ("alpha must be above 0", alpha, 0 < alpha < float("inf")),
            ("views must be 1 or 2", views, views in (1, 2)),
        ):
            if not fits:
                raise UserError(f"DivideMix: {name}, but got {value}.")
        self.warmup = warmup
        self.threshold = threshold
        self.unlabelled_weight = unlabelled_weight
        self.temperature = temperature
        self.alpha = alpha
        self.views = views
        self.confidence_penalty = confidence_penalty
        # For each net and sample the last loss, -1 before it is known, and how likely its label is right; the last column
        # belongs to unknown samples.
        self.register_buffer("losses", torch.empty(2, 0))
        self.register_buffer("right", torch.empty(2, 0))
        self._seen: list[tuple[Tensor, Tensor]] = []  # (index, losses) of this rank in this epoch

    @property
    def needs_predictions(self) -> bool:
        """How many training samples there are is seen by one pass over them."""
        return True

    def extra_repr(self) -> str:
        """Show the settings."""
        return (
            f"warmup={self.warmup}, threshold={self.threshold}, unlabelled_weight={self.unlabelled_weight}, "
            f"temperature={self.temperature}, alpha={self.alpha}, views={self.views}"
            + (", confidence_penalty=True" if self.confidence_penalty else "")
        )

    def check_inputs(self, x: Any) -> None:
        """Refuse inputs that cannot be mixed."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise UserError(
                "DivideMix mixes inputs with each other, which token ids and inputs of several parts cannot be. Take features of "
                "them (EncodedDataModule), or another method."
            )

    def prepare(self, train: Predictions, held_out: Predictions) -> None:
        """Make room for a loss of each training sample."""
        room = (2, samples_told_apart(self, "a loss", train) + 1)
        self.losses, self.right, self._seen = self.losses.new_full(room, -1), self.right.new_zeros(room), []

    def step(self, nets: Sequence[nn.Module], batch: Batch, clock: Clock) -> Tensor:
        """Return the sum of both nets' losses."""
        self.check_inputs(batch.x)
        if not self.losses.shape[1]:
            raise UserError(
                "DivideMix knows no samples: call prepare(train, held_out) first. LDMIModule does so when the stage begins."
            )
        views = [batch.x] if self.views == 1 else [batch.x, batch.second_view]
        where = batch.index.clamp(max=self.losses.shape[1] - 1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and clock.epoch < self.warmup):  # guesses have no gradient
            outputs = [[log_probabilities(net(view)) for view in views] for net in nets]
        labels = torch.stack([F.nll_loss(of_net[0], batch.y, reduction="none") for of_net in outputs])
        if self.training:
            self._seen.append((where, labels.detach().T))
        if clock.epoch < self.warmup:
            penalty = (
                sum((of_net[0].exp() * of_net[0]).sum(dim=1) for of_net in outputs) if self.confidence_penalty else 0
            )
            return global_mean(labels.sum(dim=0) + penalty)
        guesses = [torch.stack(of_net).exp().mean(dim=0) for of_net in outputs]
        weight = self.unlabelled_weight * min((clock.epoch - self.warmup + 1) / RAMP, 1)
        both = torch.stack(guesses).mean(dim=0)
        return torch.stack(
            [
                self._mixed(nets[own], views, batch.y, self.right[1 - own, where], guesses[own], both, weight)
                for own in (0, 1)
            ]
        ).sum()

    def _mixed(
        self,
        net: nn.Module,
        views: Sequence[Tensor],
        y: Tensor,
        right: Tensor,
        own: Tensor,
        both: Tensor,
        weight: float,
    ) -> Tensor:
        """Return a net's loss on mixed samples, of which the other net holds each label for right with a probability."""
        labelled = right > self.threshold
        right = right[:, None].to(own)
        refined = torch.where(labelled[:, None], right * F.one_hot(y, own.shape[1]) + (1 - right) * own, both)
        targets = sharpened(refined, self.temperature).repeat(len(views), 1)
        x, counts = torch.cat(list(views)), labelled.repeat(len(views))
        share = torch.distributions.Beta(self.alpha, self.alpha).sample().item()
        share, partner = max(share, 1 - share), torch.randperm(len(x)).to(x.device)
        log_p = log_probabilities(net(share * x + (1 - share) * x[partner]))
        targets = share * targets + (1 - share) * targets[partner]
        on_labelled = global_mean(-(targets * log_p).sum(dim=1), counts)
        on_guessed = global_mean((log_p.exp() - targets).square().mean(dim=1), ~counts)
        return on_labelled + weight * on_guessed + away_from_uniform(log_p)

    def synchronise(self) -> None:
        """Write what all ranks have seen."""
        if self._seen:
            where, seen = (torch.cat(each) for each in zip(*self._seen, strict=True))
            where, seen = gather_over_ranks(where), gather_over_ranks(seen)
            self.losses[:, where] = seen.T.to(self.losses)
            self._seen = []

    def end_epoch(self) -> None:
        """Divide the samples anew, by the losses that they had."""
        self.synchronise()
        losses = self.losses[:, :-1].double().cpu().numpy()
        self.right[:, :-1] = torch.from_numpy(np.stack([probably_right(each) for each in losses])).to(self.right)


def probably_right(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how likely each loss belongs to the smaller of two Gaussians, shape ``(N,)``; 0 for unknown ones, below 0.

    The settings are those of the released code.

    >>> probably_right(np.array([0.0, 0.1, 0.1, 0.2, 3.0, 3.1, 2.9, -1.0])).round().tolist()
    [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """
    known = losses >= 0
    found = np.zeros(len(losses))
    seen = losses[known]
    if len(np.unique(seen)) < 2:  # nothing to divide
        return known.astype(np.float64)
    scaled = ((seen - seen.min()) / (seen.max() - seen.min()))[:, None]
    mixture: Any = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0).fit(scaled)
    found[known] = mixture.predict_proba(scaled)[:, mixture.means_.argmin()]
    return found


def sharpened(probs: Tensor, temperature: float) -> Tensor:
    """Return probabilities to the power of 1 / temperature, each row divided by its sum, shape ``(N, C)``.

    >>> sharpened(torch.tensor([[0.75, 0.25]]), 0.5)
    tensor([[0.9000, 0.1000]])
    """
    return (probs.log() / temperature).softmax(dim=1)


def away_from_uniform(log_p: Tensor) -> Tensor:
    """Return how far the mean output over the global batch is from uniform: KL(uniform, mean), a scalar.

    >>> round(away_from_uniform(torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()).abs().item(), 6)
    0.0
    """
    p = log_p.exp()
    total = sum_over_ranks(torch.cat([p.sum(dim=0), p.new_full((1,), len(p))]))
    mean = (total[:-1] / total[-1]).clamp(min=torch.finfo(p.dtype).tiny)
    return -mean.log().mean() - math.log(len(mean))
