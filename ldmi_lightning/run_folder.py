"""Where a run keeps its files: one folder of its own, `<root>/<date-time>-<data>-<noise>-<seed>`."""

import sys
import time
from pathlib import Path
from typing import TextIO

from ldmi_lightning.errors import UserError
from ldmi_lightning.seeding import base_seed

if sys.platform != "win32":
    import fcntl

DEFAULT_ROOT = "runs"
LAST = "last.ckpt"


def is_run_folder(folder: Path) -> bool:
    """Whether a run has left its checkpoints there."""
    return (folder / LAST).is_file()


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


def claim(folder: Path) -> TextIO:
    """Hold a run's folder for this process: until the file that is returned is closed, or the process killed.

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
                f"The run in {folder} is still at work. Wait for its end, or stop it, before it goes on from --ckpt_path."
            ) from error
        except OSError:
            pass  # a file system that knows no locks
    return lock
