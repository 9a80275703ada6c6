"""``ldmi noise``: look at the label noise of a configuration, and keep the labels, without training."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]

from ldmi_lightning import pictures
from ldmi_lightning.datamodules import NoisyDataModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.noise_summary import describe, look
from ldmi_lightning.parsing import Parser, check_seed

TRAINING_KEYS = ("model", "trainer", "ckpt_path", "weights_only")
"""What a configuration of ``ldmi fit`` holds besides: accepted, and not looked at."""

DESCRIPTION = (
    "Show the label noise of a configuration, without training: the transition matrix T as requested and as it came out, the "
    "share of wrong labels, whether T is diagonally dominant or nearly singular, and what that means for cross-entropy and "
    "L_DMI. Write a picture, and the labels to a file that LabelFileNoise reads back. All files and options of `ldmi fit` are "
    "accepted; those of model and trainer are not looked at."
)
PICTURE, LABELS = "noise.png", "labels.csv"


def run(args: Sequence[str], default_data: dict[str, Any]) -> None:
    """Carry out ``ldmi noise``.

    Args:
        args: the words after ``noise``, ``--config`` first.
        default_data: ``class_path`` and ``init_args`` of the data where no configuration names one.
    """
    parser = _parser(default_data)
    config = parser.parse_args(args)
    check_seed(config.seed_everything)
    pl.seed_everything(config.seed_everything)
    for key in TRAINING_KEYS:
        del config[key]
    try:
        data: NoisyDataModule = parser.instantiate_classes(config).data
    except ValueError as error:
        parser.error(str(error))
    data.prepare_data()
    data.setup("fit")
    _say(f"{describe(data)}\n")
    folder = Path(config.output or default_folder(data))
    try:
        drawn = write_picture(data, folder / PICTURE)
        write_labels(data, folder / LABELS)
    except OSError as error:
        raise UserError(
            f"The noise cannot be written to {folder}: {error.strerror}. Choose another folder with --output."
        ) from error
    if drawn:
        _say(f"Picture: {folder / PICTURE}")
    _say(f"Labels: {folder / LABELS}, for --data.noise LabelFileNoise --data.noise.path {folder / LABELS}")


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head` has seen enough; the files are written all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class NoiseParser(Parser):
    """The parser of ``ldmi noise``."""

    command = "noise"


def _parser(default_data: dict[str, Any]) -> NoiseParser:
    parser = NoiseParser(prog="ldmi noise", description=DESCRIPTION)
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="YAML file, as for `ldmi fit`.")
    parser.add_argument(
        "--seed_everything", type=bool | int, default=1, help="The run's seed, and the noise's unless it has its own."
    )
    parser.add_argument(
        "--output", type=str | None, default=None, help=f"Folder for {PICTURE} and {LABELS} (default: one in ./noise)."
    )
    parser.add_lightning_class_args(NoisyDataModule, "data", subclass_mode=True)
    (parser.groups or {})["data"].title = "The data set and its noise"
    for key in TRAINING_KEYS:
        parser.add_argument(f"--{key}", type=dict[str, Any] | bool | str | None, default=None, help=argparse.SUPPRESS)
    parser.set_defaults({"data": default_data})
    return parser


def default_folder(data: NoisyDataModule) -> Path:
    """Return a folder of these labels' own: the same labels have the same, others another."""
    told = data.noise_report()
    source = type(data).__name__.removesuffix("DataModule")
    return Path("noise") / f"{source}-{told['injector'].removesuffix('Noise')}-{told['seed']}-{told['sha256'][:8]}"


def write_picture(data: NoisyDataModule, path: Path) -> bool:
    """Draw T as requested and as it came out in training; return whether anything is known of it."""
    seen = look(data)
    known = {} if seen.requested is None else {"T as requested": seen.requested}
    if "training" in seen.realised:
        known["T as it came out in training"] = seen.realised["training"]
    if known:
        pictures.save(pictures.draw_transitions(known, data.class_names), path)
    else:
        path.unlink(missing_ok=True)  # that of other labels
    return bool(known)


def write_labels(data: NoisyDataModule, path: Path) -> None:
    """Write the labels of the noisy splits by original index, so that the file is never seen half-written."""
    splits = [data.splits[name] for name in data.noisy_splits]
    columns = {"index": [split.original_index for split in splits], "label": [split.y for split in splits]}
    if all(map(data.labels_are_true, data.noisy_splits)):
        columns["clean"] = [split.y_clean for split in splits]
    table = np.stack([np.concatenate([part.numpy() for part in parts]) for parts in columns.values()], axis=1)
    table = table[np.argsort(table[:, 0], kind="stable")]
    if (table[1:, 0] == table[:-1, 0]).any():
        raise UserError(
            f"{type(data).__name__} gives a training and a validation sample the same original index, so that labels cannot "
            "be kept by it. Let load() number all samples of the data set apart."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    np.savetxt(unfinished, table, fmt="%d", delimiter=",", header=",".join(columns), comments="")
    unfinished.replace(path)
