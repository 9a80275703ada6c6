"""What an engine costs a run, over the bare process that carries the same one out.

    python benchmarks/engines.py

The run does nothing but leave a file of ``--megabytes`` in its folder, about what a small run's checkpoints take. In turn it is
a bare process, and handed to ``local``, to ``slurm`` (submitit's processes of this machine where there is no SLURM: what a
queue adds is not in it) and to ``ray`` (a cluster on this machine), and asked after as often as ``ldmi benchmark`` does.
Printed are the wall's seconds beyond the bare process of the same round: of the first run, which may begin a worker, and the
median of the others. An engine that is not installed is left out, and named.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ldmi_lightning.benchmarking.runner import POLL_SECONDS
from ldmi_lightning.commands.engine_options import ENGINES, add_engine_options, engine_of
from ldmi_lightning.engines.work import Engine, Outcome, Work
from ldmi_lightning.errors import UserError


class LeavesAFile(Work):
    """A run that does nothing else; its configuration is how many bytes the file has."""

    def start(self) -> "subprocess.Popen[bytes]":
        """Begin it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write = "import os, sys; open(sys.argv[1], 'wb').write(os.urandom(int(sys.argv[2])))"
        return subprocess.Popen([sys.executable, "-c", write, str(self.folder / "last.ckpt"), self.config])


@contextlib.contextmanager
def engines(folder: Path) -> Iterator[dict[str, Engine]]:
    """Make the engines that are installed, and say how long each takes to begin."""
    parser = argparse.ArgumentParser()
    add_engine_options(parser)
    with contextlib.ExitStack() as held:
        made = {}
        for name in ENGINES:
            begun = time.perf_counter()
            try:
                made[name] = held.enter_context(engine_of(parser.parse_args(["--engine", name]), folder / name))
            except UserError as error:
                print(f"{name}: left out. {error}")
            else:
                print(f"{name}: begun in {time.perf_counter() - begun:.1f} s")
        yield made


def carry_out(work: Work, engine: Engine | None) -> float:
    """Return how long a run takes on an engine, or as a bare process."""
    begun = time.perf_counter()
    if engine is None:
        outcome = work.carry_out()
    else:
        task = engine.submit(work)
        while not task.done():
            time.sleep(POLL_SECONDS)
        outcome = task.result()
    taken = time.perf_counter() - begun
    came_back = engine is None or engine.shares_disk or len((outcome.files or {})["last.ckpt"]) == int(work.config)
    if not came_back or outcome.code != 0:
        raise SystemExit(f"{work.folder}: {Outcome(outcome.code)}")
    return taken


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--megabytes", type=float, default=5)
    options = parser.parse_args()
    size = str(round(options.megabytes * 1e6))
    with tempfile.TemporaryDirectory() as place, engines(Path(place)) as made:
        beyond: dict[str, list[float]] = {name: [] for name in made}
        for number in range(options.rounds):
            bare = carry_out(LeavesAFile(Path(place) / f"bare-{number}", size, {}, []), None)
            for name, engine in made.items():
                work = LeavesAFile(Path(place) / f"{name}-{number}", size, {}, [])
                beyond[name].append(carry_out(work, engine) - bare)
    for name, (first, *others) in beyond.items():
        print(f"{name}: {first:.2f} s, later {np.median(others):.2f} s (from {min(others):.2f} to {max(others):.2f} s)")


if __name__ == "__main__":
    main()
