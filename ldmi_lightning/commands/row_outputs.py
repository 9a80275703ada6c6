"""The probabilities of a run's rows, from the stage that knows most of the true labels."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from torch import nn

from ldmi_lightning.datamodules import NoisyDataModule
from ldmi_lightning.losses import DMILoss, TransitionLoss
from ldmi_lightning.runs.outputs import Kind, Outputs, Predicted
from ldmi_lightning.training.module import LDMIModule
from ldmi_lightning.training.predictions import predict_split


def stage_of_outputs(methods: Mapping[str, nn.Module], chosen: str) -> tuple[str, Kind]:
    """Return the stage whose outputs say most of the true labels, and what they are probabilities of.

    Those of L_DMI, and of a loss with a T, are of the TRUE label; the last such stage is taken, whichever is kept to predict.
    Without one it is the chosen stage, whose outputs are probabilities of the GIVEN label.

    Args:
        methods: of each stage, in order.
        chosen: name of the stage that is kept to predict.

    >>> from ldmi_lightning.losses import CELoss, DMILoss
    >>> stage_of_outputs({"warmup": CELoss(), "robust": DMILoss()}, "warmup"), stage_of_outputs({"warmup": CELoss()}, "warmup")
    (('robust', 'true'), ('warmup', 'given'))
    """
    of_the_truth = [name for name, method in methods.items() if isinstance(method, DMILoss | TransitionLoss)]
    return (of_the_truth[-1], "true") if of_the_truth else (chosen, "given")


def outputs_of(
    trainer: pl.Trainer,
    module: LDMIModule,
    data: NoisyDataModule,
    checkpoint: Path,
    stage: tuple[str, Kind],
    splits: Iterable[str],
) -> Outputs:
    """Return the probabilities of all rows of some splits; every rank calls it together.

    Args:
        trainer: validates the module first, by which it takes the checkpoint's weights.
        module: holds them afterwards.
        data: what is predicted, without augmentation.
        checkpoint: the stage's best epoch.
        stage: what :func:`stage_of_outputs` says.
        splits: names of the splits.
    """
    loggers, trainer.loggers = trainer.loggers, []
    trainer.validate(module, datamodule=data, ckpt_path=checkpoint, verbose=False, weights_only=True)
    trainer.loggers = loggers
    device = module.device
    module.to(trainer.strategy.root_device)  # Lightning has taken the module off a GPU
    found = {name: _predicted(module, data, name) for name in splits}
    module.to(device)
    return Outputs(*stage, found)


def _predicted(module: LDMIModule, data: NoisyDataModule, name: str) -> Predicted:
    batches: Any = data.split_dataloader(name)
    told = predict_split(module, batches)
    split, rows = data.splits[name], told.index.numpy()
    given, clean = (each.cpu().numpy()[rows] for each in (split.y, split.y_clean))
    probs: NDArray[np.floating] = told.probs.float().numpy()
    return Predicted(split.original_index.numpy()[rows], given, clean, probs)
