"""Runs as tasks of a Ray cluster; what they leave comes back as bytes, so that no disk need be shared."""

import contextlib
import hashlib
import logging
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from ldmi_lightning.engines.work import Outcome, Work, left_in
from ldmi_lightning.runs.folder import LOG

HOME = Path("~/.cache/ldmi_lightning/runs")
"""Where a node keeps runs that are at work, so that one that is given out again goes on where it can."""


class RayTask:
    """A run that Ray has taken on."""

    def __init__(self, reference: "ray.ObjectRef[Outcome]") -> None:
        self.reference = reference
        self._asked = False

    def done(self) -> bool:
        """Whether it has ended, or who carried it out has died."""
        return bool(ray.wait([self.reference], timeout=0)[0])

    def result(self) -> Outcome:
        """Wait for its end.

        Raises:
            RuntimeError: the worker or its node has died.
        """
        try:
            return ray.get(self.reference)
        except ray.exceptions.RayError as error:
            raise RuntimeError(f"its worker has died ({type(error).__name__})") from error

    def cancel(self) -> None:
        """Tell it to end; the second time, kill it."""
        with contextlib.suppress(ray.exceptions.RayError):
            ray.cancel(self.reference, force=self._asked)
        self._asked = True


class RayEngine:
    """Runs as tasks of the Ray cluster that ``RAY_ADDRESS`` names; without it, of one that is begun on this machine.

    Args:
        cpus: cores that a run asks for.
        gpus: GPUs that a run asks for.
    """

    shares_disk = False

    def __init__(self, cpus: int, gpus: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ours = not ray.is_initialized()
        if self._ours:
            stop = signal.getsignal(signal.SIGTERM)
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
            # Ray's own handler aborts the process, whose runs then do not stop by themselves.
            signal.signal(signal.SIGTERM, stop)
        # One that dies is given out again by who has asked for it, and by nobody else.
        self._task: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(carry_out)

    def describe(self) -> str:
        """Say which cluster it is."""
        nodes = sum(bool(node["Alive"]) for node in ray.nodes())
        return f"Ray: {nodes} node{'s' * (nodes > 1)}, {ray.cluster_resources().get('CPU', 0):g} cores."

    def submit(self, work: Work, /) -> RayTask:
        """Hand a run to the cluster."""
        return RayTask(self._task.remote(work))

    def shutdown(self) -> None:
        """Leave the cluster."""
        if self._ours:
            ray.shutdown()


def carry_out(work: Work) -> Outcome:
    """Carry out a run on the node where this is called, in a folder of its own there.

    A run that has ended leaves nothing there; one that has not is gone on with when it comes again.
    """
    asked = str(work.place / work.folder)
    own = HOME.expanduser() / f"{work.folder.name}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"
    outcome = replace(work, folder=own).carry_out()
    if outcome.code != 0:
        return Outcome(outcome.code, {LOG: (own / LOG).read_bytes()})
    left = left_in(own)
    shutil.rmtree(own)
    return Outcome(0, left)
