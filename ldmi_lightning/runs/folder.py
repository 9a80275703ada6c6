"""Where a run keeps its files, and their names: one folder of its own, `<root>/<date-time>-<data>-<noise>-<seed>`."""

import sys
import time
from pathlib import Path
from typing import Literal, TextIO

from ldmi_lightning import files
from ldmi_lightning.errors import UserError
from ldmi_lightning.seeding import base_seed

if sys.platform != "win32":
    import fcntl

DEFAULT_ROOT = "runs"

CONFIG = "config.yaml"
"""The configuration that repeats the run."""
RESULTS = "results.json"
LAST = "last.ckpt"
"""The newest checkpoint, to resume from."""
METRICS = "metrics.csv"
CURVES = "curves.csv"
"""What each epoch has come to, whatever the logger."""
JOINT = "joint.png"
"""The picture of U after each stage."""
JOINTS = "joint"
"""The folder of those after each epoch."""
LOG = "fit.log"
"""What a run of ``ldmi benchmark`` has printed; it stands beside the run's folder."""


def checkpoint_name(stage: str, which: Literal["best", "last"]) -> str:
    """Return the name of a stage's best or last checkpoint.

    >>> checkpoint_name("robust", "best")
    'robust-best.ckpt'
    """
    return f"{stage}-{which}.ckpt"


def is_run_folder(folder: Path) -> bool:
    """Whether a run has left its checkpoints there."""
    return (folder / LAST).is_file()


def make_folder(folder: Path) -> bool:
    """Make the folder that a run was given; return whether it was not there before.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    except OSError as error:
        raise UserError(
            f"--run_folder {folder} cannot be made: {error.strerror}. Name one in a folder that you may write to."
        ) from error
    return True


def make_run_folder(root: str | Path | None, data: str, noise: str) -> Path:
    """Make a new folder for a run; two runs that start in the same second never share one.

    Args:
        root: parent folder; ``None`` for ``runs``.
        data: short name of the data set.
        noise: short name of the noise injector.
    """
    parent = Path(root or DEFAULT_ROOT)
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{data}-{noise}-{base_seed()}"
    for attempt in range(1, 1000):
        folder = parent / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not parent.is_dir():
                raise UserError(
                    f"{parent} is a file, but runs need a folder: set --trainer.default_root_dir."
                ) from None
        except OSError as error:
            raise UserError(
                f"No run folder can be made in {parent}: {error.strerror}. Set --trainer.default_root_dir to a folder "
                "that you may write to."
            ) from error
        else:
            return folder
    raise UserError(f"{parent} holds a thousand runs of this second; set --trainer.default_root_dir.")


def to_go_on_from(folder: Path) -> Path | None:
    """Return the checkpoint from which the run of a folder goes on; ``None`` where it is to begin there.

    Raises:
        UserError: something else than a run stands there.
    """
    if is_run_folder(folder):
        return folder / LAST
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--run_folder {folder} is a file: name a folder, which need not be there.")
    if folder.is_dir() and not (folder / CONFIG).is_file():
        unfinished = set(files.unfinished_in(folder))  # of a run that was killed in its first moment
        others = sorted(path.name for path in {*folder.iterdir()} - unfinished if not path.name.startswith("."))
        if others:
            raise UserError(
                f"--run_folder {folder} holds no run, but {others[0]}: name a folder that is empty or not there, or that of a "
                "run, which goes on."
            )
    return None


def claim(folder: Path) -> TextIO:
    """Hold a run's folder for this process: until the file that is returned is closed, or the process killed.

    What killed processes have left half-written there is removed.

    Raises:
        UserError: a run of another process is at work in it.
    """
    lock = (folder / ".lock").open("w")
    if sys.platform != "win32":
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, not inherited by workers that outlive us
        except (BlockingIOError, PermissionError) as error:
            lock.close()
            raise UserError(
                f"The run in {folder} is still at work. Wait for its end, or stop it, before it is resumed."
            ) from error
        except OSError:
            return lock  # a file system that knows no locks
        for each in (folder, folder / JOINTS):
            files.remove_unfinished(each)  # whoever wrote it held the folder, and is no more
    return lock
