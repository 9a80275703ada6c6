"""Where a run keeps its files: one folder of its own, `<root>/<date-time>-<data>-<noise>-<seed>`."""

import time
from pathlib import Path

from ldmi_lightning.errors import UserError
from ldmi_lightning.seeding import base_seed

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
