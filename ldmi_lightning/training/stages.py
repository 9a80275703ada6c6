"""What a stage is, and how far a run has come through its stages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.method import Method
from ldmi_lightning.runs.configuration import STAGES
from ldmi_lightning.training.schedule import is_over
from ldmi_lightning.training.selection import Snapshot, beats


@dataclass
class Stage:
    """One stage of training: a loss, how long and how it is optimised, and what selects its best epoch.

    Attributes:
        loss: what is minimised: a :class:`~ldmi_lightning.losses.Loss`, or any other :class:`~ldmi_lightning.Method`.
        epochs: how many epochs at most, at least 1.
        optimizer: makes the stage's optimizer from the parameters; ``None`` takes the warm-up's at its last learning
            rate (Adam at 1e-3 where that has none).
        scheduler: makes the learning rate's scheduler, stepped as ``interval`` says; ``None`` for a constant rate.
        monitor: logged value that selects the best epoch; ``None`` takes the loss's own.
        mode: whether more or less of ``monitor`` is better; ``None`` takes the loss's own.
        patience: end the stage after this many epochs without a better ``monitor``; ``None`` for never.
        interval: step the scheduler after each ``"epoch"``, or after each ``"step"`` of the optimizer.
            :class:`~ldmi_lightning.schedulers.WarmupCosine` is stepped after each step whatever this says.
    """

    loss: Method
    epochs: int
    optimizer: OptimizerCallable | None = None
    scheduler: LRSchedulerCallable | None = None
    monitor: str | None = None
    mode: Literal["min", "max"] | None = None
    patience: int | None = None
    interval: Literal["epoch", "step"] = "epoch"

    def __post_init__(self) -> None:
        """Check what can be checked, and fill in the loss's own monitor."""
        if not isinstance(self.loss, Method):
            raise UserError(
                f"A stage's loss must be an ldmi_lightning.losses.Loss or another ldmi_lightning.Method, but got {self.loss!r}."
            )
        if not isinstance(self.epochs, int) or self.epochs < 1:
            raise UserError(f"A stage needs a whole number of epochs and at least 1, but epochs is {self.epochs!r}.")
        if self.patience is not None and self.patience < 1:
            raise UserError(f"patience must be at least 1 epoch or null, but got {self.patience}.")
        if self.interval not in ("epoch", "step"):
            raise UserError(f"interval must be epoch or step, but got {self.interval!r}.")
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
        best_state: the state of the second net and of the loss then, on the CPU, by their names in the module.
        best_decisions: the classes predicted on the noisy validation set then, and its labels, int64 ``(2, N)``.
        best_joint: U on the noisy validation set then, float64 ``(C, C)``, on the CPU.
        over: whether the stage has ended.
        lr: learning rate at which the running or last epoch began.
        last_score: score of the running epoch; ``None`` before its validation.
        finished: for each stage that a later one has followed: its :meth:`summary`.
        history: what each epoch of the run has come to: ``epoch`` from 0, ``stage``, and what was logged, by name.
    """

    stage: str
    first_epoch: int = 0
    epochs: int = 0
    best_epoch: int | None = None
    best_score: float | None = None
    best_weights: dict[str, Tensor] | None = None
    best_state: dict[str, Tensor] = field(default_factory=dict)
    best_decisions: Tensor | None = None
    best_joint: Tensor | None = None
    over: bool = False
    lr: float | None = None
    last_score: float | None = None
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return what the results say of the running stage."""
        return {
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "best_joint": self.best_joint,
            "lr": self.lr,
        }

    def select(
        self,
        stage: Stage,
        score: float,
        epoch: int,
        weights: Mapping[str, Tensor],
        joint: Tensor,
        state: Mapping[str, Tensor] | None = None,
        decisions: Tensor | None = None,
    ) -> bool:
        """Take the weights if ``score`` is the stage's best so far; return whether it was.

        Args:
            stage: the running stage.
            score: the monitored value over the whole validation set.
            epoch: the Trainer's epoch, from 0.
            weights: the backbone's state dict.
            joint: U on the whole validation set.
            state: what else the best epoch consists of: the second net and the loss's state.
            decisions: see :attr:`best_decisions`.
        """
        self.last_score = score
        if not beats(score, self.best_score, stage.selecting_mode):
            return False
        self.best_score, self.best_epoch = score, epoch - self.first_epoch + 1
        self.best_joint = joint.cpu()
        self.best_weights, self.best_state = _copies(weights), _copies(state or {})
        self.best_decisions = decisions
        return True

    def end_epoch(self, stage: Stage, epoch: int, epochs: int) -> None:
        """Count the Trainer's epoch (from 0) as run, and see whether the stage, of ``epochs`` at most, is over."""
        self.last_score = None
        self.epochs = epoch - self.first_epoch + 1
        self.over = is_over(self.epochs, epochs, self.best_epoch, stage.patience)

    def snapshot(self) -> Snapshot:
        """Return what the choice between stages needs of this one, which has ended."""
        second = {name: value for name, value in self.best_state.items() if name.startswith(SECOND)}
        return Snapshot(self.stage, self.best_weights, second, self.best_decisions)

    def following(self, stage: str, epoch: int) -> "Progress":
        """Return the progress of the next stage, which begins in the Trainer's ``epoch``."""
        finished = {**self.finished, self.stage: self.summary()}
        return Progress(stage, first_epoch=epoch, finished=finished, history=self.history)

    def record(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Keep what the Trainer's epoch (from 0) has come to, in the place of what is known of it and of later ones."""
        earlier = [row for row in self.history if row["epoch"] < epoch]
        self.history = [*earlier, {"epoch": epoch, "stage": self.stage, **figures}]

    def state_dict(self) -> dict[str, Any]:
        """Return plain types and tensors only."""
        return dict(vars(self))


SECOND = "second_backbone."
"""What the names of the second net's weights begin with."""


def _copies(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in weights.items()}


def option_of(name: str) -> str:
    """Return the option under which a stage stands in a configuration.

    >>> option_of("robust"), option_of("polish")
    ('model.robust', 'model.more_stages.polish')
    """
    return f"model.{name}" if name in STAGES else f"model.more_stages.{name}"


def name_stages(
    warmup: Stage | None, robust: Stage | None, refine: Stage | None, more_stages: Mapping[str, Stage] | None
) -> dict[str, Stage]:
    """Return all stages by name, in order; refuse names that cannot be told apart, or stand in a file's name.

    >>> from ldmi_lightning.losses import CELoss
    >>> list(name_stages(Stage(CELoss(), 1), None, None, {"polish": Stage(CELoss(), 1)}))
    ['warmup', 'polish']
    """
    named = dict(zip(STAGES, (warmup, robust, refine), strict=True))
    stages = {name: stage for name, stage in named.items() if stage is not None}
    for name, stage in (more_stages or {}).items():
        if name in STAGES or not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise UserError(
                f"more_stages has a stage called {name!r}: take another name, of letters, digits and underscores, and none of "
                f"{', '.join(STAGES)}."
            )
        stages[name] = stage
    if not stages:
        raise UserError("A model needs a stage to train: give --model.warmup, --model.robust or --model.more_stages.")
    return stages
