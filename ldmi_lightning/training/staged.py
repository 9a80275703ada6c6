"""A classifier with stages: what is known of them, what a checkpoint holds, and how one is resumed, tested or loaded."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from ldmi_lightning import checkpoints
from ldmi_lightning.errors import UserError
from ldmi_lightning.runs.configuration import STAGES
from ldmi_lightning.training import nets, resume, trainer_rules
from ldmi_lightning.training.classifier import Classifier
from ldmi_lightning.training.compat import is_fast_dev_run, made_by_command_line, trainer_of
from ldmi_lightning.training.course import Course
from ldmi_lightning.training.predictions import labelled_data
from ldmi_lightning.training.stages import Progress, Stage

OBJECTS = ("backbone", "more_stages", "stages", "methods")
"""Arguments of the module and its bases that are Python objects, beside the stages."""


class StagedClassifier(Classifier):
    """A classifier that knows how far its stages have come; its checkpoints hold that, and what must agree on resume.

    Args:
        backbone: see :class:`~ldmi_lightning.training.classifier.Classifier`.
        num_classes: C.
        stages: by name, in order.
        freeze: see :class:`~ldmi_lightning.training.classifier.Classifier`.
    """

    def __init__(
        self, backbone: nn.Module | None, num_classes: int, stages: Mapping[str, Stage], freeze: Sequence[str] = ()
    ) -> None:
        super().__init__(backbone, num_classes, {name: stage.loss for name, stage in stages.items()}, freeze)
        self.stages = dict(stages)
        self.course = Course(stages, num_classes)

    @property
    def progress(self) -> Progress:
        """How far the running stage has come."""
        return self.course.progress

    @property
    def stage(self) -> Stage:
        """The running stage."""
        return self.course.stage

    @property
    def next_stage(self) -> str | None:
        """Name of the stage that follows the running one."""
        return self.course.next

    @property
    def chosen(self) -> str | None:
        """Name of the stage that held-out noisy labels chose; ``None`` before all stages have ended."""
        return self.course.chosen

    @property
    def choice(self) -> list[dict[str, Any]]:
        """Why: see :class:`~ldmi_lightning.training.selection.Choice`."""
        return self.course.choice.evidence

    def stage_summaries(self) -> dict[str, dict[str, Any]]:
        """Describe each stage begun so far.

        Returns:
            For each stage ``loss`` and ``selected_by``, the ``epochs`` run, ``best_epoch`` (from 1), ``best_score``,
            ``best_joint`` (U on the noisy validation set then) and the last ``lr``.
        """
        return self.course.summaries()

    def describe_epoch(self) -> str:
        """Name the running epoch, such as ``warmup 3/20``."""
        epoch = self.trainer.current_epoch - self.progress.first_epoch + 1
        return f"{self.progress.stage} {epoch}/{self.epochs_of(self.progress.stage)}"

    def epochs_of(self, name: str) -> int:
        """Return how many epochs a stage has at most; one in a fast_dev_run."""
        return 1 if is_fast_dev_run(self.trainer) else self.stages[name].epochs

    def start_from(self, path: str) -> None:
        """Begin with given weights: with the second stage, or with the first where the head is new."""
        given = nets.given_weights(path, self.backbone, self.num_classes)
        if given.under:
            self.print(f"warm_start: the weights under {given.under!r} in {path} are taken.")
        if given.prefix:
            self.print(f"warm_start: the names of the weights in {path} begin with {given.prefix}, which is taken off.")
        self.backbone.load_state_dict(given.weights)
        self.copy_frozen()
        if given.new_head:
            self.print(
                f"warm_start: {path} is of another number of classes: {', '.join(given.new_head)} begin anew, and "
                f"{self.course.first} is trained, too."
            )
            return
        self.progress.lr = given.lr
        self.course.begin_next(epoch=0)
        self.holds = self.progress.stage

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the stages' progress, and what the run is, into the checkpoint."""
        checkpoint[checkpoints.KEY] = {
            **self.course.state_dict(),
            "identity": self._identity(),
            "holds": self.holds,
            "class_names": self.class_names,
        }

    def _identity(self) -> dict[str, Any]:
        model = {"model.num_classes": self.num_classes, "model.backbone": type(self.backbone).__name__}
        data, settings = labelled_data(self.trainer), trainer_rules.settings_of(self.trainer)
        return resume.identity_of(model, self.stages, self.hparams, settings, data) | self.course.epochs_of_ended()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Resume a fit where the checkpoint left it; a test leaves the stages alone."""
        trainer = trainer_of(self)
        before = self.class_names
        self.take_names(checkpoint)
        if trainer is None:
            return
        # Lightning converts the module after the weights are in it: those of `64-true` would be rounded to 32 bits.
        trainer.precision_plugin.convert_module(self)
        own = self.state_dict()
        if resume.is_shared(checkpoint):
            checkpoint["state_dict"] = {name: checkpoint["state_dict"].get(name, value) for name, value in own.items()}
        if trainer.state.fn != TrainerFn.FITTING:
            self._refuse_misfit(checkpoint["state_dict"], own)
            self.follow_names(self.names_in(trainer))
            return
        self.class_names = before
        self.course.progress, self.course.choice = resume.course_of(checkpoint)
        resume.refuse_another_run(checkpoint, self._identity())
        self._refuse_misfit(checkpoint["state_dict"], own)
        if self.progress.best_weights is not None:
            self._refuse_misfit(self.progress.best_weights, self.backbone.state_dict())
        self.holds = self.progress.stage

    def _refuse_misfit(self, saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
        if self.strict_loading:
            resume.refuse_misfit(saved, own)

    def save_plain_hyperparameters(self) -> None:
        """Keep the CLI's configuration or, from Python, the plain arguments: loading an object would run code."""
        self.save_hyperparameters(ignore=[] if made_by_command_line() else [*OBJECTS, *STAGES])
        for name in [name for name, value in self.hparams.items() if not checkpoints.is_plain(value)]:
            del self.hparams[name]

    @staticmethod
    def names_in(trainer: pl.Trainer) -> list[str] | None:
        """Return the names of the classes that the Trainer's data gives."""
        return list(map(str, getattr(getattr(trainer, "datamodule", None), "class_names", []))) or None

    def follow_names(self, names: Sequence[str] | None) -> None:
        """Let outputs follow the order of the data's classes; refuse those of other names."""
        order = resume.order_of_classes(self.class_names, names)
        if order is not None and order != self.class_order:
            self.print(f"The checkpoint's classes are put into the order of the data: {', '.join(names or [])}.")
        self.class_order = order

    def take_names(self, checkpoint: Mapping[str, Any]) -> None:
        """Take from a checkpoint whose weights it holds, and the names of the classes."""
        own = checkpoint.get(checkpoints.KEY, {})
        stage = own.get("holds")
        self.holds = stage if stage in self.losses else self.holds
        self.class_names = own.get("class_names", self.class_names)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a module from a checkpoint, after the checks of the command line; see Lightning for the arguments.

        Whatever was given as a Python object (backbone, stages) is not in the checkpoint, and must be given again as a
        keyword argument.
        """
        if isinstance(checkpoint_path, str | Path) and "://" not in str(checkpoint_path):
            checkpoints.read_checkpoint(checkpoint_path)
        try:
            return super().load_from_checkpoint(checkpoint_path, *args, **{"weights_only": True, **kwargs})
        except (TypeError, RuntimeError, UserError) as error:
            lacking = r"required positional argument|[Uu]nexpected key.*losses\.|has no backbone|needs a stage to train"
            if not re.search(lacking, str(error), re.DOTALL):
                raise
            raise UserError(
                f"{checkpoint_path} holds weights, but not the Python objects that the module was made from "
                f"({str(error).split('() ')[-1]}). Pass them again: {cls.__name__}.load_from_checkpoint(path, "
                "backbone=..., warmup=..., robust=..., refine=...)."
            ) from error
