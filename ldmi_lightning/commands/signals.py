"""How a command ends when it is told to, and how the processes of a run on several ranks end together.

SIGTERM tells it, and so do SIGUSR1 and SIGUSR2, by which schedulers announce the end of a job's time: these are passed on as
SIGTERM, and the exit code says which it was.

Lightning's own handler broadcasts, and waits for ever where one rank alone is signalled; and while PyTorch waits for another
rank, no handler of Python's runs at all. So a run on several ranks has a thread that hears of the signal in any case, passes
it to the ranks that this process has launched, sees when one of them has died, and ends the process where it has not ended
by itself in time. A single process is left to Lightning while it trains: it stops after the batch.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, MutableSequence
from types import FrameType
from typing import Any, NoReturn

from ldmi_lightning.processes import ANNOUNCED, end_with

GRACE_SECONDS = 10.0
"""So long may a process take to end by itself."""
PATIENCE_SECONDS = 2.0
"""So long may it take to learn by itself, from a broken connection, that another rank has died."""
POLL_SECONDS = 0.2
LAUNCHER = "LDMI_LAUNCHER"
"""Environment variable by which a launched rank knows the process that it must not outlive."""

LOST = "Another process of this run has stopped; its own line says why."

Children = MutableSequence["subprocess.Popen[Any]"]


class Stopped(SystemExit):
    """The command was told to end; the exit code is 128 and the number of the signal that told it.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number

    def __str__(self) -> str:
        """Say what told it.

        >>> print(Stopped(15), Stopped(15).code)
        stopped by SIGTERM. 143
        """
        return f"stopped by {signal.Signals(self.number).name}."


