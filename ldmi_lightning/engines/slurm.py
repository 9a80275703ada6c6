"""Runs as jobs of SLURM, by ``submitit``; where there is no SLURM, it keeps them on this machine, and says so."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError

from ldmi_lightning.engines.work import Outcome, Work, finish, stop
from ldmi_lightning.errors import UserError

CONTROLLERS = "controllers.log"
"""What submitit's processes of this machine say where no SLURM is: a traceback, where a job of theirs is cancelled."""


class Job:
    """What a job does; SLURM's announcement of its end puts it in the queue again."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __call__(self) -> Outcome:
        """Carry the run out."""
        self.process = self.work.start()
        return finish(self.process)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """End the run at its last whole epoch, from which the next job goes on."""
        stop(self.process)
        return submitit.helpers.DelayedSubmission(Job(self.work))


class SlurmTask:
    """A run's job."""

    def __init__(self, job: "submitit.Job[Outcome]") -> None:
        self.job = job

    def done(self) -> bool:
        """Whether it has ended."""
        return self.job.done()

    def result(self) -> Outcome:
        """Wait for its end.

        Raises:
            RuntimeError: the job was killed.
        """
        try:
            return self.job.result()
        except (UncompletedJobError, FailedJobError) as error:
            raise RuntimeError(f"its job {self.job.job_id} has died ({type(error).__name__})") from error

    def cancel(self) -> None:
        """Cancel it."""
        self.job.cancel(check=False)


class SlurmEngine:
    """Runs as jobs of SLURM, which all see the folder of the grid.

    Args:
        folder: of the jobs' own files and logs.
        cpus: cores of a job.
        gpus: GPUs of a job.
        partition: in which they are queued; ``None`` for SLURM's default.
        minutes: after which SLURM ends a job.
    """

    shares_disk = True

    def __init__(self, folder: Path, cpus: int, gpus: int, partition: str | None, minutes: int) -> None:
        self._executor = submitit.AutoExecutor(folder)
        options: dict[str, Any] = {"name": "ldmi", "timeout_min": minutes, "cpus_per_task": cpus, "gpus_per_node": gpus}
        if partition is not None:
            options["slurm_partition"] = partition
        self._executor.update_parameters(**options)

    def describe(self) -> str:
        """Say where jobs go."""
        if self._executor.cluster == "slurm":
            return "SLURM: each run a job."
        return "There is no SLURM here (no srun): jobs are processes of this machine, without a queue."

    def submit(self, work: Work, /) -> SlurmTask:
        """Queue a run.

        Raises:
            UserError: SLURM refuses the job.
        """
        try:
            with _errors_into(self._executor.folder / CONTROLLERS):
                return SlurmTask(self._executor.submit(Job(replace(work, folder=work.folder.absolute()))))
        except FailedSubmissionError as error:
            raise UserError(f"SLURM refuses the job: {str(error).strip().splitlines()[-1]}") from error

    def shutdown(self) -> None:
        """Hold nothing: jobs are SLURM's."""


@contextlib.contextmanager
def _errors_into(path: Path) -> Iterator[None]:
    """Let processes that begin meanwhile write their errors into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(own, 2)
        os.close(own)
