"""LDMIModule: a backbone, and the stages that train it, in one ``trainer.fit``."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from ldmi_lightning import cpu_speed
from ldmi_lightning.method import Clock
from ldmi_lightning.seeding import NOT_SEEDED, base_seed, derived_seed, is_seeded
from ldmi_lightning.training import checks, compat, nets, trainer_rules
from ldmi_lightning.training.checked_io import check_what_is_read
from ldmi_lightning.training.evaluation import HeldOut
from ldmi_lightning.training.frozen import describe_frozen
from ldmi_lightning.training.groups import Rates
from ldmi_lightning.training.optimised import OptimisedClassifier
from ldmi_lightning.training.optimizers import step_on_plateau
from ldmi_lightning.training.predictions import labelled_data, predict_split, stage_data
from ldmi_lightning.training.stage_loop import StageCheckpoint, StageStart, put_first
from ldmi_lightning.training.stages import SECOND, Stage, name_stages


class LDMIModule(OptimisedClassifier):
    """A classifier trained in stages: a warm-up, then a loss that withstands label noise.

    At each switch the weights of the stage's best epoch are put back, the next loss is prepared, and a new optimizer and
    scheduler are made. When ``fit`` returns, the module holds the best weights of the stage that held-out noisy labels
    chose (:mod:`ldmi_lightning.training.selection`).

    Args:
        backbone: any module that maps inputs to logits ``(N, num_classes)``; ``None`` where a subclass overrides
            :meth:`build_backbone`.
        num_classes: C.
        warmup: the first stage, usually cross-entropy.
        robust: the second stage, usually :class:`~ldmi_lightning.losses.DMILoss`; ``None`` for the warm-up alone.
        refine: a third stage, usually :class:`~ldmi_lightning.losses.ForwardLoss` with the transition matrix that the
            robust stage implies; ``None`` for none.
        warm_start: file with the backbone's weights (a checkpoint, or ``torch.save(backbone.state_dict(), path)``) from
            which the second stage begins; the first is then skipped, unless the head is of another number of classes and
            begins anew. ``None`` to train it.
        more_stages: stages that follow, by name, in order; ``None`` for none.
        freeze: patterns such as ``body.*`` of the names of parameters, within the backbone, that are not trained; parts made
            of them stay in eval mode. A second net has the same ones. ``None`` to train all.
        lr_factors: by such a pattern, the share of each stage's learning rate at which parameters are trained; the first
            pattern that matches counts. ``None`` for one rate.
        decay_norms_and_biases: whether the optimizer's weight decay is for parameters of one dimension, and those called
            ``bias``, too.

    >>> from ldmi_lightning.losses import CELoss, DMILoss
    >>> module = LDMIModule(
    ...     nn.Linear(4, 3), num_classes=3, warmup=Stage(CELoss(), epochs=2), robust=Stage(DMILoss(0.99), epochs=2)
    ... )
    >>> module(torch.zeros(5, 4)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        backbone: nn.Module | None = None,
        num_classes: int = 0,
        warmup: Stage | None = None,
        robust: Stage | None = None,
        refine: Stage | None = None,
        warm_start: str | None = None,
        more_stages: dict[str, Stage] | None = None,
        freeze: list[str] | str | None = None,
        lr_factors: dict[str, float] | None = None,
        decay_norms_and_biases: bool = True,
    ) -> None:
        rates = Rates(lr_factors or {}, decay_norms_and_biases)
        super().__init__(backbone, num_classes, name_stages(warmup, robust, refine, more_stages), freeze, rates)
        if warm_start is not None and len(self.stages) < 2:
            raise checks.no_stage_after(warm_start)
        self.warm_start = warm_start
        second = [name for name, _ in self.named_parameters() if name.startswith(SECOND)]
        compat.leave_out_of_ddp(self, [*nets.tensor_names(self.losses, "losses."), *second])
        self.improved = False
        """Whether the last validation found the running stage's best weights so far."""
        # No buffer: DDP would copy rank 0's sum over the others'.
        self._loss_sum = torch.zeros(())
        self._steps = 0
        self._validated: dict[str, float] = {}

    # -- stages -------------------------------------------------------------------------------------------------------

    def _tell_length(self) -> None:
        trainer_rules.set_length(
            self.trainer, self.course.total_epochs({name: self.epochs_of(name) for name in self.stages})
        )

    def _begin_next_stage(self) -> None:
        start, nets_before = self.course.why_from(), self.stage.loss.networks
        self._restore_best()
        self.course.begin_next(self.trainer.current_epoch)
        if self.stage.loss.networks > nets_before and self.second_backbone is not None:
            self.second_backbone.load_state_dict(self.make_second().state_dict())
        self._prepare()  # by the nets of the stage before
        self.holds = name = self.progress.stage
        self.trainer.strategy.setup_optimizers(self.trainer)
        trainer_rules.restart_early_stopping(self.trainer)
        self._tell_length()
        self.print(f"{name}: {type(self.stage.loss).__name__} for up to {self.stage.epochs} epochs, from {start}.")
        if remark := self.stage.loss.remark():
            self.print(f"{name}: {remark}")

    def _prepare(self) -> None:
        if self.stage.loss.needs_predictions:
            self.stage.loss.prepare(*(predict_split(self, batches) for batches in stage_data(self.trainer)))

    def _restore_best(self) -> None:
        """Put the running stage's best epoch back: nets, and the state of its loss."""
        if self.progress.best_weights is not None:
            self.backbone.load_state_dict(self.progress.best_weights)
            self.load_state_dict(self.progress.best_state, strict=False)

    # -- what the Trainer calls, in this order ------------------------------------------------------------------------

    def meet_trainer(self, trainer: pl.Trainer) -> None:
        """Let the stages say how long a fit lasts."""
        if trainer.state.fn == TrainerFn.FITTING and not compat.is_fast_dev_run(trainer):
            trainer_rules.claim_length(trainer, sum(stage.epochs for stage in self.stages.values()))

    def configure_callbacks(self) -> list[Callback]:
        """Add the callbacks that walk the stages, while fitting, in the place of Lightning's untouched default."""
        trainer = self.trainer
        if trainer.state.fn != TrainerFn.FITTING:
            return []
        trainer_rules.refuse_callbacks(trainer)
        save = bool(trainer.checkpoint_callbacks) and not compat.is_fast_dev_run(trainer)
        trainer_rules.drop_default_checkpoint(trainer)
        present = {type(callback) for callback in compat.callbacks_of(trainer)}
        missing: list[Callback] = [] if StageStart in present else [StageStart()]
        return missing if StageCheckpoint in present else [*missing, StageCheckpoint(save=None if save else False)]

    def setup(self, stage: str) -> None:
        """Check, before anything is trained, that the stages can work with the data."""
        trainer, data = self.trainer, labelled_data(self.trainer)
        check_what_is_read(trainer)
        self._labels_unchecked = data is None
        if stage != "fit":
            self.follow_names(self.names_in(trainer))
            return
        self.class_names, self.class_order = self.names_in(trainer), None
        put_first(trainer)
        self.course.begin()
        self.holds = self.progress.stage
        if self.warm_start is not None:
            self.start_from(self.warm_start)
        if self.frozen_patterns:
            self.print(describe_frozen(self.backbone))
        trainer_rules.start_anew(trainer)
        checks.check_fit(trainer, data, self)

    def configure_model(self) -> None:
        """Synchronise BatchNorm over GPUs, so that its batch is the global one there too."""
        trainer = compat.trainer_of(self)
        if trainer is None or trainer.world_size == 1 or not self.normalises_by_batch():
            return
        if trainer.strategy.root_device.type == "cuda":
            self.backbone = nn.SyncBatchNorm.convert_sync_batchnorm(self.backbone)
            if self.second_backbone is not None:
                self.second_backbone = nn.SyncBatchNorm.convert_sync_batchnorm(self.second_backbone)
        elif trainer.state.fn == TrainerFn.FITTING:
            self.print("BatchNorm uses each process's part of the batch: PyTorch can synchronise it on GPUs only.")

    def on_fit_start(self) -> None:
        """Tell the Trainer how long the stages last, counting what a checkpoint says has already been run."""
        now = self.progress
        if now.epochs >= self.epochs_of(now.stage) and not now.over:
            self.print(
                f"{now.stage} has run {now.epochs} epochs already, and {self.stage.epochs} are asked for: it is over."
            )
            self.course.end_stage()
        self._tell_length()
        self.set_frozen(training=True)
        if not is_seeded():
            self.print(NOT_SEEDED)
        if self.device.type == "cpu":
            cpu_speed.prepare_process()

    def on_train_start(self) -> None:
        """Check the losses against the batch size of someone else's loader, now that there is one."""
        if labelled_data(self.trainer) is None:
            checks.check_loader(self.trainer, self.num_classes, self.stages)

    def begin_epoch(self) -> None:
        """Switch stages where the running one is over; :class:`StageStart` calls it before all other callbacks."""
        self._seed_epoch()  # the pass between two stages may draw, too, where the data is someone else's
        if self.progress.over:
            self._begin_next_stage()
        elif self.trainer.current_epoch == 0:
            self._prepare()
        if data := labelled_data(self.trainer):
            data.views = self.stage.loss.views
        self.progress.lr = self.rate_now()

    def on_train_epoch_start(self) -> None:
        """Begin the epoch's sums and batches."""
        self._seed_epoch()  # callbacks may have drawn
        self.set_frozen(training=False)
        self._loss_sum = torch.zeros((), device=self.device)
        self._steps = 0
        self._validated = {}
        compat.begin_batches_anew(self.trainer)

    def _seed_epoch(self) -> None:
        # Order and dropout in an epoch depend on the epoch, not on how the run came to it: a resumed run repeats it.
        torch.manual_seed(derived_seed(base_seed(), self.trainer.current_epoch, self.trainer.global_rank))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return what the running stage's method minimises."""
        taken = self.checked(batch, batch_idx)
        checks.check_views(taken, self.stage.loss)
        if batch_idx == 0:
            for stage in self.stages.values():
                stage.loss.check_inputs(taken.x)  # a later stage's mistake is better found now
        clock = Clock(self.trainer.current_epoch - self.progress.first_epoch, self.stage.epochs, batch_idx)
        try:
            loss = self.stage.loss.step(self.nets(), taken, clock)
        except ValueError as error:
            checks.explain_one_sample(error, self.backbone)
            raise
        except RuntimeError as error:
            nets.explain_misfit(error, self.backbone, taken.x)
            raise
        self._loss_sum.add_(loss.detach())
        self._steps += 1
        return loss

    def select(self, held_out: HeldOut) -> None:
        """Take the weights if this validation is the running stage's best."""
        name = self.progress.stage
        checks.check_held_out(held_out.joint, self.trainer, name, self.stage)
        self._validated = {**held_out.figures, "val/decision_score": held_out.decision_score()}
        known = {**self.trainer.callback_metrics, **self._validated}
        # All of them: a monitor of a later stage that is not known is better found now.
        score = {each: checks.score_of(known, each, stage.selected_by) for each, stage in self.stages.items()}[name]
        self.log("val/decision_score", self._validated["val/decision_score"], sync_dist=True)
        self.stage.loss.synchronise()
        state = {key: value for key, value in self.state_dict().items() if key.startswith((f"losses.{name}.", SECOND))}
        weights = self.backbone.state_dict()
        self.improved = self.course.select(score, self.trainer.current_epoch, held_out, weights, state)

    def on_train_epoch_end(self) -> None:
        """Log the epoch, and stop a run that learns nothing."""
        loss = float(self.trainer.strategy.reduce(self._loss_sum / max(self._steps, 1), reduce_op="mean"))
        name = self.progress.stage
        own = self.stage.loss.epoch_figures()
        self.stage.loss.end_epoch()
        checks.check_loss(loss, self.trainer.current_epoch, name)
        figures = {"train/loss": loss, "lr": self.progress.lr or 0.0, **own}
        self.progress.record(self.trainer.current_epoch, {**figures, **self._validated})
        values = {**figures, "stage": float(list(self.stages).index(name))}
        self.log_dict(values, sync_dist=True, logger=False)
        # Lightning would write them after the checkpoint, and a kill in between would lose them.
        for logger in self.loggers:
            logger.log_metrics({**values, "epoch": self.trainer.current_epoch}, self.trainer.global_step - 1)
            logger.save()
        if self.progress.last_score is not None:
            for config in self.trainer.lr_scheduler_configs:
                step_on_plateau(config.scheduler, self.progress.last_score, name, self.stage)

    def end_epoch(self) -> bool:
        """Close the epoch and decide whether the stage is over; StageCheckpoint calls it after all other callbacks.

        Returns:
            Whether it was a whole epoch: one that ``max_time`` cut short is run again when the run is resumed.
        """
        trainer = self.trainer
        late = trainer_rules.out_of_time(trainer)
        if late and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return False
        stopped = trainer.should_stop and not late  # by a user's EarlyStopping; max_time ends the run instead
        self.course.end_epoch(trainer.current_epoch, self.epochs_of(self.progress.stage), stopped)
        if stopped and self.next_stage is not None:
            trainer.should_stop = False
        self._tell_length()
        return True

    def on_fit_end(self) -> None:
        """Leave the module with the best weights of the chosen stage, also where a finished run was resumed."""
        if self.progress.best_epoch is None:
            self.print(f"The model holds the last weights of {self.progress.stage}, which never saw a validation.")
        self._restore_best()
        kept = self.course.choice.kept
        if self.chosen is not None and kept is not None and kept.weights is not None:
            self.backbone.load_state_dict(kept.weights)
            self.load_state_dict(kept.second, strict=False)
            self.holds = kept.stage
