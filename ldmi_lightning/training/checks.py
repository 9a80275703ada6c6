"""What is refused before or while the stages train, since the data cannot be learnt from as it is."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pytorch_lightning as pl
from torch import Tensor, nn

from ldmi_lightning.batch import Batch, LabelledData
from ldmi_lightning.errors import UserError
from ldmi_lightning.method import Method
from ldmi_lightning.training import nets
from ldmi_lightning.training.evaluation import DMI_NAMES
from ldmi_lightning.training.optimizers import own_optimizer
from ldmi_lightning.training.stages import Stage
from ldmi_lightning.training.trainer_rules import check_strategy, is_everything

ONE_SAMPLE = "Expected more than 1 value per channel"
"""What PyTorch's BatchNorm says of a batch of one sample."""


class ToFit(Protocol):
    """What the checks ask of the module."""

    num_classes: int
    stages: dict[str, Stage]

    def parameter_groups(self, name: str) -> list[Any]:
        """Return what a stage's optimizer takes."""


def check_fit(trainer: pl.Trainer, data: LabelledData | None, module: ToFit) -> None:
    """Refuse, before anything is trained, stages that cannot work with each other, the Trainer or the data."""
    for name in module.stages:
        if module.stages[name].optimizer is not None:
            # A mistake in a later stage is better found now.
            own_optimizer(module.stages, name, module.parameter_groups(name))
    check_strategy(trainer, [each.loss for each in module.stages.values()])
    if data is not None:
        check_data(data, module.num_classes, module.stages)


def check_data(data: LabelledData, num_classes: int, stages: Mapping[str, Stage]) -> None:
    """Refuse data with other classes, too small a batch, and a validation set that cannot select."""
    if data.num_classes != num_classes:
        raise UserError(
            f"The data has {data.num_classes} classes, but the model was made for num_classes={num_classes}."
        )
    missing = [data.class_names[label] for label, n in enumerate(data.class_counts("val").tolist()) if n == 0]
    for name, stage in stages.items():
        stage.loss.check_setting(num_classes, data.batch_size)
        if missing and stage.selected_by in DMI_NAMES:
            raise missing_class(missing, name, stage.selected_by)


def check_loader(trainer: pl.Trainer, num_classes: int, stages: Mapping[str, Stage]) -> None:
    """Refuse too small a batch of someone else's loader."""
    batch_size = getattr(trainer.train_dataloader, "batch_size", None)
    if isinstance(batch_size, int):
        for stage in stages.values():
            stage.loss.check_setting(num_classes, batch_size * trainer.world_size)


def check_held_out(joint: Tensor, trainer: pl.Trainer, name: str, stage: Stage) -> None:
    """Refuse a validation that is not finite, or lacks a class although it is whole.

    Args:
        joint: U of the validation set, shape ``(C, C)``.
        trainer: the Trainer.
        name: the running stage.
        stage: what it is.
    """
    if not joint.isfinite().all():
        raise UserError(
            f"The outputs on the validation set are NaN in epoch {trainer.current_epoch + 1} ({name}): look for NaN in the "
            "inputs, or lower the learning rate."
        )
    missing = (joint.sum(1) == 0).nonzero().flatten().tolist()
    if missing and is_everything(trainer.limit_val_batches) and stage.selected_by in DMI_NAMES:
        raise missing_class(missing, name, stage.selected_by)


def check_loss(loss: float, epoch: int, name: str) -> None:
    """Refuse an epoch, from 0, whose mean loss is not finite."""
    if not math.isfinite(loss):
        raise UserError(
            f"train/loss is {loss} in epoch {epoch + 1} ({name}): the outputs are no longer finite. Lower "
            f"--model.{name}.optimizer.lr, or look for NaN in the inputs."
        )


def missing_class(missing: Sequence[Any], name: str, monitor: str) -> UserError:
    """Return the error for a validation set without samples of some classes."""
    return UserError(
        f"The validation set has no sample labelled {', '.join(map(str, missing))}, so {monitor}, which selects "
        f"{name}'s best epoch, is singular whatever is learnt. Give every class validation samples, or set "
        f"--model.{name}.monitor val/acc --model.{name}.mode max."
    )


def check_views(batch: Batch, method: Method) -> None:
    """Refuse a batch of one view where the method wants two."""
    if method.views > 1 and batch.second_view is None:
        raise UserError(
            f"{type(method).__name__} wants {method.views} views of each sample, but a batch has no second_view: let the "
            "datamodule yield ldmi_lightning.Batch(x, y, index, y_clean, second_view=...)."
        )


def explain_one_sample(error: ValueError, net: nn.Module) -> None:
    """Raise a line in the place of what BatchNorm says of a batch of one sample; leave any other error alone."""
    if str(error).startswith(ONE_SAMPLE) and nets.has_batch_norm(net):
        raise UserError(
            "A training batch has one sample on a device, but the backbone's BatchNorm needs two or more: raise "
            "--data.batch_size, or let the loader drop the last batch (drop_last=True)."
        ) from error


def no_stage_after(warm_start: str) -> UserError:
    """Return the error for given weights that no stage takes up."""
    return UserError(
        f"--model.warm_start {warm_start} takes the place of the warm-up, but no stage follows: give --model.robust, or "
        "leave it out."
    )


def score_of(known: Mapping[str, Any], name: str, monitor: str) -> float:
    """Return what selects a stage's epoch among the figures that are known."""
    if monitor not in known:
        raise UserError(
            f"--model.{name}.monitor is {monitor!r}, which is not logged; known are {', '.join(sorted(known))}."
        )
    return float(known[monitor])
