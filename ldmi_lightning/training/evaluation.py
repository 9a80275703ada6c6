"""What an epoch says of the whole validation or test set: sums over all batches and ranks first, and then the figures."""

from typing import NamedTuple

import torch
from torch import Tensor

from ldmi_lightning.decisions import decision_scores
from ldmi_lightning.joint import dmi_normalised, float64_device, joint_sum, judged, log_dmi
from ldmi_lightning.ranks import gather_over_ranks, sum_over_ranks

SMALLEST_LIKELIHOOD = torch.finfo(torch.float32).tiny
"""What ``val/nll`` takes an output of 0 for, so that a single sample cannot make it infinite."""
DMI_NAMES = ("val/log_dmi", "val/dmi", "val/dmi_normalised")
"""The figures that judge the classes alone which have validation samples."""


class HeldOut(NamedTuple):
    """A validation of the whole noisy validation set, equal on all ranks.

    Attributes:
        figures: ``val/acc``, ``val/nll``, ``val/log_dmi``, ``val/dmi``, ``val/dmi_normalised``.
        joint: U, float64, shape ``(C, C)``.
        decisions: predicted classes and labels, int64, shape ``(2, N)``, on the CPU; in index order where the data tells it.
    """

    figures: dict[str, float]
    joint: Tensor
    decisions: Tensor

    def decision_score(self) -> float:
        """Return the mean score of the decisions; see :func:`ldmi_lightning.decisions.decision_scores`."""
        predicted, y = self.decisions.numpy()
        return float(decision_scores(predicted, y, len(self.joint)).mean())


class HeldOutSums:
    """The sums of a validation on this rank; no buffers, since DDP would copy rank 0's over the others'."""

    def __init__(self) -> None:
        self.joint: Tensor | None = None
        self.likelihoods: list[Tensor] = []
        self.decisions: list[Tensor] = []

    def add(self, probs: Tensor, noisy_probs: Tensor, noisy: Tensor, y: Tensor, index: Tensor) -> None:
        """Add a batch.

        Args:
            probs: softmax outputs, shape ``(N, C)``.
            noisy_probs: what the method takes for the probabilities of M noisy labels, shape ``(M, C)``.
            noisy: these labels, shape ``(M,)``.
            y: labels, shape ``(N,)``.
            index: positions in the split, shape ``(N,)``; -1 where unknown.
        """
        joint = joint_sum(probs, y)
        self.joint = joint if self.joint is None else self.joint + joint
        self.likelihoods.append(noisy_probs.gather(1, noisy[:, None]))
        self.decisions.append(torch.stack([index, probs.argmax(dim=1), y]))

    def compute(self, num_classes: int, device: torch.device) -> HeldOut:
        """Return the figures over all batches and ranks; every rank calls it, also one that saw no batch."""
        nothing = torch.empty(3, 0, dtype=torch.int64, device=device)
        index, predicted, y = gather_over_ranks(torch.cat([nothing, *self.decisions], dim=1).T).cpu().T
        decisions = torch.stack([predicted, y])[:, index.argsort(stable=True)]
        place = float64_device(device)
        likelihoods = torch.cat([torch.empty(0, 1, device=device), *self.likelihoods]).to(place).double()
        nll = sum_over_ranks(-likelihoods.clamp_min(SMALLEST_LIKELIHOOD).log().sum())
        judged_labels = sum_over_ranks(torch.tensor(len(likelihoods), device=device))
        joint = torch.zeros(num_classes, num_classes, dtype=torch.float64) if self.joint is None else self.joint
        joint = sum_over_ranks(joint.to(place)).cpu()
        joint = joint / joint.sum()
        part, shares = judged(joint)
        return HeldOut(
            {
                "val/acc": (predicted == y).double().mean().item(),
                "val/nll": nll.item() / max(int(judged_labels), 1),
                "val/log_dmi": log_dmi(part).item(),
                "val/dmi": log_dmi(part).exp().item(),
                "val/dmi_normalised": dmi_normalised(part, shares).item(),
            },
            joint,
            decisions,
        )


def accuracies(confusion: Tensor) -> dict[str, float]:
    """Return accuracy and balanced accuracy: the mean recall of the classes that are present.

    Args:
        confusion: counts, shape ``(C, C)``, row = true class, column = prediction.

    >>> accuracies(torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    {'test/acc': 0.8333333333333334, 'test/balanced_acc': 0.875}
    """
    hits, totals = confusion.diagonal().double(), confusion.sum(dim=1).double()
    present = totals > 0
    return {
        "test/acc": float(hits.sum() / totals.sum()),
        "test/balanced_acc": float((hits[present] / totals[present]).mean()),
    }