class Ending:
    """The process's handler of the signals that tell it to end, and the watch over the ranks that it has launched.

    Attributes:
        told: number of the signal that has told the process to end; ``None`` before.
        begun: whether it is ending by :class:`Stopped`, rather than by Lightning's own means.
        lost: whether that was since a rank that it has launched has died.
        at_work: whether the command has something to put in order before it ends; it ends at once before that.
    """

    def __init__(self) -> None:
        self.told: int | None = None
        self.begun = self.lost = self.at_work = False
        self._deadline = float("inf")
        self._before: dict[int, Any] = {}
        self._hook: Callable[[Any], Any] | None = None
        self._watched: Callable[[], Children] | None = None
        self._ranks: list[subprocess.Popen[Any]] = []
        self._of_ranks = threading.RLock()  # a handler may come in the midst of it
        self._wake: socket.socket | None = None

    # -- the handler --------------------------------------------------------------------------------------------------

    def __enter__(self) -> "Ending":
        self.told = None
        self.begun = self.lost = self.at_work = False
        self._deadline = float("inf")
        if not _in_main_thread():
            return self
        self._before = {number: signal.getsignal(number) for number in (signal.SIGTERM, *ANNOUNCED)}
        self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        self.install()
        for number in ANNOUNCED:
            signal.signal(number, self._pass_on)
        self._start_watch()
        if _local_rank() > 0 and (launcher := os.environ.get(LAUNCHER)):
            end_with(int(launcher))
        elif _local_rank() == 0:
            os.environ[LAUNCHER] = str(os.getpid())
        return self

    def __exit__(self, *_: object) -> None:
        if self._hook is None:
            return
        self._stop_watch()
        if _local_rank() == 0:
            os.environ.pop(LAUNCHER, None)
        sys.unraisablehook, self._hook = self._hook, None
        for number, before in self._before.items():
            signal.signal(number, before)

    def install(self) -> None:
        """Handle SIGTERM, in the place of whatever did."""
        if _in_main_thread():
            signal.signal(signal.SIGTERM, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Raise :class:`Stopped`, once."""
        self.told = self.told or number
        ours = signal.getsignal(signal.SIGTERM) is self
        if not ours:
            return  # called by Lightning's own handler, which stops a single process after its batch
        if not self.at_work:
            self._end_now()  # in the midst of an import, an exception might be caught
        if not self.begun:
            self.begun = True
            self.hurry()
            raise self.stopped

    @property
    def stopped(self) -> Stopped:
        """What ends the command that has been told to end."""
        return Stopped(self.told or signal.SIGTERM)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Take what a scheduler announces for the end itself."""
        self.told = self.told or number
        os.kill(os.getpid(), signal.SIGTERM)

    def _unraisable(self, found: Any) -> None:
        """End at once where Python has swallowed :class:`Stopped`, as it does in a finaliser."""
        if issubclass(found.exc_type, Stopped):
            self._end_now()
        if self._hook is not None:
            self._hook(found)

    def _end_now(self, lost: bool = False) -> NoReturn:
        """End without the main thread, which may be waiting for something that never comes."""
        os.write(2, f"ldmi: {f'error: {LOST}' if lost else self.stopped}\n".encode())
        for child in self._children():
            child.kill()
        os._exit(2 if lost else 128 + self.stopped.number)

    # -- the watch ----------------------------------------------------------------------------------------------------

    def watch(self, children: Callable[[], Children]) -> None:
        """Look after a run on several ranks from now on.

        Args:
            children: returns the launcher's list of the ranks that this process has launched so far. They are taken out of it:
                Lightning looks at it every five seconds, and kills this process without a word beside a rank that has failed.
        """
        self._watched = children

    def hurry(self) -> None:
        """Let the process end within the time of grace, since a fault has ended its run."""
        self._deadline = min(self._deadline, time.monotonic() + GRACE_SECONDS)

    def close_ranks(self, failed: bool) -> None:
        """Wait for the ranks that this process has launched, and kill those that do not end in time."""
        end = time.monotonic() + (PATIENCE_SECONDS if failed else GRACE_SECONDS)
        children, self._watched, self._ranks = self._children(), None, []
        for child in children:
            try:
                child.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def forget(self) -> None:
        """Let a forked process, such as one that reads data, be ended by SIGTERM without a word to this one.

        What a scheduler announces to all processes of a job is left to this one, which ends the others.
        """
        if self._wake is not None:
            signal.set_wakeup_fd(-1)
            for number in ANNOUNCED:
                signal.signal(number, signal.SIG_IGN)
        if signal.getsignal(signal.SIGTERM) is self:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _children(self) -> list["subprocess.Popen[Any]"]:
        with self._of_ranks:
            launched = [] if self._watched is None else self._watched()
            while launched:
                self._ranks.append(launched.pop(0))
            return list(self._ranks)

    def _start_watch(self) -> None:
        heard, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        # Python writes to it in the signal's own moment, also while the main thread waits in PyTorch.
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._look_after, args=(heard,), daemon=True, name="ending").start()

    def _stop_watch(self) -> None:
        self._watched, self._ranks = None, []
        if self._wake is not None:
            signal.set_wakeup_fd(-1)
            self._wake.close()  # by which the thread ends
            self._wake = None

    def _look_after(self, heard: socket.socket) -> None:
        died, woken = float("inf"), False
        while True:
            if select.select([heard], [], [], POLL_SECONDS)[0]:
                told = heard.recv(4096)
                if not told:
                    heard.close()
                    return
                signals = {signal.SIGTERM, *ANNOUNCED}.intersection(told)
                if signals and self._watched is not None and not woken:
                    self.told = self.told or min(signals - {signal.SIGTERM}, default=signal.SIGTERM)
                    self.hurry()
                    for child in self._children():
                        child.terminate()
            now = time.monotonic()
            if self._drop_dead() and self._deadline == float("inf"):
                died = now
                self.hurry()
            if not woken and now > died + PATIENCE_SECONDS:
                woken = self.lost = True
                os.kill(os.getpid(), signal.SIGTERM)
            if now > self._deadline:
                self._end_now(lost=died < float("inf"))

    def _drop_dead(self) -> bool:
        """Look after ranks that have failed no longer; return whether there were any."""
        with self._of_ranks:
            dead = [child for child in self._children() if child.poll()]
            self._ranks = [child for child in self._ranks if child not in dead]
        return bool(dead)


ENDING = Ending()
"""The process's own: a process has one handler of a signal."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ENDING.forget)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK") or 0)
