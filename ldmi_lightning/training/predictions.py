"""The pass between two stages: what the selected model says of the training and of the noisy validation set."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol, cast

import pytorch_lightning as pl
import torch

from ldmi_lightning.batch import LabelledData, as_batch
from ldmi_lightning.errors import UserError
from ldmi_lightning.method import Predictions
from ldmi_lightning.ranks import gather_over_ranks
from ldmi_lightning.training.trainer_rules import is_everything


def labelled_data(trainer: pl.Trainer) -> LabelledData | None:
    """Return the Trainer's datamodule if it can speak of its labels, which someone else's cannot."""
    data = getattr(trainer, "datamodule", None)
    return data if isinstance(data, LabelledData) else None


def stage_data(trainer: pl.Trainer) -> tuple[Iterable[Any], Iterable[Any]]:
    """Return batches of the training set, in index order and without augmentation, and of the validation set.

    Under ``limit_train_batches`` the former are a seeded subset of that size. Someone else's datamodule gives its
    training loader as it is.
    """
    limit = trainer.num_training_batches
    data = labelled_data(trainer)
    if data is None:
        train: Iterable[Any] = _first(limit, cast(Iterable[Any], trainer.train_dataloader))
    else:
        everything = is_everything(trainer.limit_train_batches)
        train = data.train_eval_dataloader(None if everything else int(limit) * data.batch_size)
    return train, _first(sum(trainer.num_val_batches), _validation_batches(trainer))


def _first(batches: int | float, loader: Iterable[Any]) -> Iterable[Any]:
    """Return so many batches; all of them for infinity, which is what Lightning counts where there is no length."""
    return loader if batches == float("inf") else islice(loader, int(batches))


def _validation_batches(trainer: pl.Trainer) -> Iterator[Any]:
    loaders = trainer.val_dataloaders
    for loader in loaders if isinstance(loaders, list | tuple) else [] if loaders is None else [loaders]:
        yield from loader


class Predicts(Protocol):
    """What the pass asks of the module."""

    def probabilities(self, x: Any) -> torch.Tensor:
        """Return softmax outputs, shape ``(N, C)``."""


@torch.no_grad()
def predict_split(module: pl.LightningModule, batches: Iterable[Any]) -> Predictions:
    """Return a module's softmax outputs over batches, in eval mode, in index order and equal on all ranks."""
    trainer, predicts = module.trainer, cast(Predicts, module)
    training = [each for each in module.modules() if each.training]  # some may be kept in eval mode by the user
    module.eval()
    parts: list[tuple[torch.Tensor, ...]] = []
    for raw in batches:
        batch = as_batch(trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(raw)))
        with trainer.precision_plugin.forward_context():
            probs = predicts.probabilities(batch.x)
        parts.append((probs, batch.y, batch.index, *([] if batch.votes is None else [batch.votes])))
    for each in training:
        each.training = True
    if not parts:
        nothing = torch.empty(0, dtype=torch.int64)
        return Predictions(torch.empty(0, 0), nothing, nothing)
    _refuse_some_votes(parts)
    columns = [gather_over_ranks(torch.cat(column)).cpu() for column in zip(*parts, strict=True)]
    order = columns[2].argsort(stable=True)
    return Predictions(*(column[order] for column in columns))


def _refuse_some_votes(parts: Sequence[Sequence[torch.Tensor]]) -> None:
    """Refuse batches of which some have votes and others none, or of other annotators."""
    found = {part[3].shape[1] if len(part) > 3 else None for part in parts}
    if len(found) > 1:
        held = ", others ".join("none" if each is None else f"those of {each} annotators" for each in found)
        raise UserError(
            f"Some batches of a split have votes, but not all alike: some {held}. Give each batch votes of shape (B, A) of the "
            "same A annotators, -1 where one gave none, or leave votes out."
        )
