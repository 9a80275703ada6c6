"""Carrying out the cells of a grid: processes of `ldmi fit`, some at a time, which are resumed where they stopped."""

import contextlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import yaml

from ldmi_lightning import files
from ldmi_lightning.benchmarking.cells import DEVICE, Cell, data_within
from ldmi_lightning.benchmarking.machine import device_name, environment
from ldmi_lightning.benchmarking.sweep import is_in_sweep
from ldmi_lightning.checkpoints import read_checkpoint
from ldmi_lightning.errors import UserError
from ldmi_lightning.processes import end_with_parent
from ldmi_lightning.runs.folder import CONFIG, LAST, LOG, RESULTS, claim, is_run_folder

POLL_SECONDS = 0.2
GRACE_SECONDS = 30.0
"""So long may a run take to stop when it is asked to."""


@dataclass
class Ended:
    """A cell that has ended: with results, or with what its run said last."""

    cell: Cell
    results: dict[str, Any] | None
    fault: str = ""


@dataclass
class _Job:
    """A run at work, and the cell's lock that is held meanwhile."""

    cell: Cell
    process: subprocess.Popen[bytes]
    lock: TextIO


class Runner:
    """Carries out cells.

    Args:
        output: folder of the grid.
        jobs: number of runs at a time.
        data_roots: where a data set lies on this machine, by its name in the grid.
    """

    def __init__(self, output: Path, jobs: int, data_roots: Mapping[str, str]) -> None:
        self.output = output
        self.jobs = jobs
        self.data_roots = data_roots
        self.running: dict[int, _Job] = {}
        self.known: set[str] = set()
        """The prefixes of runs that have ended here: their stages are in the cache."""

    def run(self, cells: Sequence[Cell], waiting: Callable[[], None]) -> Generator[Ended, None, None]:
        """Carry out cells, and yield each that has ended.

        A cell that shares stages with one at work begins after it, and takes them from the cache; one that another process has
        at work is waited for. When the iterator is closed, all runs are stopped.

        Args:
            cells: cells that are not finished.
            waiting: is called when only other processes' cells are left.
        """
        pending = list(cells)
        told = False
        try:
            while pending or self.running:
                for slot in range(self.jobs):
                    if slot not in self.running:
                        yield from self._take_up(slot, pending)
                if not self.running and pending and not told:
                    told = True
                    waiting()
                for slot in list(self.running):
                    yield from self._look_after(slot)
                time.sleep(POLL_SECONDS)
        finally:
            self._stop()

    def _take_up(self, slot: int, pending: list[Cell]) -> Iterator[Ended]:
        """Begin the first cell that neither waits for stages of one at work here nor is at work elsewhere."""
        at_work = {prefix for job in self.running.values() for prefix in job.cell.prefixes} - self.known
        for cell in list(pending):
            if not at_work.isdisjoint(cell.prefixes):
                continue
            if found := cell.results(self.output):
                pending.remove(cell)
                yield Ended(cell, found)
                continue
            with contextlib.suppress(_AtWork):
                self._begin(slot, cell)
                pending.remove(cell)
                return

    def _begin(self, slot: int, cell: Cell) -> None:
        folder = cell.folder(self.output)
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            try:
                lock = held.enter_context(claim(folder))
                for run in cell.runs(self.output):
                    claim(run).close()  # a run may have outlived its runner
            except UserError as error:
                raise _AtWork from error
            if cell.results(self.output):  # of another process, a moment ago
                raise _AtWork
            command = self._command(cell)
            trainer = cell.config["trainer"]
            own = environment(trainer, slot if self.jobs > 1 else None)
            files.write(folder / DEVICE, f"{device_name(trainer, own)}\n".encode())
            with (folder / LOG).open("a") as log:
                print(f"$ {shlex.join(command)}", file=log, flush=True)
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=own,
                    start_new_session=True,  # Ctrl-C reaches it through this process alone
                    preexec_fn=end_with_parent(),
                )
            self.running[slot] = _Job(cell, process, lock)
            held.pop_all()

    def _command(self, cell: Cell) -> list[str]:
        """Return the command that begins a cell, or resumes what is left of it."""
        folder = cell.folder(self.output)
        resumed = _whole_checkpoint(cell.runs(self.output))
        for left in folder.iterdir():
            if left.is_dir() and (resumed is None or left != resumed.parent):
                shutil.rmtree(left)
        files.write(folder / CONFIG, yaml.safe_dump(cell.config, sort_keys=False).encode())
        options: dict[str, Any] = {
            "--config": folder / CONFIG,
            "--trainer.default_root_dir": folder,
            "--stage_cache": self.output / "stages",
        }
        if is_in_sweep():
            options["--trainer.logger"] = "WandbLogger"
        if cell.data in self.data_roots:
            within = data_within(cell.config) is not None
            options["--data.data.root" if within else "--data.root"] = self.data_roots[cell.data]
        if resumed is not None:
            options["--ckpt_path"] = resumed
        words = [str(word) for option in options.items() for word in option]
        return [sys.executable, "-m", "ldmi_lightning", "fit", *words]

    def _look_after(self, slot: int) -> Iterator[Ended]:
        """Where a run has ended, report its cell."""
        job = self.running[slot]
        code = job.process.poll()
        if code is None:
            return
        del self.running[slot]
        found = job.cell.results(self.output)
        job.lock.close()
        self.known.update(job.cell.prefixes if found else [])
        yield Ended(job.cell, found, "" if found else _last_line(job.cell.folder(self.output) / LOG, code))

    def _stop(self) -> None:
        """Let each run stop as if it had been asked to by itself, and end those that do not in time."""
        for job in self.running.values():
            job.process.terminate()
        end = time.monotonic() + GRACE_SECONDS
        for job in self.running.values():
            try:
                job.process.wait(max(0.0, end - time.monotonic()))
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                job.process.kill()
                job.process.wait()
            job.lock.close()
        self.running.clear()


class _AtWork(Exception):
    """Another process has the cell at work."""


def _whole_checkpoint(runs: Sequence[Path]) -> Path | None:
    """Return the checkpoint from which a run can be resumed, if there is one that can be read."""
    for run in filter(is_run_folder, runs):
        with contextlib.suppress(UserError):
            read_checkpoint(run / LAST)
            return run / LAST
    return None


def _last_line(log: Path, code: int) -> str:
    """Return what a run said last."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if code == 0 or lines[-1].startswith("$ "):
        return f"ended without {RESULTS}, exit code {code}"
    return lines[-1].strip()
