"""LDMIModule: a backbone, and the stages that train it, in one ``trainer.fit``."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.core.mixins.hparams_mixin import _given_hyperparameters
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics.classification import MulticlassConfusionMatrix

from ldmi_lightning import checkpoints, cpu_speed, resume
from ldmi_lightning.batch import Batch, as_batch, check_labels
from ldmi_lightning.errors import UserError
from ldmi_lightning.joint import dmi_normalised, log_dmi
from ldmi_lightning.lean_steps import restore_steps, spare_steps
from ldmi_lightning.losses import Loss
from ldmi_lightning.metrics import JointMatrix
from ldmi_lightning.predictions import labelled_data, predict_split, stage_data
from ldmi_lightning.ranks import sum_over_ranks
from ldmi_lightning.seeding import base_seed, derived_seed
from ldmi_lightning.stages import STAGES, Progress, Stage
from ldmi_lightning.trainer_rules import (
    begin_batches_anew,
    callbacks_of,
    check_strategy,
    claim_length,
    drop_default_checkpoint,
    go_on_with_next_stage,
    is_everything,
    is_fast_dev_run,
    out_of_time,
)

SMALLEST_LIKELIHOOD = torch.finfo(torch.float32).tiny
"""What ``val/nll`` takes an output of 0 for, so that a single sample cannot make it infinite."""


PLAIN = {str, int, float, bool, type(None)}
"""Types of attributes in which PyTorch need not look for weights."""


class LDMIModule(pl.LightningModule):
    """A classifier trained in stages: a warm-up, then a loss that withstands label noise.

    At each switch the weights of the stage's best epoch are put back, the next loss is prepared, and a new optimizer
    and scheduler are made. When ``fit`` returns, the module holds the last stage's best weights.

    Args:
        backbone: any module that maps inputs to logits ``(N, num_classes)``; ``None`` where a subclass overrides
            :meth:`build_backbone`.
        num_classes: C.
        warmup: the first stage, usually cross-entropy.
        robust: the second stage, usually :class:`~ldmi_lightning.losses.DMILoss`; ``None`` for the warm-up alone.
        refine: a third stage, usually :class:`~ldmi_lightning.losses.ForwardLoss` with the transition matrix that the
            robust stage implies; ``None`` for none.
        warm_start: file with the backbone's weights (a checkpoint, or ``torch.save(backbone.state_dict(), path)``) from
            which the robust stage begins; the warm-up is then passed over. ``None`` to warm up.

    >>> from ldmi_lightning.losses import CELoss, DMILoss
    >>> module = LDMIModule(
    ...     nn.Linear(4, 3), num_classes=3, warmup=Stage(CELoss(), epochs=2), robust=Stage(DMILoss(0.99), epochs=2)
    ... )
    >>> module(torch.zeros(5, 4)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        backbone: nn.Module | None,
        num_classes: int,
        warmup: Stage,
        robust: Stage | None = None,
        refine: Stage | None = None,
        warm_start: str | None = None,
    ) -> None:
        super().__init__()
        self._save_plain_hyperparameters()
        if not isinstance(num_classes, int) or num_classes < 2:
            raise UserError(
                f"num_classes must be a whole number of at least 2, but got {num_classes}. On the command line it is taken "
                "from the datamodule, which needs an attribute num_classes."
            )
        self.num_classes = num_classes
        given = dict(zip(STAGES, (warmup, robust, refine), strict=True))
        self.stages: dict[str, Stage] = {name: stage for name, stage in given.items() if stage is not None}
        if warm_start is not None and robust is None:
            raise UserError(
                f"--model.warm_start {warm_start} takes the place of the warm-up, but no stage follows: give --model.robust, "
                "or leave it out."
            )
        self.warm_start = warm_start
        self.losses = nn.ModuleDict({name: stage.loss for name, stage in self.stages.items()})
        # A loss keeps its state equal on all ranks by itself: DDP need not copy it in every step.
        self._ddp_params_and_buffers_to_ignore = [f"losses.{name}" for name, _ in self.losses.named_buffers()]
        self.backbone = self.build_backbone() if backbone is None else backbone
        self.progress = Progress("warmup")
        self.joint = JointMatrix(num_classes)
        self.confusion = MulticlassConfusionMatrix(num_classes, validate_args=False)
        # No buffer: DDP would copy rank 0's sum over the others'.
        self._loss_sum = torch.zeros(())
        self._val_sums = torch.zeros(2, dtype=torch.float64)
        self._val_samples = 0
        self._steps = 0
        self._labels_unchecked = False
        self._weights_of = ""
        self.improved = False
        """Whether the last validation found the running stage's best weights so far."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a plain attribute without PyTorch's search among weights: Lightning sets one some fifty times a step."""
        if type(value) in PLAIN and name in self.__dict__:
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def build_backbone(self) -> nn.Module:
        """Make the backbone; for subclasses that are given none."""
        raise UserError(
            f"{type(self).__name__} has no backbone: give one (--model.backbone), or override build_backbone()."
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs to logits, shape ``(N, C)``."""
        if not len(x) and not self.training:  # a rank's share of a batch smaller than the number of ranks
            return torch.zeros(0, self.num_classes, device=self.device)
        logits: Tensor = self.backbone(x)
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise UserError(
                f"The backbone {type(self.backbone).__name__} must return logits of shape (N, {self.num_classes}), one "
                f"for each class, but returned shape {tuple(logits.shape)}. Mend its last layer, or num_classes."
            )
        return logits

    # -- stages -------------------------------------------------------------------------------------------------------

    @property
    def stage(self) -> Stage:
        """The running stage."""
        return self.stages[self.progress.stage]

    @property
    def stage_index(self) -> int:
        """Position of the running stage, from 0."""
        return list(self.stages).index(self.progress.stage)

    @property
    def next_stage(self) -> str | None:
        """Name of the stage that follows the running one."""
        return next(iter(list(self.stages)[self.stage_index + 1 :]), None)

    def stage_summaries(self) -> dict[str, dict[str, Any]]:
        """Describe each stage begun so far.

        Returns:
            For each stage ``loss`` and ``selected_by``, the ``epochs`` run, ``best_epoch`` (from 1), ``best_score``,
            ``best_joint`` (U on the noisy validation set then) and the last ``lr``.
        """
        known = {**self.progress.finished, self.progress.stage: self.progress.summary()}
        return {
            name: {
                "loss": type(self.stages[name].loss).__name__,
                "selected_by": self.stages[name].selected_by,
                **summary,
            }
            for name, summary in known.items()
        }

    def describe_epoch(self) -> str:
        """Name the epoch that runs or is about to, such as ``warmup 3/20``."""
        name, epoch = self.progress.stage, self.trainer.current_epoch - self.progress.first_epoch + 1
        if self.progress.over and self.next_stage is not None:
            name, epoch = self.next_stage, 1
        return f"{name} {epoch}/{self._epochs_of(name)}"

    def _loss(self) -> Loss:
        return cast(Loss, self.losses[self.progress.stage])

    def _last_epoch(self) -> int:
        """Return how many epochs the Trainer runs at most, as things stand now."""
        progress = self.progress
        own = progress.epochs if progress.over else max(self._epochs_of(progress.stage), progress.epochs)
        later = list(self.stages)[self.stage_index + 1 :]
        return progress.first_epoch + own + sum(self._epochs_of(name) for name in later)

    def _epochs_of(self, name: str) -> int:
        return 1 if is_fast_dev_run(self.trainer) else self.stages[name].epochs

    def _begin_next_stage(self) -> None:
        before, summary, name = self.progress.stage, self.progress.summary(), self.next_stage
        assert name is not None
        self._restore_best_weights()
        self.progress = self.progress.following(name, self.trainer.current_epoch)
        self._prepare_loss()
        self.trainer.strategy.setup_optimizers(self.trainer)
        self.trainer.fit_loop.max_epochs = self._last_epoch()
        start = (
            f"the weights of {before} epoch {summary['best_epoch']}, the best by {self.stages[before].selected_by} "
            f"({summary['best_score']:.4g})"
            if summary["best_epoch"] is not None
            else f"the last weights of {before}, which never saw a validation"
        )
        self.print(f"{name}: {type(self.stage.loss).__name__} for up to {self.stage.epochs} epochs, from {start}.")

    def _start_warm(self, path: str) -> None:
        """Begin with the robust stage, from given weights."""
        weights, lr = checkpoints.read_weights(path)
        if fault := checkpoints.misfit(weights, self.backbone.state_dict()):
            raise UserError(f"--model.warm_start {path} holds weights of another backbone: {fault}.")
        self.backbone.load_state_dict(weights)
        self.progress = replace(self.progress, lr=lr).following("robust", epoch=0)

    def _restore_best_weights(self) -> None:
        if self.progress.best_weights is not None:
            self.backbone.load_state_dict(self.progress.best_weights)

    def _prepare_loss(self) -> None:
        loss = self._loss()
        if loss.needs_predictions:
            loss.prepare(*(predict_split(self, batches) for batches in stage_data(self.trainer)))

    # -- what the Trainer calls ---------------------------------------------------------------------------------------

    @property
    def trainer(self) -> pl.Trainer:
        """The Trainer; only here can be seen whether the user gave it a ``max_epochs``."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: pl.Trainer | None) -> None:
        if trainer is not None and trainer.state.fn == TrainerFn.FITTING and not is_fast_dev_run(trainer):
            claim_length(trainer, sum(stage.epochs for stage in self.stages.values()))
        pl.LightningModule.trainer.fset(self, trainer)  # type: ignore[attr-defined]

    def configure_callbacks(self) -> list[Callback]:
        """Add the stage-aware checkpoint callback while fitting, in the place of Lightning's untouched default."""
        # Imported here since callbacks know the module, and not the other way round.
        from ldmi_lightning.callbacks.stage_checkpoint import StageCheckpoint

        trainer = self.trainer
        if trainer.state.fn != TrainerFn.FITTING:
            return []
        save = bool(trainer.checkpoint_callbacks) and not is_fast_dev_run(trainer)
        drop_default_checkpoint(trainer)
        present = any(isinstance(callback, StageCheckpoint) for callback in callbacks_of(trainer))
        return [] if present else [StageCheckpoint(save=save)]

    def setup(self, stage: str) -> None:
        """Check, before anything is trained, that the stages can work with the data."""
        self._labels_unchecked = labelled_data(self.trainer) is None
        if stage != "fit":
            return
        self.progress = Progress("warmup")
        if self.warm_start is not None:
            self._start_warm(self.warm_start)
        if is_fast_dev_run(self.trainer):
            self.trainer.fit_loop.epoch_loop.max_steps = -1
        # A Trainer that has fitted before stands at its end; a checkpoint is restored after this.
        self.trainer.fit_loop.epoch_progress.reset()
        self.trainer.should_stop = False
        for name in self.stages:
            if self.stages[name].optimizer is not None:
                self._optimizer_of(name)  # a mistake in a later stage is better found now
        check_strategy(self.trainer, [stage.loss for stage in self.stages.values()])
        data = labelled_data(self.trainer)
        if data is None:
            return
        if data.num_classes != self.num_classes:
            raise UserError(
                f"The data has {data.num_classes} classes, but the model was made for num_classes={self.num_classes}."
            )
        missing = [data.class_names[label] for label, n in enumerate(data.class_counts("val").tolist()) if n == 0]
        for name, each in self.stages.items():
            each.loss.check_setting(self.num_classes, data.batch_size)
            if missing and each.selected_by in self._dmi_names():
                raise UserError(_missing_class(missing, name, each.selected_by))

    def configure_model(self) -> None:
        """Synchronise BatchNorm over GPUs, so that its batch is the global one there too."""
        single = self._trainer is None or self.trainer.world_size == 1
        if single or not any(isinstance(each, _BatchNorm) for each in self.backbone.modules()):
            return
        if self.trainer.strategy.root_device.type == "cuda":
            self.backbone = nn.SyncBatchNorm.convert_sync_batchnorm(self.backbone)
        elif self.trainer.state.fn == TrainerFn.FITTING:
            self.print("BatchNorm uses each process's part of the batch: PyTorch can synchronise it on GPUs only.")

    def on_fit_start(self) -> None:
        """Tell the Trainer how long the stages last, counting what a checkpoint says has already been run."""
        self.trainer.fit_loop.max_epochs = self._last_epoch()
        spare_steps(self.trainer, self)
        if self.device.type == "cpu":
            cpu_speed.prepare_process()

    def on_train_start(self) -> None:
        """Check the losses against the batch size of someone else's loader, now that there is one."""
        batch_size = getattr(self.trainer.train_dataloader, "batch_size", None)
        if labelled_data(self.trainer) is None and isinstance(batch_size, int):
            for each in self.stages.values():
                each.loss.check_setting(self.num_classes, batch_size * self.trainer.world_size)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the running stage's optimizer and scheduler."""
        optimizer = self._make_optimizer()
        if self.stage.scheduler is None:
            return optimizer
        scheduler = self.stage.scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau) and scheduler.mode != self.stage.selecting_mode:
            raise UserError(
                f"--model.{self.progress.stage}.scheduler lowers the rate by mode {scheduler.mode!r}, but "
                f"{self.stage.selected_by} is selected by mode {self.stage.selecting_mode!r}. Set "
                f"--model.{self.progress.stage}.scheduler.mode {self.stage.selecting_mode}."
            )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": self.stage.selected_by, "reduce_on_plateau": False},
        }

    def _optimizer_of(self, name: str) -> torch.optim.Optimizer:
        """Make the optimizer that was given to a stage."""
        make = self.stages[name].optimizer
        assert make is not None
        try:
            return make([parameter for parameter in self.backbone.parameters() if parameter.requires_grad])
        except (TypeError, ValueError) as error:
            raise UserError(f"--model.{name}.optimizer cannot be made: {str(error).rstrip('.')}.") from error

    def _make_optimizer(self) -> torch.optim.Optimizer:
        """Make the running stage's optimizer: its own, or the warm-up's at its last learning rate."""
        if self.stage.optimizer is not None:
            return self._optimizer_of(self.progress.stage)
        if self.stages["warmup"].optimizer is None:
            return torch.optim.Adam(self.backbone.parameters(), lr=1e-3)
        optimizer, last_lr = self._optimizer_of("warmup"), self.progress.finished.get("warmup", {}).get("lr")
        for group in optimizer.param_groups if last_lr is not None else ():
            group["lr"] = last_lr
        return optimizer

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step a scheduler at the epoch's end, but ReduceLROnPlateau in :meth:`on_train_epoch_end`."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            super().lr_scheduler_step(scheduler, metric)

    def on_train_epoch_start(self) -> None:
        """Seed the epoch, and switch stages where the running one is over."""
        # Order and dropout in an epoch depend on the epoch, not on how the run came to it: a resumed run repeats it.
        torch.manual_seed(derived_seed(base_seed(), self.trainer.current_epoch, self.trainer.global_rank))
        if self.progress.over or self.progress.epochs >= self._epochs_of(self.progress.stage):
            self._begin_next_stage()
        elif self.trainer.current_epoch == 0:
            self._prepare_loss()
        self.progress.lr = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        self._loss_sum = torch.zeros((), device=self.device)
        self._steps = 0
        begin_batches_anew(self.trainer)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Drop the gradients, as PyTorch does, but without its profiler's entry: a tenth of a millisecond a step."""
        if getattr(optimizer.zero_grad, "__func__", None) is not torch.optim.Optimizer.zero_grad:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients where the Trainer was told to; Lightning takes some time to find that it was not."""
        if gradient_clip_val is not None:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the running stage's loss."""
        x, y, index, _ = self._checked(batch, batch_idx)
        loss: Tensor = self._loss()(self(x), y, index)
        self._loss_sum.add_(loss.detach())
        self._steps += 1
        return loss

    def _checked(self, batch: Any, batch_idx: int) -> Batch:
        """Take a batch; where the data cannot speak of its labels, look at them (on a GPU, which waits, at the first)."""
        checked = as_batch(batch)
        if self._labels_unchecked and (batch_idx == 0 or checked.y.device.type == "cpu"):
            check_labels(checked.y, self.num_classes)
        return checked

    def on_train_epoch_end(self) -> None:
        """Log the epoch, and stop a run that learns nothing."""
        loss = float(self.trainer.strategy.reduce(self._loss_sum / max(self._steps, 1), reduce_op="mean"))
        self._loss().end_epoch()
        if loss != loss or abs(loss) == float("inf"):
            raise UserError(
                f"train/loss is {loss} in epoch {self.trainer.current_epoch + 1} ({self.progress.stage}): the outputs are "
                f"no longer finite. Lower --model.{self.progress.stage}.optimizer.lr, or look for NaN in the inputs."
            )
        values = {"train/loss": loss, "lr": self.progress.lr or 0.0, "stage": float(self.stage_index)}
        self.log_dict(values, sync_dist=True, logger=False)
        # Lightning would write them after the checkpoint, and a kill in between would lose them.
        for logger in self.loggers:
            logger.log_metrics({**values, "epoch": self.trainer.current_epoch}, self.trainer.global_step - 1)
            logger.save()
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau) and self.progress.last_score is not None:
                # Lightning would step it after the checkpoint, which then misses the step.
                config.scheduler.step(self.progress.last_score)

    def end_epoch(self) -> bool:
        """Close the epoch and decide whether the stage is over; StageCheckpoint calls it after all other callbacks.

        Returns:
            Whether it was a whole epoch: one that ``max_time`` cut short is run again when the run is resumed.
        """
        trainer = self.trainer
        if out_of_time(trainer) and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return False
        self.progress.end_epoch(self.stage, trainer.current_epoch, self._epochs_of(self.progress.stage))
        # A user's EarlyStopping ends the stage; `max_time`, which sets the same flag, ends the run.
        if trainer.should_stop and not out_of_time(trainer):
            self.progress.over = True
            if self.next_stage is not None:
                go_on_with_next_stage(trainer)
        trainer.fit_loop.max_epochs = self._last_epoch()
        return True

    def on_fit_end(self) -> None:
        """Leave the module with the last stage's best weights, also where a finished run was resumed."""
        if self.progress.best_epoch is None:
            self.print(f"The model holds the last weights of {self.progress.stage}, which never saw a validation.")
        self._restore_best_weights()
        restore_steps(self.trainer, self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the stages' progress, and what the run is, into the checkpoint."""
        checkpoint[checkpoints.KEY] = {
            "progress": self.progress.state_dict(),
            "identity": resume.identity_of(self, self.progress),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up a fit where the checkpoint left it; a test leaves the stages alone."""
        if self._trainer is None:
            return
        # Lightning converts the module after the weights are in it: those of `64-true` would be rounded to 32 bits.
        self.trainer.precision_plugin.convert_module(self)
        if resume.is_shared(checkpoint):
            own = {name: value for name, value in self.state_dict().items() if name.startswith("losses.")}
            checkpoint["state_dict"] = own | checkpoint["state_dict"]
        if self.trainer.state.fn != TrainerFn.FITTING:
            self._refuse_misfit(checkpoint["state_dict"], self.state_dict())
            self._weights_of = checkpoint.get(checkpoints.KEY, {}).get("progress", {}).get("stage")
            return
        progress = resume.progress_of(checkpoint)
        resume.refuse_another_run(checkpoint, resume.identity_of(self, progress))
        self._refuse_misfit(checkpoint["state_dict"], self.state_dict())
        if progress.best_weights is not None:
            self._refuse_misfit(progress.best_weights, self.backbone.state_dict())
        self.progress = progress

    def _refuse_misfit(self, saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
        if self.strict_loading:
            resume.refuse_misfit(saved, own)

    # -- validation, test, prediction ---------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Begin the sums of ``val/nll`` and ``val/acc`` anew."""
        self._val_sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        self._val_samples = 0

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Add a batch to the joint distribution matrix and the sums; return ``probs`` and ``y`` for callbacks."""
        x, y, _, _ = self._checked(batch, batch_idx)
        probs = self._probabilities(x)
        self.joint.update(probs, y)
        if not self.trainer.sanity_checking:  # before which a loss is not yet prepared
            likelihood = self._loss_of_weights().noisy_probs(probs).gather(1, y[:, None]).double()
            nll = -likelihood.clamp_min(SMALLEST_LIKELIHOOD).log().sum()
            self._val_sums += torch.stack([nll, (probs.argmax(dim=1) == y).sum()])
            self._val_samples += len(y)
        return {"probs": probs, "y": y}

    def on_validation_epoch_end(self) -> None:
        """Compute the metrics over the whole split and all ranks, log them, and select the best weights by them."""
        joint = self.joint.compute()
        self.joint.reset()
        sums = torch.cat([self._val_sums, self._val_sums.new_tensor([self._val_samples])])
        nll, hits, samples = sum_over_ranks(sums).tolist()
        if self.trainer.sanity_checking:
            return
        log_value = log_dmi(joint)
        values = {
            "val/acc": hits / samples,
            "val/nll": nll / samples,
            "val/log_dmi": float(log_value),
            "val/dmi": float(log_value.exp()),
            "val/dmi_normalised": float(dmi_normalised(joint)),
        }
        self.log_dict(values, prog_bar=False, sync_dist=True)
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._refuse_useless(joint)
            score = [self._score(values, name) for name in self.stages][self.stage_index]
            self.improved = self.progress.select(
                self.stage, score, self.trainer.current_epoch, self.backbone.state_dict(), joint
            )

    def _loss_of_weights(self) -> Loss:
        """Return the loss of the running stage; outside of a fit, of the stage that a checkpoint's weights come from."""
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        known = not fitting and self._weights_of in self.stages
        return cast(Loss, self.losses[self._weights_of]) if known else self._loss()

    def _score(self, values: Mapping[str, float], stage: str) -> float:
        name = self.stages[stage].selected_by
        found = values.get(name, self.trainer.callback_metrics.get(name))
        if found is None:
            known = sorted({*values, *self.trainer.callback_metrics})
            raise UserError(f"--model.{stage}.monitor is {name!r}, which is not logged; known are {', '.join(known)}.")
        return float(found)

    def _refuse_useless(self, joint: Tensor) -> None:
        if not joint.isfinite().all():
            raise UserError(
                f"The outputs on the validation set are NaN in epoch {self.trainer.current_epoch + 1} "
                f"({self.progress.stage}): look for NaN in the inputs, or lower the learning rate."
            )
        missing = (joint.sum(1) == 0).nonzero().flatten().tolist()
        whole = is_everything(self.trainer.limit_val_batches)
        if missing and whole and self.stage.selected_by in self._dmi_names():
            raise UserError(_missing_class(missing, self.progress.stage, self.stage.selected_by))

    @staticmethod
    def _dmi_names() -> tuple[str, ...]:
        return "val/log_dmi", "val/dmi", "val/dmi_normalised"

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch to the confusion matrix with clean labels."""
        x, y, _, _ = as_batch(batch)
        self.confusion.update(self._probabilities(x), y)

    def on_test_epoch_end(self) -> None:
        """Log accuracy and balanced accuracy (mean recall of the classes present) over the whole test set, all ranks."""
        confusion = self.confusion.compute().double()
        self.confusion.reset()
        hits, totals = confusion.diagonal(), confusion.sum(dim=1)
        present = totals > 0
        self.log_dict(
            {
                "test/acc": float(hits.sum() / totals.sum()),
                "test/balanced_acc": float((hits[present] / totals[present]).mean()),
            },
            sync_dist=True,
        )

    def predict_step(self, batch: Any, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Return positions in the split ``(N,)`` and softmax outputs ``(N, C)``."""
        x, _, index, _ = as_batch(batch)
        return index, self._probabilities(x)

    def _probabilities(self, x: Tensor) -> Tensor:
        return cast(Tensor, self(x)).float().softmax(dim=1)

    # -- odds and ends ------------------------------------------------------------------------------------------------

    def _save_plain_hyperparameters(self) -> None:
        """Keep the CLI's configuration or, from Python, the plain arguments: loading an object would run code."""
        from_cli = _given_hyperparameters.get() is not None
        self.save_hyperparameters(ignore=[] if from_cli else ["backbone", *STAGES])
        for name in [name for name, value in self.hparams.items() if not checkpoints.is_plain(value)]:
            del self.hparams[name]

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> "LDMIModule":
        """Load a module from a checkpoint; see Lightning for the arguments.

        Whatever was given as a Python object (backbone, stages) is not in the checkpoint, and must be given again as a
        keyword argument.
        """
        try:
            loaded: LDMIModule = super().load_from_checkpoint(
                checkpoint_path, *args, **{"weights_only": True, **kwargs}
            )
            return loaded
        except (TypeError, RuntimeError) as error:
            if not re.search(r"required positional argument|[Uu]nexpected key.*losses\.", str(error), re.DOTALL):
                raise
            raise UserError(
                f"{checkpoint_path} holds weights, but not the Python objects that the module was made from "
                f"({str(error).split('() ')[-1]}). Pass them again: {cls.__name__}.load_from_checkpoint(path, "
                f"backbone=..., {', '.join(f'{name}=...' for name in STAGES)})."
            ) from error


def _missing_class(missing: list[Any], stage: str, monitor: str) -> str:
    return (
        f"The validation set has no sample labelled {', '.join(map(str, missing))}, so {monitor}, which selects "
        f"{stage}'s best epoch, is singular whatever is learnt. Give every class validation samples, or set "
        f"--model.{stage}.monitor val/acc --model.{stage}.mode max."
    )
