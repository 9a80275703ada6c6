"""Loggers that write into the run's own folder: W&B by default, online with a key and else offline."""

import csv
import io
import netrc
import os
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from jsonargparse import Namespace
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from torch import Tensor

from ldmi_lightning import files
from ldmi_lightning.runs.folder import METRICS

PROJECT = "ldmi_lightning"
RUN_FOLDER = "auto"
"""A logger's ``save_dir`` that stands for the run's own folder."""

NEED_FOLDER = ("CSVLogger", "TensorBoardLogger")
"""Lightning's loggers that cannot be named without a ``save_dir``."""


class RunCSVLogger(CSVLogger):
    """A CSVLogger that keeps ``metrics.csv`` when a run is resumed in its folder, and never leaves it half-written.

    Rows of epochs that are run again are cut, and written anew. Hyperparameters are not kept: config.yaml has them.

    Args:
        save_dir: the run's folder.
        flush_logs_every_n_steps: steps between two writes, where the module does not ask for one.
    """

    def __init__(self, save_dir: str, flush_logs_every_n_steps: int = 100) -> None:
        super().__init__(save_dir, name="", version="", flush_logs_every_n_steps=flush_logs_every_n_steps)
        self.every_n_steps = flush_logs_every_n_steps
        self.go_on()

    def go_on(self) -> None:
        """Continue after the rows that are in the folder now."""
        self._rows = Rows(Path(self.log_dir) / METRICS)

    @property
    def experiment(self) -> Any:
        """The rows: Lightning's own writer, which the Trainer asks for, would delete them."""
        return self._rows

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Keep none."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a row."""
        self._rows.add(metrics, step)
        if step is not None and (step + 1) % self.every_n_steps == 0:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write the rows."""
        self._rows.save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()


class Rows:
    """The rows of a CSV file that is written anew as a whole, so that a run killed meanwhile loses none.

    Args:
        path: the file; the rows that it holds are kept, up to the first epoch that is logged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path.is_file():
            with path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))
        self._resumes = bool(self.rows)
        self._unsaved = False

    def add(self, metrics: Mapping[str, Any], step: int | None) -> None:
        """Add a row; before the first, cut what an interrupted run left of this epoch and later ones."""
        row = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        if self._resumes and "epoch" in row:
            self._resumes = False
            self.rows = [each for each in self.rows if int(each.get("epoch") or 0) < int(row["epoch"])]
        self.rows.append({**row, "step": len(self.rows) if step is None else step})
        self._unsaved = True

    def save(self) -> None:
        """Write the file, if there are new rows."""
        if not self._unsaved:
            return
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, sorted({name for row in self.rows for name in row}))
        writer.writeheader()
        writer.writerows(self.rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        files.write(self.path, text.getvalue().encode())
        self._unsaved = False


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
        wandb.teardown()  # W&B reads the environment once
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
    """Return the W&B id of the run in the folder, which it keeps when it is resumed."""
    kept = folder / "wandb" / "run-id"
    if not kept.is_file():
        kept.parent.mkdir(exist_ok=True)
        files.write(kept, uuid.uuid4().hex[:12].encode())
    return kept.read_text()


def _path_of(logger: type) -> str:
    return f"{logger.__module__}.{logger.__qualname__}"


def offline_runs(folder: Path) -> list[Path]:
    """Return the W&B runs in the folder that wait to be synced."""
    return sorted((folder / "wandb").glob("offline-run-*"))
