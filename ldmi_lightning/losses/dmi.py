r"""L_DMI, the determinant-based mutual information loss (Xu, Cao, Kong, Wang, NeurIPS 2019), with a memory of U."""

from typing import Literal

import torch
from torch import Tensor

from ldmi_lightning.errors import UserError
from ldmi_lightning.joint import back_on, in_float64, is_singular, joint_matrix, log_dmi
from ldmi_lightning.losses.base import Loss, Predictions


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

    **Singular steps.** Where U has no usable determinant (:func:`ldmi_lightning.joint.is_singular`), the step
    contributes a zero that is still attached to the graph, leaves the memory alone, and is counted in
    ``singular_steps``. NaN in the logits counts as singular too, but no mask can keep it out of the gradient;
    ``LDMIModule`` stops a run whose outputs are no longer finite.

    Args:
        memory: m in [0, 1).

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
        joint.index_add_(0, train.y, train.probs.double())
        self.joint_memory = (joint / len(train.y)).to(self.joint_memory.device)

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
        with torch.autocast(outputs.device.type, enabled=False):
            joint = joint_matrix(outputs.softmax(dim=1), y)
            if self.memory > 0:
                joint = self.memory * self._memory_for(joint) + (1 - self.memory) * joint
            singular = is_singular(joint.detach())
            # U is replaced BEFORE the determinant: the gradient of a masked-out infinity would still be NaN.
            value = -log_dmi(
                torch.where(singular, torch.eye(len(joint), dtype=joint.dtype, device=joint.device), joint)
            )
            if self.training:
                self.steps += 1
                self.singular_steps += singular.to(self.singular_steps.device)
                if self.memory > 0:
                    self.joint_memory = torch.where(singular, self.joint_memory, joint.detach())
            scaled = value / (1 - self.memory)
            return back_on(scaled + (value - scaled).detach(), logits.device)

    def _memory_for(self, joint: Tensor) -> Tensor:
        if self.joint_memory.shape != joint.shape:
            raise UserError(
                f"DMILoss(memory={self.memory}) has no memory for {len(joint)} classes: call prepare(train, held_out) "
                "with the predictions of the warmed-up model first. LDMIModule does so when the stage begins."
            )
        return self.joint_memory

    def end_epoch(self) -> None:
        """Raise if every step of the epoch was singular: nothing was learnt."""
        steps, singular = int(self.steps), int(self.singular_steps)
        self.steps.zero_()
        self.singular_steps.zero_()
        if steps and singular == steps:
            # A memory bridges batches that miss a class; one of 0.9 or more has done what it can.
            remedy = "--model.robust.loss.memory 0.99 or " if self.memory < 0.9 else ""
            raise UserError(
                f"All {steps} steps of this epoch had a singular joint distribution matrix, so nothing was learnt: each "
                f"batch missed a class, or the outputs are constant or NaN. Try {remedy}a larger --data.batch_size, and "
                "see that the warm-up learns all classes."
            )
