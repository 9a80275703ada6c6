"""What U says of how well L_DMI is doing: figures of a validation, signs of training steps, and what to do about them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ldmi_lightning.joint import SINGULAR_RCOND, dmi_normalised, judged
from ldmi_lightning.naming import few
from ldmi_lightning.ranks import sum_over_ranks

SINGULAR_SHARE = 0.1
"""From this share of singular steps on, a line says so."""
FLIPPED_SHARE = 0.25
"""From this share of steps whose det U has another sign than the epoch's on, a line says so; one half is a toss of a coin."""
FALLEN = 0.5
"""Below this share of the run's best normalised DMI, a line says so."""
KEPT_ENTRIES = 2**16
"""Matrices of training steps are kept until they have so many entries (half a megabyte), and are then looked at together."""
MEMORY = "DMILoss(memory=0.9) (--model.robust.loss.memory 0.9)"
"""The remedy of most ills, in Python and on the command line."""


class Health(NamedTuple):
    """What U on the validation set says of a model; classes without a label there are left out, and NaN stays NaN.

    Attributes:
        rank: number of singular values above ``SINGULAR_RCOND`` times the largest.
        smallest_singular_value: of U.
        dmi_normalised: see :func:`ldmi_lightning.joint.dmi_normalised`.
        det_sign: of det U: 1, -1, or 0 where its rank is below the number of classes.
        missing: classes that are labelled, but predicted for no sample.
    """

    rank: int
    smallest_singular_value: float
    dmi_normalised: float
    det_sign: int
    missing: tuple[int, ...]


def health_of(counts: Tensor, predicted: Tensor) -> Health:
    """Look at U.

    Args:
        counts: N times U, float64, shape ``(C, C)``, on the CPU; row = noisy label, column = prediction.
        predicted: how often each class is the likeliest, shape ``(C,)``.

    >>> health_of(torch.eye(2).double(), torch.tensor([1, 1]))
    Health(rank=2, smallest_singular_value=0.5, dmi_normalised=1.0, det_sign=1, missing=())
    >>> poor = health_of(torch.tensor([[1.0, 0.0], [1.0, 0.0]]).double(), torch.tensor([2, 0]))
    >>> poor.rank, poor.det_sign, poor.missing, poor.dmi_normalised < 1e-300
    (1, 0, (1,), True)
    """
    if not bool(torch.isfinite(counts).all()):
        return Health(0, math.nan, math.nan, 0, ())
    joint, shares = judged(counts / counts.sum())
    values = torch.linalg.svdvals(joint)
    rank = int((values > SINGULAR_RCOND * values[0]).sum())
    sign = int(torch.linalg.slogdet(joint).sign) if rank == len(joint) else 0
    missing = ((counts.sum(dim=1) > 0) & (predicted == 0)).nonzero().flatten().tolist()
    return Health(rank, values[-1].item(), dmi_normalised(joint, shares).item(), sign, tuple(missing))


class Steps(NamedTuple):
    """What an epoch's training steps say, as far as there are any.

    Attributes:
        singular: share of the steps that had a singular U; ``None`` without a loss that counts them.
        flipped: share of the steps whose det U had another sign than that of U over all; ``None`` where no step had one.
        memory: the smallest memory of a loss that counts; ``None`` without one.
    """

    singular: float | None = None
    flipped: float | None = None
    memory: float | None = None


def complaints(health: Health, steps: Steps, best: float, names: Sequence[str] = ()) -> dict[str, str]:
    """Return what goes wrong under L_DMI, by kind, each in words and with what has been seen to help.

    Args:
        health: of the validation.
        steps: of the epoch's training steps; without L_DMI among them nothing is complained of.
        best: normalised DMI of the best validation so far.
        names: of the classes; their numbers where there are none.

    >>> good = Health(10, 0.1, 0.9, 1, ())
    >>> complaints(good, Steps(singular=0.0, flipped=0.0, memory=0.9), best=0.9)
    {}
    >>> complaints(good, Steps(singular=0.95, memory=0.0), best=0.9)["singular"]
    '95% of the steps had a singular U and taught nothing. Try DMILoss(memory=0.9) (--model.robust.loss.memory 0.9).'
    """
    if steps.singular is None:
        return {}
    found = {}
    remedy = f" Try {MEMORY}." if steps.memory == 0 else ""
    if steps.singular >= SINGULAR_SHARE:
        found["singular"] = f"{steps.singular:.0%} of the steps had a singular U and taught nothing.{remedy}"
    elif steps.flipped is not None and steps.flipped >= FLIPPED_SHARE:
        found["flipped"] = (
            f"in {steps.flipped:.0%} of the steps det U had the wrong sign, so that they undid others.{remedy}"
        )
    if health.dmi_normalised < FALLEN * best:
        found["fallen"] = (
            f"normalised DMI has fallen from {best:.3g} to {health.dmi_normalised:.3g}. Try a tenth of the learning rate "
            "(--model.robust.optimizer.lr)."
        )
    elif health.missing:
        listed = few(names[label] if names else label for label in health.missing)
        found["missing"] = (
            f"no validation sample is predicted to be {listed}. Try a longer warm-up (--model.warmup.epochs)"
            f"{', and ' + MEMORY if steps.memory == 0 else ''}."
        )
    return found


class Signs:
    """On which side of 0 the determinants of an epoch's training steps lie, counted on the device.

    >>> signs = Signs()
    >>> for joint in (torch.eye(2), torch.eye(2), torch.eye(2).flip(0), torch.zeros(2, 2)):
    ...     signs.add(joint.double(), is_global=False)
    >>> round(signs.share_flipped(), 4)  # of the three that have a sign
    0.3333
    """

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self._is_global = True
        self._total: Tensor | None = None
        self._counts: Tensor | None = None

    def add(self, joint: Tensor, is_global: bool) -> None:
        """Take a step's U, or any multiple of it; ``is_global`` where the ranks have been summed over."""
        self._kept.append(joint)
        self._is_global = is_global
        if len(self._kept) * joint.numel() >= KEPT_ENTRIES:
            self._look()

    def _look(self) -> None:
        joints = torch.stack(self._kept)
        self._kept = []
        if self._is_global:
            # A class without a label is no reason for a determinant of 0: a loss with a memory leaves it out.
            joints = joints + torch.diag_embed((joints.sum(dim=2) == 0).to(joints.dtype))
        else:
            joints = sum_over_ranks(joints)
        signs = torch.linalg.slogdet(joints).sign
        counts = torch.stack([(signs > 0).sum(), (signs < 0).sum()])
        self._counts = counts if self._counts is None else self._counts + counts
        total = joints.sum(dim=0)
        self._total = total if self._total is None else self._total + total

    def share_flipped(self) -> float | None:
        """Return the share of steps whose sign is not that of all steps' sum; ``None`` where no step had a sign."""
        if self._kept:
            self._look()
        if self._counts is None or self._total is None or not int(self._counts.sum()):
            return None
        agree, differ = self._counts if torch.linalg.slogdet(self._total).sign > 0 else self._counts.flip(0)
        return int(differ) / int(agree + differ)
