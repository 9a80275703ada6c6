"""How processes end: what tells them to, and, on Linux alone, together with the one that started them, however that ends."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from functools import partial

ANNOUNCED = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
"""What a scheduler sends some time before it ends a job; Windows has neither."""

_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


def end_with(parent: int) -> None:
    """Let this process be killed as soon as its parent ends.

    Args:
        parent: process id of the parent; where it has ended already, so does this process now.
    """
    if sys.platform.startswith("linux"):
        _end_with(parent, ctypes.CDLL(None))


def end_with_parent() -> Callable[[], None] | None:
    """Return what a child calls first, as ``preexec_fn``, so that it does not outlive this process."""
    if not sys.platform.startswith("linux"):
        return None
    return partial(_end_with, os.getpid(), ctypes.CDLL(None))  # loaded here: between fork and exec little is safe


def _end_with(parent: int, libc: ctypes.CDLL) -> None:
    libc.prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
