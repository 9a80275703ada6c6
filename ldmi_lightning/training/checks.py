"""What is refused before or while the stages train, since the data cannot be learnt from as it is."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import pytorch_lightning as pl
from torch import Tensor, nn

from ldmi_lightning.batch import Batch, LabelledData
from ldmi_lightning.errors import UserError
from ldmi_lightning.method import Method
from ldmi_lightning.naming import few
from ldmi_lightning.training import nets
from ldmi_lightning.training.evaluation import DMI_NAMES
from ldmi_lightning.training.optimizers import own_optimizer
from ldmi_lightning.training.predictions import labelled_data
from ldmi_lightning.training.stages import Stage
from ldmi_lightning.training.trainer_rules import check_strategy, is_everything

ONE_SAMPLE = "Expected more than 1 value per channel"
"""What PyTorch's BatchNorm says of a batch of one sample."""
JUDGED = 0.75
"""Share of the classes that must have validation samples where a determinant selects.

One class of a hundred or of a thousand may be left out of it; without one of three, the rest is no judge of the whole.
"""


class ToFit(Protocol):
    """What the checks ask of the module."""

    num_classes: int
    stages: dict[str, Stage]

    def parameter_groups(self, name: str) -> list[Any]:
        """Return what a stage's optimizer takes."""

    def print(self, *args: Any) -> None:
        """Print a line, on one process alone."""


def check_fit(trainer: pl.Trainer, data: LabelledData | None, module: ToFit) -> None:
    """Refuse, before anything is trained, stages that cannot work with each other, the Trainer or the data."""
    for name in module.stages:
        if module.stages[name].optimizer is not None:
            # A mistake in a later stage is better found now.
            own_optimizer(module.stages, name, module.parameter_groups(name))
    check_strategy(trainer, [each.loss for each in module.stages.values()])
    if data is not None:
        for line in check_data(data, module.num_classes, module.stages):
            module.print(line)


def check_data(data: LabelledData, num_classes: int, stages: Mapping[str, Stage]) -> list[str]:
    """Refuse data with other classes, too small a batch, and a validation set that cannot select.

    Returns:
        What is to be said of classes that are left out of a determinant.
    """
    if data.num_classes != num_classes:
        raise UserError(
            f"The data has {data.num_classes} classes, but the model was made for num_classes={num_classes}."
        )
    for stage in stages.values():
        stage.loss.check_setting(num_classes, data.batch_size)
    by_dmi = [name for name, stage in stages.items() if stage.selected_by in DMI_NAMES]
    said = []
    if by_dmi:
        name, monitor = by_dmi[0], stages[by_dmi[0]].selected_by
        missing = _without_samples(data, "val")
        if missing:
            said.append(left_out_of_validation(missing, num_classes, name, monitor))
        missing = _without_samples(data, "train")
        if missing:
            said.append(
                f"No training sample is labelled {few(missing)} ({len(missing)} of {num_classes} classes): nothing can be "
                "learnt of what is never shown, and L_DMI with a memory leaves it out."
            )
    return said


def _without_samples(data: LabelledData, split: str) -> list[str]:
    return [str(data.class_names[label]) for label, n in enumerate(data.class_counts(split).tolist()) if n == 0]


def check_loader(trainer: pl.Trainer, num_classes: int, stages: Mapping[str, Stage]) -> None:
    """Refuse too small a batch of someone else's loader."""
    batch_size = getattr(trainer.train_dataloader, "batch_size", None)
    if isinstance(batch_size, int):
        for stage in stages.values():
            stage.loss.check_setting(num_classes, batch_size * trainer.world_size)


def check_held_out(joint: Tensor, trainer: pl.Trainer, name: str, stage: Stage) -> None:
    """Refuse a validation that is not finite, or lacks too many classes although it is whole.

    Which ones are left out of a determinant is said once, in the first epoch, where the data could not tell before.

    Args:
        joint: U of the validation set, shape ``(C, C)``.
        trainer: the Trainer.
        name: the running stage.
        stage: what it is.
    """
    first = cast(Any, trainer.lightning_module).progress.best_epoch is None
    if not joint.isfinite().all():
        raise UserError(
            f"The outputs on the validation set are NaN in epoch {trainer.current_epoch + 1} ({name}): look for NaN in the "
            "inputs, or lower the learning rate."
        )
    missing = (joint.sum(1) == 0).nonzero().flatten().tolist()
    if missing and is_everything(trainer.limit_val_batches) and stage.selected_by in DMI_NAMES:
        line = left_out_of_validation([str(label) for label in missing], len(joint), name, stage.selected_by)
        if first and labelled_data(trainer) is None:
            trainer.lightning_module.print(line)


def check_loss(loss: float, epoch: int, name: str) -> None:
    """Refuse an epoch, from 0, whose mean loss is not finite."""
    if not math.isfinite(loss):
        raise UserError(
            f"train/loss is {loss} in epoch {epoch + 1} ({name}): the outputs are no longer finite. Lower "
            f"--model.{name}.optimizer.lr, or look for NaN in the inputs."
        )


def left_out_of_validation(missing: Sequence[str], num_classes: int, name: str, monitor: str) -> str:
    """Return what is said of classes without a validation sample; refuse too many.

    Args:
        missing: their names.
        num_classes: C.
        name: the first stage that a determinant selects.
        monitor: its name.

    >>> left_out_of_validation(["yak"], 1000, "robust", "val/log_dmi")[:90]
    'No validation sample is labelled yak (1 of 1000 classes): val/log_dmi, which selects robus'
    """
    if num_classes - len(missing) < max(JUDGED * num_classes, 2):
        raise UserError(
            f"The validation set has no sample labelled {few(missing)}, so {monitor}, which selects "
            f"{name}'s best epoch, is singular whatever is learnt. Give every class validation samples, or set "
            f"--model.{name}.monitor val/acc --model.{name}.mode max."
        )
    return (
        f"No validation sample is labelled {few(missing)} ({len(missing)} of {num_classes} classes): {monitor}, which selects "
        f"{name}'s best epoch, judges the others alone."
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
