"""Print for somebody who may have stopped reading."""

import os
import sys


def show(text: str) -> None:
    """Print, also where nobody reads on, as behind ``| head``."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
