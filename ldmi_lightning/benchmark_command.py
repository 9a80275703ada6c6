"""``ldmi benchmark``: carry out a grid of runs, and draw up its tables and its figure."""

import argparse
import contextlib
import difflib
import shlex
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ldmi_lightning.benchmarking.cells import DEVICE, LOG, Cell
from ldmi_lightning.benchmarking.figure import draw
from ldmi_lightning.benchmarking.grid import Grid, ParseFit, expand, groups, read_grid
from ldmi_lightning.benchmarking.progress import Progress
from ldmi_lightning.benchmarking.runner import Ended, Runner
from ldmi_lightning.benchmarking.summary import Spread, summarise
from ldmi_lightning.benchmarking.sweep import sweep_config
from ldmi_lightning.benchmarking.tables import comma_separated, markdown, percent, write
from ldmi_lightning.errors import UserError

TABLE, NUMBERS, FIGURE = "table.md", "table.csv", "figure.png"

DESCRIPTION = f"""\
Carry out a grid of runs: data × noise pattern × r × method × seed.

Each cell of the grid is a run of `ldmi fit` in a folder of its own, OUTPUT/cells/NAME-KEY, with its log and its
results.json. After each cell OUTPUT/{TABLE}, {NUMBERS} and {FIGURE} are drawn up from all that is finished.

The same command again passes over finished cells, goes on with those that were stopped, and tries failed ones again. A
finished cell is known by its configuration: copy OUTPUT/cells to another machine, and it counts there, too.
"""

EXAMPLE = """\
A grid, for example; files are looked for around the grid's file, and then in the working directory:

  data:
    digits:
      config: configs/quickstart.yaml         # or a list of files, a later one laid over the former
      noise:                                  # none: the labels as they are
        class-dependent: {class_path: ClassDependentNoise, init_args: {flips: {9: 1, 2: 0}}}
        class-independent: {class_path: SymmetricNoise}
  rates: [0.3, 0.6]                           # r, the rate of each noise
  methods: [ce, dmi]                          # configs/methods/NAME.yaml; others: {ce: null, mine: [mine.yaml]}
  seeds: [1, 2, 3]                            # of the run and of its noise
  options: {model.warmup.epochs: 5}           # of all cells, as for `ldmi fit`
"""


class BenchmarkParser(argparse.ArgumentParser):
    """The parser of ``ldmi benchmark``."""

    def error(self, message: str) -> NoReturn:
        """Raise a :class:`UserError`."""
        raise UserError(f"{message}. `ldmi benchmark --help` lists the options.")


def run(args: Sequence[str], parse_fit: ParseFit) -> int:
    """Carry out ``ldmi benchmark``.

    Args:
        args: the words after ``benchmark``.
        parse_fit: turns the options of ``ldmi fit`` into the whole configuration.

    Returns:
        The exit code: 1 where a cell has failed, 128 and the signal's number where a signal ended the command.
    """
    options = _parser().parse_args(args)
    if options.jobs < 1:
        raise UserError(f"--jobs must be at least 1, but got {options.jobs}.")
    grid = read_grid(Path(options.grid))
    roots = data_roots(options.data_root, grid)
    cells = expand(grid, parse_fit)
    bench = Benchmark(grid, cells, Path(options.output or Path("results") / grid.path.stem))
    if options.sweep is not None:
        return write_sweep(Path(options.sweep), cells, options)
    if options.dry_run:
        return bench.list_cells()
    chosen = cells if options.cell is None else [find_cell(options.cell, cells)]
    with stopped_by_sigterm():
        try:
            return bench.carry_out(chosen, Runner(bench.output, options.jobs, roots))
        except KeyboardInterrupt as stop:
            print("\nStopped. The same command goes on from here.", flush=True)
            return 128 + int(stop.args[0] if stop.args else signal.SIGINT)


