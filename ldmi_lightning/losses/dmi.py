r"""L_DMI, the determinant-based mutual information loss (Xu, Cao, Kong, Wang, NeurIPS 2019), with a memory of U."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from ldmi_lightning.errors import UserError
from ldmi_lightning.joint import (
    Factors,
    back_on,
    factorise,
    in_float64,
    inverse_columns,
    is_singular,
    joint_matrix,
    log_dmi,
)
from ldmi_lightning.losses.base import Loss, Predictions, global_mean
from ldmi_lightning.naming import few

NEVER_PREDICTED = 0.3
"""A class is never predicted if it is no sample's highest output, and its outputs come to less than so much of its labels.

The memory then begins as if so many more samples of it had been predicted as labelled. Without that, U is all but singular, and
gradients explode: of 100 classes with 40 % class-dependent noise, half of which a short warm-up was never shown, two epochs end
at 33 % accuracy, with it at 73 %, and cross-entropy's at 63 %. With 0.1 they end at 33 %, since some such classes are not found,
and with 1 at 64 %. A class that noise hides, by giving most of its samples another's label, has outputs as large as its share of
the labels, and is none of these.
"""


class DMILoss(Loss):
    r""":math:`-\log |\det U|` of the global batch, in float64 and outside autocast, on the CPU if the device has no float64.

    If noise depends on the class alone, with transition matrix T, then for every classifier
    :math:`\mathcal{L}(\text{noisy}) = \mathcal{L}(\text{clean}) - \log|\det T|` (paper, theorem 4.1): the minimiser
    does not depend on the noise. It is known up to a permutation of the outputs only, hence the warm-up.

    **Memory.** A batch's determinant is noisy, and at high noise its sign flips from batch to batch. With
    ``memory`` = m > 0 the loss is taken of :math:`U = m\, U_\mathrm{mem} + (1 - m)\, U_\mathrm{batch}`, where
    :math:`U_\mathrm{mem}` is the detached U of the step before and starts from one pass over the training set; its
    gradient is divided by :math:`1 - m`, which makes it the paper's gradient with a :math:`U^{-1}` averaged over
    about :math:`N / (1 - m)` samples. The VALUE of the loss is always :math:`-\log|\det U|` as it stands.
    ``memory=0`` is the paper's loss exactly.

    **Classes that the warm-up never predicts** leave U a column that is next to nothing, or a mixture of the others. The
    memory begins with :data:`NEVER_PREDICTED` of their labels on the diagonal, as if so many more samples had been predicted
    as labelled. That fades as :math:`m^t`, and gives the column a direction until outputs do. An output that is exactly 0
    throughout has no gradient, and is left alone.

    **Classes that no sample is labelled** are left out of U with a memory, rows and columns: what is predicted as one of
    them is lost, so that the others are.

    **Singular steps.** Where U has no usable determinant (:func:`ldmi_lightning.joint.is_singular`), the step
    contributes a zero that is still attached to the graph, leaves the memory alone, and is counted in
    ``singular_steps``. NaN in the logits counts as singular too, but no mask can keep it out of the gradient;
    ``LDMIModule`` stops a run whose outputs are no longer finite.

    **Cost.** One factorisation of U serves the value, the gradient, which needs the columns of :math:`U^{-1}` for the
    batch's labels alone, and the test for singularity. There is no second derivative: asking for one is an error.

    Args:
        memory: m in [0, 1).

    Attributes:
        never_predicted: the classes for which the memory began otherwise.

    >>> logits = torch.tensor([[9.0, -9.0], [-9.0, 9.0]])
    >>> y = torch.tensor([0, 1])
    >>> round(DMILoss()(logits, y, y).exp().item(), 4)  # U = diag(1/2, 1/2), |det U| = 1/4
    4.0
    """

    monitor = "val/log_dmi"
    mode: Literal["min", "max"] = "max"
    joint_memory: Tensor
    steps: Tensor
    singular_steps: Tensor

    def __init__(self, memory: float = 0.0) -> None:
        super().__init__()
        if not 0 <= memory < 1:
            raise UserError(f"DMILoss: memory must lie in [0, 1), but got {memory}. 0 is the paper's loss; try 0.99.")
        self.memory = memory
        self.never_predicted: list[int] = []
        self.register_buffer("joint_memory", torch.empty(0, 0, dtype=torch.float64))
        # Counts of the running epoch; they end with it, so no checkpoint holds them.
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("singular_steps", torch.zeros((), dtype=torch.int64), persistent=False)

    @property
    def needs_predictions(self) -> bool:
        """The memory starts from one pass over the training set."""
        return self.memory > 0

    @property
    def needs_whole_batch(self) -> bool:
        """A determinant of a mean is no mean of determinants; a memory makes the parts meet in U."""
        return self.memory == 0

    def extra_repr(self) -> str:
        """Show the setting."""
        return f"memory={self.memory}"

    def prepare(self, train: Predictions, held_out: Predictions) -> None:
        """Start the memory: U of the whole training set under the model selected in the stage before."""
        # `train` is already equal on all ranks: no sum over ranks here.
        joint = torch.zeros(train.probs.shape[1], train.probs.shape[1], dtype=torch.float64)
        for probs, y in zip(train.probs.split(4096), train.y.split(4096), strict=True):
            joint.index_add_(0, y, probs.double())
        never = never_predicted(joint, train.probs.argmax(dim=1))
        self.never_predicted = never.nonzero().flatten().tolist()
        more = torch.where(never, NEVER_PREDICTED * joint.sum(dim=1), 0.0)
        joint.diagonal().add_(more)
        self.joint_memory = (joint / (len(train.y) + more.sum())).to(self.joint_memory.device)

    def remark(self) -> str:
        """Name the classes for which the memory began otherwise."""
        if not self.never_predicted:
            return ""
        return (
            f"the stage before never predicts class {few(self.never_predicted)}: the memory begins as if {NEVER_PREDICTED} "
            "of their labels more had been predicted."
        )

    def check_setting(self, num_classes: int, batch_size: int) -> None:
        """Without memory, a batch smaller than C is always singular."""
        if self.memory == 0 and batch_size < num_classes:
            raise UserError(
                f"A determinant over {num_classes} classes needs a batch of at least {num_classes}, but "
                f"--data.batch_size is {batch_size}. Use --model.robust.loss.memory 0.99, or a larger --data.batch_size."
            )

    def forward(self, logits: Tensor, y: Tensor, index: Tensor) -> Tensor:
        r"""Return :math:`-\log|\det U|`; see :class:`~ldmi_lightning.losses.base.Loss` for the arguments."""
        outputs = in_float64(logits)
        y = y.to(outputs.device)
        with torch.autocast(outputs.device.type, enabled=False):
            probs = outputs.softmax(dim=1)
            with torch.no_grad():
                joint = joint_matrix(probs, y)
                more = torch.zeros_like(joint[0, 0])
                if self.memory > 0:
                    joint = torch.lerp(joint, self._memory_for(joint), self.memory)
                    added, more = leave_out_unlabelled(joint)
                factors = factorise(joint)
                singular = is_singular(joint, factors)
                value = more - log_dmi(joint, factors)
                value = torch.where(singular, torch.zeros_like(value), value)
                if self.memory > 0:
                    joint.diagonal().sub_(added)  # such entries were 0, and are again
                if self.training:
                    self.steps += 1
                    self.singular_steps += singular.to(self.singular_steps.device)
                    if self.memory > 0:
                        self.joint_memory = torch.where(singular, self.joint_memory, joint)
            if probs.requires_grad:
                value = _WithGradient.apply(value, probs, self._gradient(factors, singular, y))
            return back_on(value, logits.device)

    def _gradient(self, factors: Factors, singular: Tensor, y: Tensor) -> Tensor:
        """Return the gradient in this rank's probabilities, shape ``(N, C)``: ``-U^-1[:, y_i]`` over the global batch's size.

        It is that of the mixed U over 1 - m. DDP averages the ranks' gradients, which is why it comes from `global_mean`.
        """
        weight = global_mean(torch.ones(len(y), dtype=torch.float64, device=y.device)) / len(y)
        columns = inverse_columns(factors, y)
        return torch.where(singular, torch.zeros_like(columns), -weight * columns)

    def _memory_for(self, joint: Tensor) -> Tensor:
        if self.joint_memory.shape != joint.shape:
            raise UserError(
                f"DMILoss(memory={self.memory}) has no memory for {len(joint)} classes: call prepare(train, held_out) "
                "with the predictions of the warmed-up model first. LDMIModule does so when the stage begins."
            )
        return self.joint_memory

    def epoch_figures(self) -> dict[str, float]:
        """Return the number of singular steps."""
        return {"train/singular_steps": float(self.singular_steps)}

    def end_epoch(self) -> None:
        """Raise if every step of the epoch was singular: nothing was learnt."""
        steps, singular = int(self.steps), int(self.singular_steps)
        self.steps.zero_()
        self.singular_steps.zero_()
        if steps and singular == steps:
            raise UserError(
                f"All {steps} steps of this epoch had a singular joint distribution matrix, so nothing was learnt: "
                f"{self._why_singular()}, and see that the warm-up learns all classes."
            )

    def _why_singular(self) -> str:
        """Return what is known of the reason, and what to try."""
        if self.memory == 0:
            return (
                "each batch missed a class, or the outputs are constant or NaN. Try --model.robust.loss.memory 0.99 or a "
                "larger --data.batch_size"
            )
        # The memory bridges batches that miss a class already, so more of it is no remedy.
        labelled, predicted = self.joint_memory.sum(dim=1), self.joint_memory.sum(dim=0)
        unpredicted = (predicted < NEVER_PREDICTED * labelled).nonzero().flatten().tolist()
        if unpredicted:
            reason = f"the model that this stage began with never predicts class {few(unpredicted)}"
        else:
            reason = "the outputs do not tell some classes apart, or are constant or NaN"
        return f"{reason}. Try a longer warm-up (--model.warmup.epochs) or a larger --data.batch_size"


def never_predicted(counts: Tensor, predicted: Tensor) -> Tensor:
    """Say which classes a model never predicts, although its outputs for them are not 0: see :data:`NEVER_PREDICTED`.

    Args:
        counts: U times the number of samples, shape ``(C, C)``.
        predicted: the classes of the highest outputs, shape ``(N,)``.

    Returns:
        bool, shape ``(C,)``.

    >>> never_predicted(torch.tensor([[2.2, 0.8], [2.8, 0.2]]), torch.tensor([0, 0, 0, 0, 0, 0]))  # 1.0 of 3
    tensor([False, False])
    >>> never_predicted(torch.tensor([[2.9, 0.1], [2.9, 0.1]]), torch.tensor([0, 0, 0, 0, 0, 0]))  # 0.2 of 3
    tensor([False,  True])
    """
    columns, rows = counts.sum(dim=0), counts.sum(dim=1)
    never = predicted.bincount(minlength=len(counts)) == 0
    return never & (columns > 0) & (columns < NEVER_PREDICTED * rows)


def leave_out_unlabelled(joint: Tensor) -> tuple[Tensor, Tensor]:
    """Leave the classes out of a determinant that no sample is labelled: their rows of U get 1/C on the diagonal, in place.

    Along such a row only that entry counts, whatever the column holds; the inverse is that of the other classes' part. No host
    sync is needed, and where nothing is left out U stays as it is, bit for bit.

    Args:
        joint: U, shape ``(C, C)``.

    Returns:
        What was added to the diagonal, shape ``(C,)``, and what ``log |det|`` has too much by it.

    >>> joint = torch.tensor([[0.25, 0.5], [0.0, 0.0]]).double()
    >>> added, more = leave_out_unlabelled(joint)
    >>> joint.tolist(), round(more.exp().item(), 6)  # |det| = 0.25 * 0.5
    ([[0.25, 0.5], [0.0, 0.5]], 0.5)
    """
    unlabelled = (joint.sum(dim=1) == 0).to(joint.dtype)
    added = unlabelled / len(joint)
    joint.diagonal().add_(added)
    return added, unlabelled.sum() * math.log(1 / len(joint))


class _WithGradient(torch.autograd.Function):
    """A value whose gradient in ``inputs`` is known; it has no second derivative."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, inputs: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        # PyTorch's `once_differentiable` lets a second derivative of the first input pass, as a silent 0.
        if torch.is_grad_enabled():
            raise UserError(
                "DMILoss has no second derivative, which create_graph=True asks for. Take its gradient without it, or "
                "another loss."
            )
        (gradient,) = ctx.saved_tensors
        return None, grads[0] * gradient, None
