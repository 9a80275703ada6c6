"""What ``ldmi noise`` does: describe the noise, draw T, and write the labels."""

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

from ldmi_lightning import files, pictures
from ldmi_lightning.commands.configuration import in_order
from ldmi_lightning.commands.noise_help import DATA, DESCRIPTION, LABELS, OPTIONS, PICTURE, POSTERIOR
from ldmi_lightning.commands.noise_summary import describe, look
from ldmi_lightning.commands.options import DEFAULT_DATA, DEFAULT_SEED, FOLD_OPTIONS
from ldmi_lightning.commands.output import show
from ldmi_lightning.commands.parser import Parser
from ldmi_lightning.commands.parsing import check_seed
from ldmi_lightning.commands.quiet import quieten
from ldmi_lightning.datamodules import NoisyDataModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import CrowdLabels

TRAINING_KEYS = ("model", "trainer", "ckpt_path", "weights_only", *FOLD_OPTIONS)
"""What a configuration of ``ldmi fit`` holds besides: accepted, and not looked at."""


def run(words: list[str]) -> int:
    """Carry out ``ldmi noise``; return its exit code."""
    quieten()
    parser = make_parser()
    config = parser.parse_args(in_order(words)[1:])
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
    show(f"{describe(data)}\n")
    folder = Path(config.output or default_folder(data))
    try:
        drawn = write_picture(data, folder / PICTURE)
        write_labels(data, folder / LABELS)
        voted = write_posterior(data, folder / POSTERIOR)
    except OSError as error:
        raise UserError(
            f"The noise cannot be written to {folder}: {error.strerror}. Choose another folder with --output."
        ) from error
    if drawn:
        show(f"Picture: {folder / PICTURE}")
    if voted:
        show(f"Probability of each class by the votes: {folder / POSTERIOR}")
    show(f"Labels: {folder / LABELS}, for --data.noise LabelFileNoise --data.noise.path {folder / LABELS}")
    return 0


def make_parser() -> Parser:
    """Return the parser of ``ldmi noise``."""
    parser = Parser.of("noise", DESCRIPTION, OPTIONS["config"].help)
    parser.add_argument("--seed_everything", type=bool | int, default=DEFAULT_SEED, help=OPTIONS["seed"].help)
    parser.add_argument("--output", type=str | None, default=None, help=OPTIONS["output"].help)
    parser.add_lightning_class_args(NoisyDataModule, "data", subclass_mode=True)
    (parser.groups or {})["data"].title = DATA
    for key in TRAINING_KEYS:
        parser.add_argument(f"--{key}", type=dict[str, Any] | bool | str | None, default=None, help=argparse.SUPPRESS)
    parser.set_defaults({"data": DEFAULT_DATA})
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
    text = io.StringIO()
    np.savetxt(text, table, fmt="%d", delimiter=",", header=",".join(columns), comments="")
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, text.getvalue().encode())


def write_posterior(data: NoisyDataModule, path: Path) -> bool:
    """Write what the votes on the samples come to, by original index: an NPZ file; return whether there are votes."""
    if not isinstance(data.noise, CrowdLabels):
        path.unlink(missing_ok=True)  # that of other labels
        return False
    index = np.sort(np.concatenate([data.splits[name].original_index.numpy() for name in data.noisy_splits]))
    held = io.BytesIO()
    np.savez_compressed(held, index=index, posterior=data.noise.posterior(index))
    files.write(path, held.getvalue())
    return True
