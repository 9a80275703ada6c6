"""What ``ldmi benchmark`` does: read the grid, and carry out its cells, list them, or write them as a sweep."""

import contextlib
import difflib
import signal
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ldmi_lightning import files
from ldmi_lightning.benchmarking.bench import Benchmark
from ldmi_lightning.benchmarking.cells import Cell
from ldmi_lightning.benchmarking.grid import Grid, ParseFit, expand, read_grid
from ldmi_lightning.benchmarking.runner import Runner
from ldmi_lightning.benchmarking.sweep import sweep_config
from ldmi_lightning.benchmarking.tries import tries_of
from ldmi_lightning.commands.configuration import parse_stage
from ldmi_lightning.commands.engine_options import check_engine_options, engine_of, jobs_of
from ldmi_lightning.errors import UserError


def run(options: Namespace, parse_fit: ParseFit) -> int:
    """Carry out ``ldmi benchmark`` with its parsed options; see :func:`ldmi_lightning.commands.benchmark.run`."""
    check_engine_options(options)
    grid = read_grid(Path(options.grid))
    roots = data_roots(options.data_root, grid)
    cells = expand(grid, parse_fit)
    tries = tries_of(grid, cells, parse_stage)
    bench = Benchmark(grid, cells, tries, Path(options.output or Path("results") / grid.path.stem))
    if options.sweep is not None:
        return write_sweep(Path(options.sweep), bench.cells, options)
    if options.dry_run:
        return bench.list_cells()
    chosen = None if options.cell is None else [find_cell(options.cell, bench.cells)]
    with stopped_by_sigterm():
        try:
            with engine_of(options, bench.output) as engine:
                return bench.carry_out(chosen, Runner(bench.output, engine, jobs_of(options), roots))
        except KeyboardInterrupt as stop:
            print("\nStopped. The same command goes on from here.", flush=True)
            return 128 + int(stop.args[0] if stop.args else signal.SIGINT)


def data_roots(given: Sequence[str], grid: Grid) -> dict[str, str]:
    """Return where data sets lie, from words ``DATA=DIR``."""
    roots = {}
    for word in given:
        name, _, folder = word.partition("=")
        if name not in grid.data or not folder:
            raise UserError(f"--data_root takes DATA=DIR, with DATA of {', '.join(grid.data)}, but got {word}.")
        if not Path(folder).exists():
            raise UserError(f"--data_root {word}: there is no such folder.")
        roots[name] = folder
    return roots


def find_cell(name: str, cells: Sequence[Cell]) -> Cell:
    """Return the cell of a name."""
    by_name = {cell.name: cell for cell in cells}
    if name not in by_name:
        close = difflib.get_close_matches(name, by_name, n=1)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise UserError(f"The grid has no cell {name}. {hint}--dry_run lists them.")
    return by_name[name]


def write_sweep(path: Path, cells: Sequence[Cell], options: Any) -> int:
    """Write a sweep, and say what comes next."""
    words = ["ldmi", "benchmark", options.grid]
    words += [] if options.output is None else ["--output", options.output]
    words += [word for root in options.data_root for word in ("--data_root", root)]
    files.write(path, sweep_config(cells, words).encode())
    print(
        f"Sweep of {len(cells)} cells: {path}\n`wandb sweep {path}` registers it and names the agents' command, for any number "
        "of machines.\nThen copy each OUTPUT/cells to one machine, where the command without --cell writes the tables."
    )
    return 0


@contextlib.contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does."""

    def stop(number: int, _: Any) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
