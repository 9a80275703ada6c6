"""Loggers that write into the run's own folder: W&B by default, online with a key and else offline."""

import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from jsonargparse import Namespace

PROJECT = "ldmi_lightning"
RUN_FOLDER = "auto"
"""A logger's ``save_dir`` that stands for the run's own folder."""

NEED_FOLDER = ("CSVLogger", "TensorBoardLogger")
"""Lightning's loggers that cannot be named without a ``save_dir``."""


def has_wandb_key() -> bool:
    """Whether a W&B key is configured, in the environment or in netrc (where ``wandb login`` puts it)."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc().authenticators(str(host)) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def name_folder(args: list[str]) -> list[str]:
    """Give a logger that was named on the command line, such as ``--trainer.logger CSVLogger``, the run's folder."""
    named: list[str] = []
    pending = list(args)
    while pending:
        word = pending.pop(0)
        named.append(word)
        if word == "--trainer.logger" and pending:
            word = pending.pop(0)
            named.append(word)
        value = word.removeprefix("--trainer.logger=").rsplit(".", 1)[-1]
        if value in NEED_FOLDER and not any("logger.save_dir" in each for each in args):
            named.append(f"--trainer.logger.save_dir={RUN_FOLDER}")
    return named


def logger_config(given: Any, folder: Path) -> Any:
    """Return the Trainer's ``logger`` argument with the run's folder filled in.

    Args:
        given: the configuration: ``None`` or ``True`` for W&B, ``False`` for none, a logger, or a list of loggers.
        folder: the run's folder.
    """
    if given is None or given is True:
        given = Namespace(class_path="pytorch_lightning.loggers.WandbLogger", init_args=Namespace())
    if isinstance(given, list):
        return [logger_config(each, folder) for each in given]
    if not isinstance(given, Namespace):
        return given
    arguments = given.get("init_args", Namespace()).clone()
    name = given.class_path.rsplit(".", 1)[-1]
    if arguments.get("save_dir") in (None, ".", RUN_FOLDER):
        arguments["save_dir"] = str(folder)
        if name in NEED_FOLDER:
            arguments["name"], arguments["version"] = "", ""
    if name == "WandbLogger":
        arguments["project"] = arguments.get("project") or PROJECT
        arguments["name"] = arguments.get("name") or folder.name
        if not has_wandb_key() and "WANDB_MODE" not in os.environ:
            arguments["offline"] = True
    return Namespace(class_path=given.class_path, init_args=arguments)


def offline_runs(folder: Path) -> list[Path]:
    """Return the W&B runs in the folder that wait to be synced."""
    return sorted((folder / "wandb").glob("offline-run-*"))
