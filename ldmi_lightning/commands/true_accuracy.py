"""Accuracy on true labels where the test labels themselves are as somebody gave them: estimated through T̂."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytorch_lightning as pl

from ldmi_lightning.audit import accuracy_on_true_labels
from ldmi_lightning.datamodules import NoisyDataModule
from ldmi_lightning.likelihood import fit_transition
from ldmi_lightning.losses import DMILoss, TransitionLoss
from ldmi_lightning.noise import NoNoise
from ldmi_lightning.training.module import LDMIModule
from ldmi_lightning.training.predictions import predict_split
from ldmi_lightning.training.trainer_rules import is_everything


def true_accuracy(trainer: pl.Trainer, module: LDMIModule, data: Any, stage: str) -> dict[str, float]:
    """Return ``true_acc``, with its 95 % interval ``true_acc_low`` and ``true_acc_high``; nothing where it cannot be known.

    T̂ and its temperature are fitted on validation and test labels together, which are taken to be noisy in the same way:
    of validation labels alone T̂ has zeros where few rows have never shown a pair of classes that the test does show, and each
    such test label would count as the truth. Nothing is selected by them.

    Args:
        trainer: has tested the module, and limits what is predicted.
        module: holds the stage's best epoch.
        data: its test labels are as given.
        stage: its name; only outputs of L_DMI or of a loss with a T are probabilities of the true labels.
    """
    if not isinstance(data, NoisyDataModule) or not isinstance(data.noise, NoNoise):
        return {}  # noise that was put into the held-out labels is not in those of the test
    if not isinstance(module.losses[stage], DMILoss | TransitionLoss):
        return {}
    device = module.device
    module.to(trainer.strategy.root_device)  # Lightning takes the module off a GPU after each test
    held_out = predict_split(module, limited(data.val_dataloader(), trainer.limit_val_batches))
    tested = predict_split(module, limited(data.test_dataloader(), trainer.limit_test_batches))
    module.to(device)
    if not len(held_out.y) or not len(tested.y):
        return {}
    both = [np.concatenate([getattr(part, key).numpy() for part in (held_out, tested)]) for key in ("probs", "y")]
    found = fit_transition(both[0].astype(np.float64), both[1])
    told = accuracy_on_true_labels(tested.probs.numpy(), tested.y.numpy(), found.transition, found.temperature)
    names = {"true_acc": told.value, "true_acc_low": told.low, "true_acc_high": told.high}
    return {name: round(float(value), 6) for name, value in names.items()}


def limited(loaders: Any, limit: int | float) -> Iterator[Any]:
    """Return the batches of one loader or of several that the Trainer's limit leaves.

    >>> list(limited([["a", "b"], ["c", "d"]], 0.5)), list(limited("ab", 1))
    (['a', 'c'], ['a'])
    """
    for loader in loaders if isinstance(loaders, list | tuple) else [loaders]:
        if is_everything(limit):
            yield from loader
        else:
            yield from islice(loader, limit if isinstance(limit, int) else int(limit * len(loader)))
