"""How far a fit has come through its stages, and which it will keep; no Lightning in it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ldmi_lightning.training import schedule
from ldmi_lightning.training.evaluation import HeldOut
from ldmi_lightning.training.selection import Choice
from ldmi_lightning.training.stages import Progress, Stage, option_of


class Course:
    """The stages of a fit, in order, the running one's progress, and the choice between those that have ended.

    Args:
        stages: by name, in order.
        num_classes: C.
    """

    def __init__(self, stages: Mapping[str, Stage], num_classes: int) -> None:
        self.stages = dict(stages)
        self.num_classes = num_classes
        self.begin()

    def begin(self) -> None:
        """Stand at the beginning of the first stage."""
        self.progress = Progress(self.first)
        self.choice = Choice()

    @property
    def first(self) -> str:
        """Name of the first stage."""
        return next(iter(self.stages))

    @property
    def stage(self) -> Stage:
        """The running stage."""
        return self.stages[self.progress.stage]

    @property
    def next(self) -> str | None:
        """Name of the stage that follows the running one."""
        return schedule.following(list(self.stages), self.progress.stage)

    @property
    def has_ended(self) -> bool:
        """Whether the last stage is over."""
        return self.progress.over and self.next is None

    @property
    def chosen(self) -> str | None:
        """Name of the stage that is kept; ``None`` before all have ended."""
        return self.choice.kept.stage if self.has_ended and self.choice.kept is not None else None

    @property
    def first_stage_lr(self) -> float | None:
        """The learning rate of the first stage's last epoch; ``None`` where it is not over, or was never run."""
        lr: float | None = self.progress.finished.get(self.first, {}).get("lr")
        return lr

    def total_epochs(self, at_most: Mapping[str, int]) -> int:
        """Return how many epochs the fit has at most, given those of each stage."""
        now = self.progress
        return schedule.total_epochs(at_most, now.stage, now.first_epoch, now.epochs, now.over)

    def begin_next(self, epoch: int) -> None:
        """Begin the next stage in the Trainer's ``epoch``, from 0."""
        assert self.next is not None
        self.progress = self.progress.following(self.next, epoch)

    def select(self, score: float, epoch: int, held_out: HeldOut, weights: Any, state: Mapping[str, Tensor]) -> bool:
        """Take a validation's weights if they are the running stage's best; see :meth:`Progress.select`."""
        return self.progress.select(self.stage, score, epoch, weights, held_out.joint, state, held_out.decisions)

    def end_epoch(self, epoch: int, at_most: int, stopped: bool) -> None:
        """Count an epoch, from 0, of a stage with so many at most, which something else may have ``stopped``."""
        self.progress.end_epoch(self.stage, epoch, at_most)
        if self.progress.over or stopped:
            self.end_stage()

    def end_stage(self) -> None:
        """End the running stage, and see whether it is kept."""
        self.progress.over = True
        self.choice.consider(self.progress.snapshot(), self.num_classes)

    def why_from(self) -> str:
        """Say from what the next stage begins."""
        name, said = self.progress.stage, self.progress.summary()
        if said["best_epoch"] is None:
            return f"the last weights of {name}, which never saw a validation"
        best, score = said["best_epoch"], said["best_score"]
        return f"the weights of {name} epoch {best}, the best by {self.stage.selected_by} ({score:.4g})"

    def summaries(self) -> dict[str, dict[str, Any]]:
        """Describe each stage begun so far: see :meth:`ldmi_lightning.LDMIModule.stage_summaries`."""
        known = {**self.progress.finished, self.progress.stage: self.progress.summary()}
        return {
            name: {
                "loss": type(self.stages[name].loss).__name__,
                "selected_by": self.stages[name].selected_by,
                "mode": self.stages[name].selecting_mode,
                **summary,
            }
            for name, summary in known.items()
        }

    def epochs_of_ended(self) -> dict[str, int]:
        """Return the epochs that were asked of the stages which have ended: these cannot change any more."""
        ended = [*self.progress.finished, *([self.progress.stage] if self.progress.over else [])]
        return {f"{option_of(name)}.epochs": self.stages[name].epochs for name in ended if name in self.stages}

    def state_dict(self) -> dict[str, Any]:
        """Return plain types and tensors only."""
        return {"progress": self.progress.state_dict(), "choice": self.choice.state_dict()}
