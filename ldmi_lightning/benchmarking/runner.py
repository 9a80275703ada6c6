"""Carrying out the cells of a grid by an engine: which are finished, failed or given out again is decided here, for all."""

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import yaml

from ldmi_lightning.benchmarking.cells import Cell, data_within
from ldmi_lightning.benchmarking.sweep import is_in_sweep
from ldmi_lightning.engines.work import GRACE_SECONDS, Engine, Outcome, Task, Work, put_into
from ldmi_lightning.errors import UserError
from ldmi_lightning.runs.folder import LOG, RESULTS, claim

POLL_SECONDS = 0.2
DEATHS = 3
"""A cell whose worker has died so often has failed."""


@dataclass
class Ended:
    """A cell that has ended: with results, or with what its run said last.

    Attributes:
        again: whether its worker has died, and the cell is given out again.
    """

    cell: Cell
    results: dict[str, Any] | None
    fault: str = ""
    again: bool = False


@dataclass
class _Job:
    """A run at work, and the cell's lock that is held meanwhile."""

    cell: Cell
    task: Task
    lock: TextIO


class Runner:
    """Carries out cells.

    Args:
        output: folder of the grid.
        engine: what carries out their runs.
        jobs: number of runs at a time.
        data_roots: where a data set lies where runs are carried out, by its name in the grid.
    """

    def __init__(self, output: Path, engine: Engine, jobs: int, data_roots: Mapping[str, str]) -> None:
        self.output = output
        self.engine = engine
        self.jobs = jobs
        self.data_roots = data_roots
        self.running: list[_Job] = []
        self.known: set[str] = set()
        """The prefixes of runs that have ended here: their stages are in the cache."""
        self.deaths: Counter[str] = Counter()

    def run(self, cells: Sequence[Cell], waiting: Callable[[], None]) -> Generator[Ended, None, None]:
        """Carry out cells, and yield each that has ended.

        A cell that shares stages with one at work begins after it, and takes them from the cache; one that another process has
        at work is waited for; one whose worker dies is given out again. When the iterator is closed, all runs are stopped.

        Args:
            cells: cells that are not finished.
            waiting: is called when only other processes' cells are left.
        """
        pending = list(cells)
        told = False
        try:
            while pending or self.running:
                yield from self._take_up(pending)
                if not self.running and pending and not told:
                    told = True
                    waiting()
                for job in list(self.running):
                    for ended in self._look_after(job):
                        if ended.again:
                            pending.insert(0, ended.cell)
                        yield ended
                time.sleep(POLL_SECONDS)
        finally:
            self._stop()

    def _take_up(self, pending: list[Cell]) -> Iterator[Ended]:
        """Begin cells, while there is room, that neither wait for stages of one at work here nor are at work elsewhere."""
        at_work = {prefix for job in self.running for prefix in job.cell.prefixes} - self.known
        for cell in list(pending):
            if len(self.running) >= self.jobs:
                return
            if self.engine.shares_disk and not at_work.isdisjoint(cell.prefixes):
                continue
            if found := cell.results(self.output):
                pending.remove(cell)
                yield Ended(cell, found)
                continue
            with contextlib.suppress(_AtWork):
                self._begin(cell)
                pending.remove(cell)
                at_work.update(set(cell.prefixes) - self.known)

    def _begin(self, cell: Cell) -> None:
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
            self.running.append(_Job(cell, self.engine.submit(self.work_of(cell)), lock))
            held.pop_all()

    def work_of(self, cell: Cell) -> Work:
        """Return the run of a cell."""
        options: dict[str, Any] = {}
        if self.engine.shares_disk:
            options["--stage_cache"] = self.output / "stages"
        if is_in_sweep():
            options["--trainer.logger"] = "WandbLogger"
        if cell.data in self.data_roots:
            within = data_within(cell.config) is not None
            options["--data.data.root" if within else "--data.root"] = self.data_roots[cell.data]
        words = [str(word) for option in options.items() for word in option]
        config = yaml.safe_dump(cell.config, sort_keys=False)
        return Work(cell.folder(self.output), config, cell.config["trainer"], words)

    def _look_after(self, job: _Job) -> Iterator[Ended]:
        """Where a run has ended, say whether its cell is finished, has failed, or is given out again."""
        if not job.task.done():
            return
        self.running.remove(job)
        folder = job.cell.folder(self.output)
        outcome, fault = None, ""
        try:
            outcome = job.task.result()
            if outcome.files is not None:
                put_into(folder, outcome.files)
        except RuntimeError as error:
            fault = str(error)
        found = job.cell.results(self.output)
        job.lock.close()
        if found:
            self.known.update(job.cell.prefixes)
            yield Ended(job.cell, found)
            return
        died = outcome is None or outcome.was_ended
        fault = fault if outcome is None else _last_line(folder / LOG, outcome)
        self.deaths[job.cell.name] += died
        again = died and self.deaths[job.cell.name] < DEATHS
        yield Ended(job.cell, None, fault, again)

    def _stop(self) -> None:
        """Let each run stop as if it had been asked to by itself, and end those that do not in time."""
        for job in self.running:
            job.task.cancel()
        end = time.monotonic() + GRACE_SECONDS
        with contextlib.suppress(KeyboardInterrupt):
            while time.monotonic() < end and not all(job.task.done() for job in self.running):
                time.sleep(POLL_SECONDS)
        for job in self.running:
            if not job.task.done():
                job.task.cancel()
            job.lock.close()
        self.running.clear()


class _AtWork(Exception):
    """Another process has the cell at work."""


def _last_line(log: Path, outcome: Outcome) -> str:
    """Return what a run said last."""
    if outcome.code < 0:
        return f"killed by {signal.Signals(-outcome.code).name}"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if outcome.code == 0 or lines[-1].startswith("$ "):
        return f"ended without {RESULTS}, exit code {outcome.code}"
    return lines[-1].strip()
