"""The options of the commands that train and use a model, and the configuration that repeats a run."""

import json
import warnings
from collections.abc import Mapping
from functools import cache, partial
from importlib.metadata import version
from typing import Any

import pytorch_lightning as pl
import yaml
from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

import ldmi_lightning.losses
import ldmi_lightning.methods
import ldmi_lightning.models  # noqa: F401  (short class names need the modules imported)
from ldmi_lightning.commands.from_data import TARGETS, given_in
from ldmi_lightning.commands.options import (
    DEFAULT_DATA,
    DEFAULT_MODEL,
    DEFAULT_SEED,
    DESCRIPTIONS,
    FOLD_OPTIONS,
    RUN,
)
from ldmi_lightning.commands.parser import Parser
from ldmi_lightning.commands.parsing import (
    add_own_config,
    check_mappings,
    check_seed,
    configs_first,
    nulls_in_stages,
)
from ldmi_lightning.runs.folder import CONFIG
from ldmi_lightning.runs.loggers import name_folder
from ldmi_lightning.training.module import LDMIModule
from ldmi_lightning.training.stages import Stage


def make_parser(command: str) -> Parser:
    """Return the parser of ``ldmi fit``, ``validate``, ``test`` or ``predict``."""
    parser = Parser.of(command, DESCRIPTIONS[command])
    parser.add_argument(
        "--seed_everything",
        type=bool | int,
        default=DEFAULT_SEED,
        help="The run's seed: of weights, order, dropout, and of the noise unless it has its own.",
    )
    parser.add_lightning_class_args(pl.Trainer, "trainer")
    parser.add_lightning_class_args(LDMIModule, "model", subclass_mode=True)
    parser.add_lightning_class_args(pl.LightningDataModule, "data", subclass_mode=True)
    for target in TARGETS:
        parser.link_arguments("data", target, compute_fn=partial(parser.value_for, target), apply_on="instantiate")
    skip = {*LightningCLI.subcommands()[command], "return_predictions"}  # they are written to files
    parser.add_method_arguments(pl.Trainer, command, skip=skip)
    if command == "fit":
        parser.add_argument("--run_folder", type=str | None, default=None, help=RUN["run_folder"].help)
        parser.add_argument(
            "--stage_cache",
            type=str | None,
            default=None,
            help="Folder of finished stages, shared by runs that differ in later ones only (default: none).",
        )
    for name in FOLD_OPTIONS:  # also of those that use a model: a run's config.yaml holds them
        parser.add_argument(f"--{name}", type=str | None, default=None, help=RUN[name].help)
    if command == "predict":
        parser.add_argument(
            "--output",
            type=str | None,
            default=None,
            help="Folder for the predictions (default: beside the checkpoint).",
        )
        parser.add_argument("--input", type=str | None, default=None, help=RUN["input"].help)
    parser.set_defaults({"data": DEFAULT_DATA, "model": DEFAULT_MODEL})
    return parser


def in_order(words: list[str]) -> list[str]:
    """Put the words after ``ldmi`` right before a parser reads them; raise for those that it would misread."""
    check_mappings(words)
    return nulls_in_stages(name_folder(configs_first(add_own_config(words, CONFIG))))


def parse(parser: Parser, words: list[str]) -> Namespace:
    """Return the configuration for the words after ``ldmi``, which are in order."""
    config: Namespace = parser.parse_args(words[1:])
    parser.given = given_in(config)
    check_seed(config.seed_everything)
    return config


def fill_in_seed(config: Namespace) -> None:
    """Give noise without a seed of its own that of the run, also noise of data that other data are made of."""
    for part in data_in(config):
        noise = noise_of(part)
        if noise is not None and "init_args" in noise and noise.init_args.get("seed", 0) is None:
            noise.init_args.seed = config.seed_everything


def data_in(config: Namespace) -> list[Namespace]:
    """Return the configuration of the data, and of the data that it is made of, from the outside in."""
    parts, part = [], config.data
    while isinstance(part, Namespace):
        parts.append(part)
        part = part.get("init_args", Namespace()).get("data")
    return parts


def noise_of(data: Namespace) -> Namespace | None:
    """Return the configuration of the noise, where the data has some."""
    noise = data.get("init_args", Namespace()).get("noise")
    return noise if isinstance(noise, Namespace) else None


def name_run(config: Namespace) -> tuple[str, str]:
    """Return the short names of the data set and of the noise, after which a run's folder is named."""
    parts = data_in(config)
    noise = next((noise for part in parts if (noise := noise_of(part)) is not None), None)
    return (
        "".join(part.class_path.rsplit(".", 1)[-1].removesuffix("DataModule") for part in reversed(parts)),
        noise.class_path.rsplit(".", 1)[-1].removesuffix("Noise") if noise is not None else "No",
    )


def repeatable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration that repeats a run, in plain types: where a run was resumed from is no part of it.

    Where it stands and where stages are shared are a matter of one machine, and unknown to ``ldmi test``:

    >>> repeatable({"seed_everything": 1, "ckpt_path": "runs/a/last.ckpt", "run_folder": None, "stage_cache": "stages"})
    {'seed_everything': 1, 'ckpt_path': None}
    """
    kept = {key: value for key, value in config.items() if key not in ("run_folder", "stage_cache")}
    return {key: None if key == "ckpt_path" else value for key, value in kept.items()}


def as_plain(parser: LightningArgumentParser, config: Namespace, skip_link_targets: bool = True) -> dict[str, Any]:
    """Return a configuration in plain types, as YAML holds it."""
    with warnings.catch_warnings():
        # Deprecated in later versions of jsonargparse, whose earlier ones do not know the new name.
        warnings.filterwarnings("ignore", r"(?s).*skip_none")
        # A callback's default that YAML cannot hold, such as a device.
        warnings.filterwarnings("ignore", r"(?s).*Unable to serialize instance")
        text = parser.dump(config, skip_none=False, skip_link_targets=skip_link_targets)
    plain: dict[str, Any] = yaml.safe_load(text)
    return plain


def parse_fit(words: list[str]) -> dict[str, Any]:
    """Return the whole configuration that ``ldmi fit`` saves; nothing is seeded, made or written.

    Args:
        words: those after ``ldmi``: ``fit`` and its options.
    """
    parser = _fit_parser()
    config = parse(parser, in_order(words))
    fill_in_seed(config)
    return repeatable(as_plain(parser, config))


@cache
def _fit_parser() -> Parser:
    return make_parser("fit")


def parse_stage(name: str, stage: Mapping[str, Any], words: list[str]) -> dict[str, Any]:
    """Return a stage with options of it set, as :func:`parse_fit` would have it: alone it is read six times as fast.

    Args:
        name: of the stage.
        stage: its whole configuration.
        words: options, such as ``--model.robust.epochs=2``.
    """
    given = in_order(["fit", *words])[1:]
    config = _stage_parser(name).parse_args([f"--model.{name}={json.dumps(stage)}", *given])
    return dict(as_plain(_stage_parser(name), config)["model"][name])


@cache
def _stage_parser(name: str) -> Parser:
    parser = Parser.of("fit", DESCRIPTIONS["fit"])
    parser.add_argument(f"--model.{name}", type=Stage | None)
    return parser


def write_yaml(config: Mapping[str, Any]) -> str:
    """Return a configuration as the text of a file."""
    return f"# pytorch_lightning=={version('pytorch_lightning')}\n{yaml.safe_dump(dict(config), sort_keys=False)}"
