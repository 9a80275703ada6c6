"""Runs as processes of this machine."""

import subprocess
from dataclasses import replace

from ldmi_lightning.engines.work import Outcome, Work


class LocalTask:
    """A run's process."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self._asked = False

    def done(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def result(self) -> Outcome:
        """Wait for its end."""
        return Outcome(self.process.wait())

    def cancel(self) -> None:
        """Tell it to end; the second time, kill it."""
        if self._asked:
            self.process.kill()
            self.process.wait()
        else:
            self.process.terminate()
        self._asked = True


class LocalEngine:
    """Runs as processes of this machine, which end with this one.

    Args:
        jobs: so many are at work at a time; on GPUs each has one of its own.
    """

    shares_disk = True

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.slots: dict[int, LocalTask] = {}

    def submit(self, work: Work, /) -> LocalTask:
        """Begin a run."""
        self.slots = {slot: task for slot, task in self.slots.items() if not task.done()}
        slot = next(number for number in range(len(self.slots) + 1) if number not in self.slots)
        task = LocalTask(replace(work, slot=slot if self.jobs > 1 else None).start())
        self.slots[slot] = task
        return task

    def shutdown(self) -> None:
        """Hold nothing."""
