"""Loggers that write into the run's own folder: W&B by default, online with a key and else offline."""

import csv
import netrc
import os
import sys
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from jsonargparse import Namespace
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

PROJECT = "ldmi_lightning"
RUN_FOLDER = "auto"
"""A logger's ``save_dir`` that stands for the run's own folder."""

NEED_FOLDER = ("CSVLogger", "TensorBoardLogger")
"""Lightning's loggers that cannot be named without a ``save_dir``."""


class RunCSVLogger(CSVLogger):
    """Lightning's CSVLogger that keeps ``metrics.csv`` when a run goes on in its folder.

    Rows of epochs that are run again are cut, and written anew.
    """

    def __init__(self, save_dir: str, **kwargs: Any) -> None:
        super().__init__(save_dir, **{"name": "", "version": "", **kwargs})
        self.go_on()

    def go_on(self) -> None:
        """Go on after the rows that are in the folder now."""
        self._experiment = _KeepingWriter(log_dir=self.log_dir)


class _KeepingWriter(ExperimentWriter):
    """Writer that appends to the rows it finds, from the first epoch that is logged."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self._file = Path(self.metrics_file_path)
        self._appending = self._file.is_file()

    def _check_log_dir_exists(self) -> None:
        """Delete nothing."""

    def log_metrics(self, metrics_dict: dict[str, Any], step: int | None = None) -> None:
        """Record metrics; the first time, cut what an interrupted run left of this epoch and later ones."""
        if self._appending and "epoch" in metrics_dict:
            self._appending = False
            kept = [row for row in self._rows() if int(row.get("epoch") or 0) < int(metrics_dict["epoch"])]
            self.metrics_keys = sorted({key for row in kept for key in row})
            self._write(kept)
        super().log_metrics(metrics_dict, step)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(self._rows())

    def _rows(self) -> list[dict[str, str]]:
        with self._file.open(newline="") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: list[dict[str, str]]) -> None:
        """Write so that a run killed meanwhile loses no rows."""
        unfinished = self._file.with_suffix(".tmp")
        with unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)
        unfinished.replace(self._file)


def open_wandb(logger: WandbLogger) -> str:
    """Begin the W&B run, offline where W&B cannot be reached or refuses the key: a run is never stopped by its logger.

    Returns:
        A line that says where the run can be seen, or why it is offline.
    """
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")  # this line says it all
    try:
        run = logger.experiment
    except (wandb.errors.Error, OSError) as error:
        os.environ["WANDB_MODE"] = "offline"
        logger._wandb_init["mode"] = "offline"
        _ = logger.experiment
        return f"W&B: {str(error).strip().splitlines()[0]} The run is kept offline, in its folder."
    if getattr(run, "offline", True):
        return "W&B: offline, in the run folder, since no key is configured (`wandb login`)."
    return f"W&B: {run.url}"


def close_wandb() -> None:
    """End the process's W&B run, if there is one."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].finish()


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
        if name == "CSVLogger":
            return Namespace(class_path=_path_of(RunCSVLogger), init_args=Namespace(save_dir=str(folder)))
        if name == "TensorBoardLogger":
            arguments["name"], arguments["version"] = "", ""
    if name == "WandbLogger":
        arguments["id"] = arguments.get("id") or wandb_id(folder)
        arguments["project"] = arguments.get("project") or PROJECT
        arguments["name"] = arguments.get("name") or folder.name
        if not has_wandb_key() and "WANDB_MODE" not in os.environ:
            arguments["offline"] = True
    filled = given.clone()
    filled.init_args = arguments
    return filled


def wandb_id(folder: Path) -> str:
    """Return the W&B id of the run in the folder, under which it goes on when it is resumed."""
    kept = folder / "wandb" / "run-id"
    if not kept.is_file():
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(uuid.uuid4().hex[:12])
    return kept.read_text()


def _path_of(logger: type) -> str:
    return f"{logger.__module__}.{logger.__qualname__}"


def offline_runs(folder: Path) -> list[Path]:
    """Return the W&B runs in the folder that wait to be synced."""
    return sorted((folder / "wandb").glob("offline-run-*"))
