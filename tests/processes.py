"""What Linux says of processes in ``/proc``: shared by the tests that kill some."""

import contextlib
from pathlib import Path


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has begun and that it has not waited for; none of one that is no more."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def is_running(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
