"""What a stage is, and how far a run has come through its stages."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import Loss

STAGES = ("warmup", "robust", "refine")
"""Names of the stages, in their order."""


@dataclass
class Stage:
    """One stage of training: a loss, how long and how it is optimised, and what selects its best epoch.

    Attributes:
        loss: what is minimised.
        epochs: how many epochs at most, at least 1.
        optimizer: makes the stage's optimizer from the parameters; ``None`` takes the warm-up's at its last learning
            rate (Adam at 1e-3 where that has none).
        scheduler: makes the learning rate's scheduler, stepped once an epoch; ``None`` for a constant rate.
        monitor: logged value that selects the best epoch; ``None`` takes the loss's own.
        mode: whether more or less of ``monitor`` is better; ``None`` takes the loss's own.
        patience: end the stage after this many epochs without a better ``monitor``; ``None`` for never.
    """

    loss: Loss
    epochs: int
    optimizer: OptimizerCallable | None = None
    scheduler: LRSchedulerCallable | None = None
    monitor: str | None = None
    mode: Literal["min", "max"] | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        """Check what can be checked, and fill in the loss's own monitor."""
        if not isinstance(self.loss, Loss):
            raise UserError(f"A stage's loss must be an ldmi_lightning.losses.Loss, but got {self.loss!r}.")
        if not isinstance(self.epochs, int) or self.epochs < 1:
            raise UserError(f"A stage needs a whole number of epochs and at least 1, but epochs is {self.epochs!r}.")
        if self.patience is not None and self.patience < 1:
            raise UserError(f"patience must be at least 1 epoch or null, but got {self.patience}.")
        if (self.monitor is None) != (self.mode is None):
            raise UserError(
                f"monitor and mode go together, but got monitor {self.monitor!r} and mode {self.mode!r}: give both or none."
            )

    @property
    def selected_by(self) -> str:
        """Name of the value that selects the best epoch."""
        return self.monitor or self.loss.monitor

    @property
    def selecting_mode(self) -> Literal["min", "max"]:
        """Whether more or less of :attr:`selected_by` is better."""
        return self.mode or self.loss.mode

    def better(self, score: float, best: float | None) -> bool:
        """Whether ``score`` beats ``best``; the earlier epoch wins a tie, and NaN never wins."""
        if best is None:
            return score == score
        return score > best if self.selecting_mode == "max" else score < best


@dataclass
class Progress:
    """How far the running stage has come. Plain values and CPU tensors, since it travels in the checkpoint.

    Attributes:
        stage: name of the running stage.
        first_epoch: the Trainer's epoch (from 0) in which the stage began.
        epochs: epochs finished in this stage.
        best_epoch: the stage's best epoch, counted from 1; ``None`` before the first validation.
        best_score: its score.
        best_weights: the backbone's state dict then, on the CPU.
        best_joint: U on the noisy validation set then, float64 ``(C, C)``, on the CPU.
        over: whether the stage has ended.
        lr: learning rate of the running or last epoch.
        last_score: score of the running epoch; ``None`` before its validation.
        finished: for each stage that a later one has followed: its :meth:`summary`.
    """

    stage: str
    first_epoch: int = 0
    epochs: int = 0
    best_epoch: int | None = None
    best_score: float | None = None
    best_weights: dict[str, Tensor] | None = None
    best_joint: Tensor | None = None
    over: bool = False
    lr: float | None = None
    last_score: float | None = None
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Return what the results say of the running stage."""
        return {
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "best_joint": self.best_joint,
            "lr": self.lr,
        }

    def select(self, stage: Stage, score: float, epoch: int, weights: Mapping[str, Tensor], joint: Tensor) -> bool:
        """Take the weights if ``score`` is the stage's best so far; return whether it was.

        Args:
            stage: the running stage.
            score: the monitored value over the whole validation set.
            epoch: the Trainer's epoch, from 0.
            weights: the backbone's state dict.
            joint: U on the whole validation set.
        """
        self.last_score = score
        if not stage.better(score, self.best_score):
            return False
        self.best_score, self.best_epoch = score, epoch - self.first_epoch + 1
        self.best_joint = joint.cpu()
        self.best_weights = {name: value.detach().cpu().clone() for name, value in weights.items()}
        return True

    def end_epoch(self, stage: Stage, epoch: int, epochs: int) -> None:
        """Count the Trainer's epoch (from 0) as run, and see whether the stage, of ``epochs`` at most, is over."""
        self.last_score = None
        self.epochs = epoch - self.first_epoch + 1
        waited = self.epochs - self.best_epoch if self.best_epoch is not None else 0
        self.over = self.epochs >= epochs or (stage.patience is not None and waited >= stage.patience)

    def following(self, stage: str, epoch: int) -> "Progress":
        """Return the progress of the next stage, which begins in the Trainer's ``epoch``."""
        return Progress(stage, first_epoch=epoch, finished={**self.finished, self.stage: self.summary()})

    def state_dict(self) -> dict[str, Any]:
        """Return plain types and tensors only."""
        return asdict(self)
