r"""Forward correction with a transition matrix for each annotator: a net learns from the votes themselves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ldmi_lightning.batch import Batch
from ldmi_lightning.crowds.annotators import estimate_annotators, no_outputs
from ldmi_lightning.errors import UserError
from ldmi_lightning.joint import in_float64
from ldmi_lightning.losses.base import Predictions, TransitionLoss, global_mean, log_probabilities
from ldmi_lightning.method import Clock
from ldmi_lightning.transition import posterior_sums, renewed_transition

SMALLEST_START = 1e-4
"""Entries of T that are learnt begin with no less: softmax has no gradient where it gives nothing."""


class CrowdForward(TransitionLoss):
    r""":math:`-\log \sum_k p_k \prod_a T_a[k, v_a]`, over the annotators a that voted on a sample: a T for each of them.

    A majority counts each vote alike. Here a vote weighs what its annotator's T makes of it: one of a spammer nothing, one of
    somebody who takes cats for dogs what it is worth. With one annotator it is :class:`~ldmi_lightning.losses.ForwardLoss`.
    It is the likelihood of Raykar et al. (Learning from crowds, JMLR 2010) with a net in the place of their logistic regression:
    given the true class, votes are independent.

    The mean is over the VOTES of the global batch, not over its samples: each vote is an observation, a sample with three says
    more than one with a single vote, and the learning rate is that of cross-entropy on as many labels. Samples without a vote
    count for nothing.

    T is estimated when the stage begins (:func:`~ldmi_lightning.crowds.annotators.estimate_annotators`): from the outputs of the
    model selected before on the validation set, with all votes there, and from the votes on the training set alone, whose
    outputs know the labels. Somebody with few votes gets what all have in common.

    ``learn=True`` learns T with the net from that start, each row a softmax, under the trace regularisation of Tanno et al.
    (Learning from noisy labels by regularized estimation of annotator confusion, CVPR 2019), which prefers annotators that err
    much to a net that does. There T starts close to the identity, and the sum over annotators is weighted by 0.01;
    here the mean over annotators is, as the likelihood is a mean over votes.

    It is selected by ``val/nll``: of the validation set's votes, each under its annotator's T.

    Args:
        together: take the likelihood of all votes on a sample at once; else that of each on its own, as Tanno et al. do:
            :math:`-\sum_a \log \sum_k p_k T_a[k, v_a]`, in which votes do not tell of each other.
        learn: learn T with the net.
        trace: weight of the mean trace of a T that is learnt, at least 0.

    >>> method = CrowdForward()
    >>> method.estimated = torch.tensor([[[0.5, 0.5], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]]).double()
    >>> votes = torch.tensor([[1, 0], [-1, 1]])  # 1/2 * 1/2 * 1 + 1/2 * 1 * 0, and 1/2: three votes
    >>> round(method.loss(torch.zeros(2, 2), votes).mul(-3).exp().item(), 6)
    0.125
    """

    estimated: Tensor
    weights: nn.Parameter | None

    def __init__(self, together: bool = True, learn: bool = False, trace: float = 0.01) -> None:
        super().__init__()
        if not 0 <= trace < float("inf"):
            raise UserError(f"CrowdForward: trace must be at least 0, but got {trace}. The paper has 0.01.")
        self.together = together
        self.learn = learn
        self.trace = trace
        self.register_buffer("transition", torch.empty(0, 0, dtype=torch.float64))
        self.register_buffer("estimated", torch.empty(0, 0, 0, dtype=torch.float64))
        # How many annotators there are is known only when the stage begins.
        self.register_parameter("weights", nn.Parameter(torch.empty(0, 0, 0)) if learn else None)
        self.register_load_state_dict_pre_hook(_resize_weights)  # type: ignore[no-untyped-call]

    @property
    def transitions(self) -> Tensor:
        """T of each annotator, float64, shape ``(A, C, C)``; ``(0, 0, 0)`` before it is known."""
        return self.estimated if self.weights is None else in_float64(self.weights).softmax(dim=2)

    @property
    def needs_predictions(self) -> bool:
        """T is estimated."""
        return True

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"together={self.together}, learn={self.learn}" + (f", trace={self.trace}" if self.learn else "")

    def prepare(self, train: Predictions, held_out: Predictions) -> None:
        """Estimate T of each annotator, and that of the labels, which come from the votes."""
        for name, split in (("training", train), ("validation", held_out)):
            if split.votes is None or not (split.votes >= 0).any():
                raise no_votes(name)
        votes = np.concatenate([held_out.votes, train.votes])
        probs = held_out.probs.double().numpy()
        found = estimate_annotators(np.concatenate([probs, no_outputs(*train.probs.shape)]), votes)
        self.estimated = torch.from_numpy(found.transitions).to(self.estimated.device)
        posterior, y = torch.from_numpy(found.posterior), torch.cat([held_out.y, train.y])
        start = torch.full((posterior.shape[1],) * 2, 1 / posterior.shape[1], dtype=torch.float64)
        of_labels = renewed_transition(start, posterior_sums(posterior.log(), y))
        self.transition = of_labels.to(self.transition.device)
        if self.weights is not None:
            # In place: an optimizer may hold it already.
            self.weights.data = self.estimated.clamp(min=SMALLEST_START).log().to(self.weights)

    def step(self, nets: Sequence[nn.Module], batch: Batch, clock: Clock) -> Tensor:
        """Return the mean over the votes of the global batch."""
        if batch.votes is None:
            raise no_votes("training")
        return self.loss(nets[0](batch.x), batch.votes)

    def loss(self, logits: Tensor, votes: Tensor) -> Tensor:
        """Return the mean over the votes of the global batch.

        Args:
            logits: this rank's outputs, shape ``(N, C)``.
            votes: shape ``(N, A)``, int64, -1 where annotator a gave none.
        """
        item, annotator, label = given(votes)
        log_t = self._log_transitions(votes.shape[1], logits.shape[1])
        log_probs = log_probabilities(logits)
        log_votes = log_t.transpose(1, 2)[annotator, label].to(log_probs)
        if self.together:
            per_sample = log_probs.index_add(0, item, log_votes).logsumexp(dim=1)
            # Each of a sample's votes has an equal part in its likelihood, so that the mean is over votes here, too.
            per_vote = (per_sample / (votes >= 0).sum(dim=1).clamp(min=1))[item]
        else:
            per_vote = (log_probs[item] + log_votes).logsumexp(dim=1)
        mean = global_mean(-per_vote, torch.ones_like(per_vote, dtype=torch.bool))
        if not self.learn:
            return mean
        traces = log_t.exp().diagonal(dim1=1, dim2=2).sum(dim=1)
        return mean + self.trace * traces.mean().to(mean)

    def forward(self, logits: Tensor, y: Tensor, index: Tensor) -> Tensor:
        """Refuse labels alone."""
        raise no_votes("training")

    def noisy_labels(self, probs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the probabilities of the votes on a validation batch under their annotators' T, and these votes."""
        if batch.votes is None:
            return super().noisy_labels(probs, batch)
        item, annotator, label = given(batch.votes)
        transitions = self._log_transitions(batch.votes.shape[1], probs.shape[1]).detach().exp().to(probs)
        with torch.autocast(probs.device.type, enabled=False):
            each = torch.einsum("nk,akj->naj", probs, transitions)
        return each[item, annotator], label

    def _log_transitions(self, annotators: int, num_classes: int) -> Tensor:
        """Return the logarithms of T, shape ``(A, C, C)``, finite, float64 where the device has it."""
        held = self.estimated if self.weights is None else self.weights
        if held.shape != (annotators, num_classes, num_classes):
            raise UserError(
                f"CrowdForward has no T for {annotators} annotators and {num_classes} classes: call prepare(train, held_out) "
                "with the predictions and votes of the warmed-up model first. LDMIModule does so when the stage begins."
            )
        if self.weights is not None:
            return in_float64(self.weights).log_softmax(dim=2)
        return self.estimated.clamp(min=torch.finfo(torch.float64).tiny).log()


def given(votes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return of each vote that was given its sample, its annotator and what it says, each of shape ``(M,)``.

    >>> [each.tolist() for each in given(torch.tensor([[-1, 2], [0, 1]]))]
    [[0, 1, 1], [1, 0, 1], [2, 0, 1]]
    """
    item, annotator = (votes >= 0).nonzero(as_tuple=True)
    return item, annotator, votes[item, annotator]


def no_votes(split: str) -> UserError:
    """Return the error for data of one label a sample."""
    return UserError(
        f"CrowdForward learns from several people's votes, but the {split} batches have none. Give them with --data.noise "
        "CrowdLabels --data.noise.file votes.csv, or as Batch.votes; for one label a sample there is ForwardLoss."
    )


def _resize_weights(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    saved = state_dict.get(prefix + "weights")
    assert isinstance(module, CrowdForward)
    if module.weights is not None and isinstance(saved, Tensor) and saved.shape != module.weights.shape:
        module.weights.data = module.weights.new_empty(saved.shape)