def _parser() -> BenchmarkParser:
    parser = BenchmarkParser(
        prog="ldmi benchmark",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("grid", metavar="GRID.yaml", help="the grid, such as configs/grids/quickstart.yaml")
    parser.add_argument("--output", metavar="DIR", help="folder of the grid (default: results/GRID)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="number of runs at a time (default: 1)")
    parser.add_argument(
        "--data_root",
        action="append",
        default=[],
        metavar="DATA=DIR",
        help="where a data set of the grid lies on this machine (default: as its configuration says); can be repeated",
    )
    parser.add_argument("--dry_run", action="store_true", help="list the cells, and which are finished")
    parser.add_argument("--cell", metavar="NAME", help="carry out this cell alone")
    parser.add_argument(
        "--sweep",
        metavar="FILE",
        help="write the grid as a W&B sweep, of which each run of `wandb agent`, on any machine, carries out one cell",
    )
    return parser


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
    write(path, sweep_config(cells, words).encode())
    print(
        f"Sweep of {len(cells)} cells: {path}\n`wandb sweep {path}` registers it and names the agents' command, for any number "
        "of machines.\nThen copy each OUTPUT/cells to one machine, where the command without --cell draws up the tables."
    )
    return 0


class Benchmark:
    """A grid, its folder, and what is finished of it."""

    def __init__(self, grid: Grid, cells: Sequence[Cell], output: Path) -> None:
        self.grid = grid
        self.cells = cells
        self.output = output
        self.results = {cell.name: found for cell in cells if (found := cell.results(output)) is not None}
        self.failed: dict[str, str] = {}

    def list_cells(self) -> int:
        """Print the cells."""
        for cell in self.cells:
            print(f"{'finished' if cell.name in self.results else 'to do':8}  {cell.name}")
        print(f"{len(self.cells)} cells, {len(self.results)} of them finished, in {self.output}")
        return 0

    def carry_out(self, chosen: Sequence[Cell], runner: Runner) -> int:
        """Carry out the cells that are not finished, and draw up the tables after each; return the exit code."""
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.output} cannot be made: {error.strerror}. Choose another folder with --output."
            ) from error
        to_do = [cell for cell in chosen if cell.name not in self.results]
        print(
            f"{len(self.cells)} cells, {len(self.results)} finished, {len(to_do)} to do. Folder: {self.output}",
            flush=True,
        )
        progress = Progress(len(chosen), len(chosen) - len(to_do))
        self.draw_up()
        progress.show()
        with contextlib.closing(runner.run(list(groups(to_do)), _say_what_it_waits_for)) as ends:
            for ended in ends:
                self._note(ended)
                self.draw_up()
                progress.end(ended.cell, self._outcome(ended), failed=ended.results is None)
        progress.clear()
        print(f"{self.output / TABLE}, {NUMBERS}, {FIGURE}: {len(self.results)} of {len(self.cells)} cells.")
        return 1 if self.failed else 0

    def _note(self, ended: Ended) -> None:
        if ended.results is None:
            self.failed[ended.cell.name] = ended.fault
        else:
            self.results[ended.cell.name] = ended.results

    def _outcome(self, ended: Ended) -> str:
        """Say how a cell has ended."""
        if ended.results is None:
            folder = ended.cell.folder(self.output)
            return f"FAILED: {ended.fault} ({folder / LOG}; to begin it anew, delete its folder)"
        stage = next(each for each in reversed(ended.results["stages"].values()) if each is not None)
        return f"{percent(Spread(stage['test_acc'], None))} % ({stage['selected_by']}, epoch {stage['best_epoch']})"

    def draw_up(self) -> None:
        """Write the tables and the figure."""
        rows = summarise(self.cells, self.results)
        table = markdown(self._head(), self.cells, rows, self.results, self.failed)
        write(self.output / TABLE, table.encode())
        write(self.output / NUMBERS, comma_separated(rows).encode())
        if picture := draw(rows, self.cells, self.results):
            write(self.output / FIGURE, picture)

    def _head(self) -> list[str]:
        options = ", ".join(f"{key} {value}" for key, value in self.grid.options.items())
        devices = dict.fromkeys(
            device.read_text().strip()
            for cell in self.cells
            if cell.name in self.results and (device := cell.folder(self.output) / DEVICE).is_file()
        )
        return [
            f"# {self.grid.path.stem}",
            "",
            f"- command: `{shlex.join(['ldmi', 'benchmark', str(self.grid.path)])}`",
            *([f"- options of all cells: {options}"] if options else []),
            *([f"- device: {'; '.join(devices)}"] if devices else []),
        ]


def _say_what_it_waits_for() -> None:
    print("Another `ldmi benchmark` has the other cells at work: this one waits for them.", flush=True)


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
