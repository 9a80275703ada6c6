"""A command of `benchmarks/chaos.py` at work: forked from a process that has imported everything, and found in ``/proc``."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.strategies.launchers import subprocess_script

from ldmi_lightning.commands import main
from ldmi_lightning.commands.signals import ENDING
from ldmi_lightning.engines import work

# An import costs more than such a run.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["ldmi_lightning.commands.fit", "matplotlib.figure", "sklearn.datasets", "torch._dynamo"])
SCRIPT = str(Path(__file__).parents[1] / "ldmi_lightning/__main__.py")
MARK = "LDMI_CHAOS"
"""Environment variable by which all processes of a command are found, also those whose parent is no more."""
BEGUN = "Run folder: "
RANK, RUN = "ldmi rank", "ldmi fit"
"""What forked processes are called: that of another rank, and that of an engine's run."""


class Running:
    """A command at work in a folder.

    Args:
        words: the words after ``ldmi``.
        folder: in which it works.
        log: takes what it prints.
    """

    def __init__(self, words: list[str], folder: Path, log: Path) -> None:
        self.folder, self.log = folder, log
        log.touch()
        self._others = set(marked())
        self.process = FORKS.Process(target=_run, args=(words, folder, log))
        self.begun = time.monotonic()
        self.process.start()
        self.pid = self.process.pid or 0
        self._others |= {pid for pid in marked() if "forkserver" in words_of(pid) or "tracker" in words_of(pid)}

    def is_running(self) -> bool:
        """Whether its main process is."""
        return self.process.is_alive()

    def has_begun(self) -> bool:
        """Whether a run has: it has named its folder."""
        logs = [self.log, *self.folder.rglob("fit.log")]
        return any(BEGUN in log.read_text(errors="replace") for log in logs)

    def code(self, seconds: float) -> int | None:
        """Wait for its end; return the exit code, below 0 the signal that killed it; ``None`` where it has not ended."""
        self.process.join(seconds)
        return self.process.exitcode

    def processes(self) -> list[int]:
        """Return all that it has begun, and that have not ended."""
        return sorted(set(marked()) - self._others - {self.pid})

    def end(self) -> None:
        """Kill all of it."""
        for pid in [self.pid, *self.processes()]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.join()


def _run(words: list[str], folder: Path, log: Path) -> None:
    os.chdir(folder)
    if "ray" in words:
        os.environ["HOME"] = str(folder)  # where its nodes keep runs
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("ab") as file:
        _print_into(file)
    work.subprocess = subprocess_script.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": Forked})
    multiprocessing.set_start_method("fork", force=True)  # as in a command that a shell has begun
    torch.set_num_threads(1)
    _carry_out(words)


def _print_into(file: IO[bytes]) -> None:
    for stream in (1, 2):
        os.dup2(file.fileno(), stream)


def _carry_out(words: list[str]) -> None:
    sys.argv = [SCRIPT, *words]  # by which Lightning starts other ranks
    code = 1
    try:
        code = main(words)
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()  # as Python does, which this process does not end by
    finally:
        sys.stdout.flush()
        os._exit(code)


class Forked:
    """What a command takes for a :class:`subprocess.Popen` of ``ldmi``: a child with all that is imported.

    Args:
        args: the command line.
        env: its environment.
        stdout: takes what it prints; ``None`` for where this process prints.
        cwd: its working directory.
        preexec_fn: what it calls first.
        start_new_session: whether it has a session of its own.
    """

    def __init__(
        self,
        args: list[str],
        env: Mapping[str, str],
        stdout: IO[str] | None = None,
        cwd: Path | None = None,
        preexec_fn: Callable[[], None] | None = None,
        start_new_session: bool = False,
        **_: Any,
    ) -> None:
        self.returncode: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid:
            return
        ENDING.__exit__()  # the parent's
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if start_new_session:
            os.setsid()
        if preexec_fn is not None:
            preexec_fn()
        os.environ.clear()
        os.environ.update(env)
        if cwd is not None:
            os.chdir(cwd)
        if stdout is not None:
            _print_into(stdout)
        rank_zero_only.rank = int(env.get("LOCAL_RANK", 0))
        Path("/proc/self/comm").write_text(RANK if rank_zero_only.rank else RUN)
        _carry_out(args[next(n for n, word in enumerate(args) if "ldmi_lightning" in word and n) + 1 :])

    def poll(self) -> int | None:
        """Return its exit code; ``None`` while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("ldmi", timeout or 0)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Tell it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


def marked() -> list[int]:
    """Return the processes that carry the mark, but for this one."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (place / "environ").read_bytes().split(b"\0") and _lives(place):
                found.append(int(place.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def _lives(place: Path) -> bool:
    return (place / "stat").read_text().rpartition(")")[2].split()[0] != "Z"


def words_of(pid: int) -> str:
    """Return a process's command line; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def name_of(pid: int) -> str:
    """Return what is shown of a process."""
    return f"{pid} ({Path(f'/proc/{pid}/comm').read_text().strip()}) {words_of(pid)[:80]}"
