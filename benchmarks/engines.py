"""What an engine costs: a cell of a grid on each, against the bare process of `ldmi fit` that carries the same run out.

    python benchmarks/engines.py --rounds 5

A cell of ``configs/grids/quickstart.yaml``, of one epoch a stage, in turn as a bare process, on ``local``, ``slurm`` (submitit's
processes of this machine where there is no SLURM) and ``ray`` (a cluster on this machine), all in a new folder, one at a time.
Printed are medians over the rounds of the wall's seconds beyond the bare process of the same round: from when a cell is to be
carried out to when its results are read. An engine that is not installed is left out, and named.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ldmi_lightning.benchmarking.cells import Cell
from ldmi_lightning.benchmarking.grid import expand, read_grid
from ldmi_lightning.benchmarking.runner import Runner
from ldmi_lightning.commands import parse_fit
from ldmi_lightning.commands.engine_options import ENGINES, LOCAL, add_engine_options, engine_of
from ldmi_lightning.engines.work import Engine
from ldmi_lightning.errors import UserError
from ldmi_lightning.runs.folder import LOG

GRID = Path(__file__).parents[1] / "configs/grids/quickstart.yaml"


def short(cell: Cell) -> Cell:
    """Return the cell with one epoch a stage, on the CPU, without a logger."""
    model = cell.config["model"]
    stages = {name: {**model["init_args"][name], "epochs": 1} for name in ("warmup", "robust")}
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    config = {
        **cell.config,
        "trainer": {**cell.config["trainer"], **quiet},
        "model": {**model, "init_args": {**model["init_args"], **stages}},
    }
    return replace(cell, config=config)


def seconds(cell: Cell, engine: Engine, folder: Path, bare: bool = False) -> float:
    """Return how long a cell takes on an engine, as ``ldmi benchmark`` has it carried out, or as a bare process."""
    runner = Runner(folder, engine, 1, {})
    begun = time.perf_counter()
    if bare:
        work = runner.work_of(cell)
        fault = "" if work.carry_out().code == 0 else (work.folder / LOG).read_text()
    else:
        (ended,) = runner.run([cell], lambda: None)
        fault = ended.fault
    if fault:
        raise SystemExit(fault)
    return time.perf_counter() - begun


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


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    cell = short(expand(read_grid(GRID), parse_fit)[0])
    with tempfile.TemporaryDirectory() as place, engines(Path(place)) as made:
        taken: dict[str, list[float]] = {name: [] for name in ("bare", *made)}
        for number in range(rounds):
            taken["bare"].append(seconds(cell, made[LOCAL], Path(place) / f"bare-{number}", bare=True))
            for name, engine in made.items():
                taken[name].append(seconds(cell, engine, Path(place) / f"{name}-{number}"))
    print(f"bare process: {np.median(taken['bare']):.2f} s")
    for name in made:
        beyond = np.subtract(taken[name], taken["bare"])
        print(f"{name}: {np.median(beyond):+.2f} s a cell (from {beyond.min():+.2f} to {beyond.max():+.2f})")


if __name__ == "__main__":
    main()
