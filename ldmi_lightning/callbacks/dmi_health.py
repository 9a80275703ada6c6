"""DMIHealth: logs how well L_DMI is doing in anyone's Trainer, and says once what goes wrong and what helps."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ldmi_lightning.callbacks.health import Health, Signs, Steps, complaints, health_of
from ldmi_lightning.callbacks.progress_bar import InStages, name_epoch
from ldmi_lightning.joint import EXACT_CLASSES, in_float64, joint_sum
from ldmi_lightning.ranks import sum_over_ranks

RARE = 16
"""Above ``EXACT_CLASSES`` classes, one in so many training steps is looked at: a factorisation costs what a step costs."""


@runtime_checkable
class Counting(Protocol):
    """A loss that counts its steps, as :class:`~ldmi_lightning.losses.DMILoss` does: called with logits and labels."""

    memory: float
    joint_memory: Tensor
    steps: Tensor
    singular_steps: Tensor


class DMIHealth(Callback):
    """Log how well L_DMI is doing, and say once in each stage, in a line, what goes wrong and what helps.

    For anyone's module whose ``validation_step`` returns a dict with ``"probs"``, softmax outputs ``(N, C)``, and ``"y"``,
    noisy labels ``(N,)``, as ``LDMIModule``'s does. Logged of each validation, with ``log_dict``, are

    - ``health/rank``, ``health/smallest_singular_value``, ``health/dmi_normalised`` and ``health/det_sign`` of U on the
      validation set, and ``health/missing_classes``, the number of classes that no sample is predicted to be
      (:class:`Health`);
    - of the epoch's training steps with a :class:`~ldmi_lightning.losses.DMILoss` anywhere in the module:
      ``health/singular_share``, the share that had a singular U, and ``health/sign_flips``, the share whose det U had another
      sign than that of U over the whole epoch. U is the matrix that the gradient is taken of: with a memory it is the mixed
      one. A module without such a loss has its signs counted where ``training_step`` returns ``"probs"`` and ``"y"`` beside
      ``"loss"``.

    Nothing waits for a GPU before the validation.
    """

    def __init__(self) -> None:
        self._counts: Tensor | None = None
        self._predicted: Tensor | None = None
        self._losses: list[Counting] = []
        self._handles: list[RemovableHandle] = []
        self._called: tuple[Counting, Tensor, Tensor] | None = None
        self._signs = Signs()
        self._before: list[tuple[Tensor, Tensor]] = []
        self._told: list[str] = []
        self._best = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget an earlier fit; a checkpoint's state comes after this."""
        if stage == "fit":
            self._told, self._best = [], 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return what has been said, and the best normalised DMI: plain values."""
        return {"told": list(self._told), "best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take both from a checkpoint, so that a resumed run says nothing twice."""
        self._told, self._best = list(state_dict["told"]), float(state_dict["best"])

    # -- training steps -----------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to the losses that count their steps."""
        self._losses = [each for each in pl_module.modules() if isinstance(each, Counting)]
        self._handles = [
            loss.register_forward_hook(self._listen) for loss in self._losses if isinstance(loss, nn.Module)
        ]

    def _listen(self, loss: Any, args: tuple[Any, ...], output: Any) -> None:
        if loss.training and len(args) >= 2:
            self._called = (loss, args[0].detach(), args[1])

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the epoch's counts."""
        self._signs = Signs()
        self._before = [(loss.steps.clone(), loss.singular_steps.clone()) for loss in self._losses]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep U of the step."""
        called, self._called = self._called, None
        if called is not None:
            loss, logits, y = called
            classes = logits.shape[1]
        elif isinstance(outputs, Mapping) and {"probs", "y"} <= outputs.keys():
            classes = outputs["probs"].shape[1]
        else:
            return
        if classes > EXACT_CLASSES and batch_idx % RARE:
            return
        if called is None:
            self._signs.add(joint_sum(outputs["probs"], outputs["y"]), is_global=False)
        elif loss.memory > 0:
            self._signs.add(loss.joint_memory.clone(), is_global=True)
        else:
            self._signs.add(joint_sum(in_float64(logits).softmax(dim=1), y), is_global=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._losses = [], []

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Listen no longer."""
        self.on_train_end(trainer, pl_module)

    # -- validation ---------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the sums."""
        self._counts = self._predicted = None

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any, **__: Any
    ) -> None:
        """Add a batch to U."""
        if trainer.sanity_checking or not (isinstance(outputs, Mapping) and {"probs", "y"} <= outputs.keys()):
            return
        probs = outputs["probs"]
        counts = joint_sum(probs, outputs["y"])
        ones = counts.new_ones(len(probs))
        predicted = counts.new_zeros(len(counts)).index_add(0, probs.argmax(dim=1).to(counts.device), ones)
        self._counts = counts if self._counts is None else self._counts + counts
        self._predicted = predicted if self._predicted is None else self._predicted + predicted

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the figures over all batches and ranks, and say what has become worse."""
        if self._counts is None or self._predicted is None:
            return
        health = health_of(sum_over_ranks(self._counts).cpu(), sum_over_ranks(self._predicted).cpu())
        fitting = trainer.state.fn == TrainerFn.FITTING
        steps = self._of_steps() if fitting else Steps()
        figures = {
            "health/rank": health.rank,
            "health/smallest_singular_value": health.smallest_singular_value,
            "health/dmi_normalised": health.dmi_normalised,
            "health/det_sign": health.det_sign,
            "health/missing_classes": len(health.missing),
            "health/singular_share": steps.singular,
            "health/sign_flips": steps.flipped,
        }
        pl_module.log_dict({name: float(value) for name, value in figures.items() if value is not None}, sync_dist=True)
        if fitting:
            self._say(trainer, pl_module, health, steps)

    def _of_steps(self) -> Steps:
        flipped = self._signs.share_flipped()
        singular = taken = 0
        memories = []
        for loss, (steps, singular_steps) in zip(self._losses, self._before, strict=True):
            if int(loss.steps) > int(steps):
                taken += int(loss.steps) - int(steps)
                singular += int(loss.singular_steps) - int(singular_steps)
                memories.append(loss.memory)
        return Steps(singular / taken, flipped, min(memories)) if taken else Steps(flipped=flipped)

    def _say(self, trainer: pl.Trainer, module: pl.LightningModule, health: Health, steps: Steps) -> None:
        names = list(map(str, getattr(getattr(trainer, "datamodule", None), "class_names", [])))
        epoch = name_epoch(trainer)
        stage = epoch.rpartition(" ")[0] if isinstance(module, InStages) else ""
        for kind, line in complaints(health, steps, self._best, names).items():
            if f"{stage}/{kind}" not in self._told:
                self._told.append(f"{stage}/{kind}")
                module.print(f"{epoch}: {line}")
        self._best = max(self._best, health.dmi_normalised)
