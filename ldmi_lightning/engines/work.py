"""One run of ``ldmi fit``, as any engine carries it out: in a folder, begun there or gone on with."""

import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ldmi_lightning import files
from ldmi_lightning.checkpoints import read_checkpoint
from ldmi_lightning.engines.machine import device_name, environment
from ldmi_lightning.errors import UserError
from ldmi_lightning.processes import ANNOUNCED, end_with_parent
from ldmi_lightning.runs.folder import CONFIG, LAST, LOG, is_run_folder

DEVICE = "device.txt"
"""Says in words what a run was carried out on."""
RUN = "run"
"""The run's own folder, in that of the work."""
GRACE_SECONDS = 30.0
"""So long may a run take to stop when it is asked to."""


class Outcome(NamedTuple):
    """How a run has ended.

    Attributes:
        code: its exit code; below 0 the signal that killed it.
        files: what it has left, by the path within its folder, where that is on another machine's disk.
    """

    code: int
    files: Mapping[str, bytes] | None = None

    @property
    def was_ended(self) -> bool:
        """Whether something from outside has ended it: it was killed, or told to end."""
        return self.code < 0 or self.code - 128 in ENDED_BY


ENDED_BY = {signal.SIGINT, signal.SIGTERM, *ANNOUNCED}


class Task(Protocol):
    """A run that an engine has taken on, in the shape of a :class:`concurrent.futures.Future`."""

    def done(self) -> bool:
        """Whether it has ended."""

    def result(self) -> Outcome:
        """Return how it has ended; raise where who carried it out has died."""

    def cancel(self) -> object:
        """Ask it to stop; asked again, it is killed."""


class Engine(Protocol):
    """What carries runs out, in the shape of a :class:`concurrent.futures.Executor`.

    Attributes:
        shares_disk: whether runs stand in the folder that they are given, so that one takes finished stages of another.
    """

    shares_disk: bool

    def submit(self, work: "Work", /) -> Task:
        """Take on a run."""

    def shutdown(self) -> None:
        """Let go of what carries runs out; none is at work."""


@dataclass
class Work:
    """A run of ``ldmi fit``; another process, on another machine, can have it.

    Attributes:
        folder: where it stands: with its log and, in a folder ``run``, what ``ldmi fit`` keeps.
        config: the text of its ``config.yaml``.
        trainer: the Trainer's part of it.
        words: further options of ``ldmi fit``.
        place: the working directory, where it is there.
        slot: which of several runs at a time it is; ``None`` for one at a time, which may have all GPUs.
    """

    folder: Path
    config: str
    trainer: Mapping[str, Any]
    words: list[str]
    place: Path = field(default_factory=Path.cwd)
    slot: int | None = None

    def start(self) -> "subprocess.Popen[bytes]":
        """Begin the run, or go on with what is left of it; where its last checkpoint cannot be read, begin anew."""
        self.folder.mkdir(parents=True, exist_ok=True)
        run = self.folder / RUN
        for left in self.folder.iterdir():
            if left.is_dir() and (left != run or not _can_go_on(run)):
                shutil.rmtree(left)
        files.write(self.folder / CONFIG, self.config.encode())
        own = environment(self.trainer, self.slot)
        files.write(self.folder / DEVICE, f"{device_name(self.trainer, own)}\n".encode())
        words = ["--config", str(self.folder / CONFIG), "--run_folder", str(run), *self.words]
        command = [sys.executable, "-m", "ldmi_lightning", "fit", *words]
        with (self.folder / LOG).open("a") as log:
            print(f"$ {shlex.join(command)}", file=log, flush=True)
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.place if self.place.is_dir() else None,
                env=own,
                start_new_session=True,  # Ctrl-C reaches it through who has begun it alone
                preexec_fn=end_with_parent(),
            )

    def carry_out(self) -> Outcome:
        """Carry the run out."""
        return finish(self.start())


def finish(process: "subprocess.Popen[bytes]") -> Outcome:
    """Wait for a run's end; whatever ends this process ends the run, too."""
    try:
        return Outcome(process.wait())
    finally:
        stop(process)


def _can_go_on(run: Path) -> bool:
    if not is_run_folder(run):
        return False
    try:
        read_checkpoint(run / LAST)
    except UserError:
        return False
    return True


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Let a run stop as if it had been told to by itself, and kill it where it does not in time."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()


def left_in(folder: Path) -> dict[str, bytes]:
    """Return what a run has left, by the path within its folder; locks are nobody's else."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def put_into(folder: Path, left: Mapping[str, bytes]) -> None:
    """Write what a run has left on another machine into a folder of this one; its results come last.

    Raises:
        ValueError: a path leads out of the folder.
    """
    for name in sorted(left, key=lambda name: name.endswith("results.json")):
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{name} leads out of {folder}")
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, left[name])
