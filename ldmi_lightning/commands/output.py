"""Where a command's output goes: to somebody who may have stopped reading, or into a folder that must be new."""

import os
import sys
from pathlib import Path

from ldmi_lightning.errors import UserError


def show(text: str) -> None:
    """Print, also where nobody reads on, as behind ``| head``."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def refuse_existing(folder: Path) -> None:
    """Refuse to write where something is already, or where no folder can be, before anything is computed.

    Raises:
        UserError: it is there, or lies below a file.

    >>> import tempfile
    >>> refuse_existing(Path(tempfile.mkdtemp()) / "new" / "folder")
    """
    if folder.exists():
        raise UserError(f"{folder} is there already. Remove or rename it, or give another folder with --output.")
    above = next((each for each in folder.parents if each.exists()), Path())
    if above.is_file():
        raise UserError(f"{folder} lies below {above}, which is a file: give another folder with --output.")
