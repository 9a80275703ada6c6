"""A run's model and data set, made from a checkpoint and the configuration beside it; training data need not be there."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import Namespace

from ldmi_lightning.checkpoints import KEY, read_checkpoint
from ldmi_lightning.commands.configuration import in_order, make_parser, parse
from ldmi_lightning.commands.from_data import VOCABULARY, told
from ldmi_lightning.commands.parser import Parser
from ldmi_lightning.commands.parsing import one_line
from ldmi_lightning.datamodules import NoisyDataModule
from ldmi_lightning.datamodules.new_data import without_training_data
from ldmi_lightning.errors import UserError
from ldmi_lightning.runs.folder import CONFIG, LAST, checkpoint_name
from ldmi_lightning.runs.left import read_run
from ldmi_lightning.training import resume
from ldmi_lightning.training.module import LDMIModule


class Made(NamedTuple):
    """What a checkpoint was of.

    Attributes:
        path: the checkpoint.
        module: holds its weights, in evaluation mode.
        data: the data set, which has not been set up, with the checkpoint's state.
        class_names: C of them.
        results: the run's ``results.json``; empty where there is none.
        config_sha256: of ``config.yaml``, in hexadecimal digits.
    """

    path: Path
    module: LDMIModule
    data: NoisyDataModule
    class_names: list[str]
    results: Mapping[str, Any]
    config_sha256: str


def checkpoint_in(place: Path) -> Path:
    """Return a checkpoint: the file itself, or of a run that has ended the best of the stage that it keeps to predict.

    Raises:
        UserError: there is none, or the run has not ended.
    """
    if place.is_file() or not place.is_dir():
        return place  # a missing file is named by who reads it
    chosen = read_run(place).results.get("chosen")
    if chosen is None:
        found = sorted(place.glob("*-best.ckpt"))
        raise UserError(
            f"The run in {place} has not ended, so that no stage is chosen to predict. Resume it with `ldmi fit --config "
            f"{place / CONFIG} --ckpt_path {place / LAST}`, or name a checkpoint{f', such as {found[0]}' if found else ''}."
        )
    best, last = (place / checkpoint_name(chosen, which) for which in ("best", "last"))
    return best if best.is_file() or not last.is_file() else last


def make_from(place: str | Path) -> Made:
    """Make the model and the data set of a checkpoint.

    Args:
        place: a checkpoint, or the folder of a run.

    Raises:
        UserError: there is no checkpoint or no configuration, or they do not belong together.
    """
    path = checkpoint_in(Path(place))
    checkpoint = read_checkpoint(path)
    config_file = path.parent / CONFIG
    if not config_file.is_file():
        raise UserError(
            f"There is no {config_file}, by which the model is made. A run of `ldmi fit` leaves it beside its checkpoints: put "
            "it there; in Python, LDMIModule.load_from_checkpoint(path, backbone=...) makes a model of your own objects."
        )
    parser = make_parser("validate")
    config = parse(parser, in_order(["validate", "--config", str(config_file), "--ckpt_path", str(path)]))
    try:
        with torch.random.fork_rng(devices=[]):  # the weights that are drawn here are replaced
            data = data_of(parser, config, checkpoint)
            parser.told = told(config, parser.given, data)
            module = parser.instantiate_classes(Namespace(model=config.model, data=data)).model
            data.new_from().num_ids = parser.told.get(VOCABULARY)
    except ValueError as error:
        raise UserError(one_line(str(error))) from error
    own, weights = module.state_dict(), checkpoint["state_dict"]
    if resume.is_shared(checkpoint):
        weights = {name: weights.get(name, value) for name, value in own.items()}
    resume.refuse_misfit(weights, own)
    module.load_state_dict(weights)
    module.take_names(checkpoint)
    return Made(
        path,
        module.eval(),
        data,
        list(map(str, checkpoint[KEY].get("class_names") or data.class_names)),
        read_run(path.parent).results,
        hashlib.sha256(config_file.read_bytes()).hexdigest(),
    )


def data_of(parser: Parser, config: Namespace, checkpoint: Mapping[str, Any]) -> NoisyDataModule:
    """Make a run's data set as its checkpoint knows it, by words, sizes and means, without its training data.

    Args:
        parser: of a command.
        config: the configuration of the run; its part on the data is changed.
        checkpoint: what the checkpoint holds.

    Raises:
        UserError: the data set cannot be made, or does not say how new samples are read.
    """
    without_training_data(config.data, checkpoint[KEY].get("class_names"))
    try:
        data = parser.instantiate_classes(Namespace(data=config.data)).data
    except ValueError as error:
        raise UserError(one_line(str(error))) from error
    if not isinstance(data, NoisyDataModule):
        raise UserError(
            f"{type(data).__name__} does not say how new samples are read, as a data set of ldmi_lightning.datamodules does: "
            "derive it from NoisyDataModule. Without that, `ldmi predict` takes the samples of its predict_dataloader(), and "
            "LDMIModule.load_from_checkpoint(path) predicts in Python."
        )
    data.load_state_dict(checkpoint.get(type(data).__qualname__, {}))
    return data
