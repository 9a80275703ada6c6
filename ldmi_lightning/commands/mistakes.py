"""What a command says of an error: one line with the next step, or nothing where only a traceback explains it."""

import re

from ldmi_lightning.commands.signals import LOST

# What PyTorch's RuntimeErrors say when a process that reads data has died, and when another rank has.
LOST_WORKER = "DataLoader worker (pid"
LOST_RANK = re.compile(
    r"(closed|reset) by peer|Broken pipe|Socket closed|failed to (recv|connect)|TCPStore|connectFullMesh|NCCL|Gloo|gloo"
)


MAKE_ROOM = "Make room, or choose another folder with"


def line_of(error: Exception, command: str = "fit") -> str:
    """Say what went wrong; nothing for an error that only a traceback explains.

    Args:
        error: what was raised.
        command: in which.

    >>> line_of(OSError(28, "No space left on device", "out/table.md"), "benchmark")
    'No space left on device (out/table.md). Make room, or choose another folder with --output.'
    """
    if isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        if command not in ("fit", "validate", "test"):  # which have no --output
            return f"{error.strerror}{place}. {MAKE_ROOM} --output."
        return (
            f"{error.strerror}{place}. {MAKE_ROOM} --trainer.default_root_dir; a run that was stopped is resumed with "
            "--ckpt_path RUN/last.ckpt."
        )
    said = " ".join(str(error).split())
    if not isinstance(error, RuntimeError):
        return said
    if said.startswith(LOST_WORKER):
        return f"{said.rstrip('.')}. Is memory short? Lower --data.num_workers; 0 reads in the main process."
    return LOST if LOST_RANK.search(said) else ""
