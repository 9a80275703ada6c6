"""``ldmi benchmark``: carry out a grid of runs, and write its tables and its figure.

What its help says stands here, since a help page should not wait for PyTorch; ``benchmark_run`` carries it out.
"""

import argparse
import importlib
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ldmi_lightning.commands.engine_options import add_engine_options
from ldmi_lightning.errors import UserError

DESCRIPTION = """\
Carry out a grid of runs: data × noise pattern × r × method × seed.

Each cell of the grid is a run of `ldmi fit` in a folder of its own, OUTPUT/cells/NAME-KEY, with its log and its
results.json. After each cell OUTPUT/table.md, table.csv and figure.png are written from all that is finished.

With two methods and more, comparison.md has them beside each other: differences to the first on the same labels,
ranks, and what an epoch costs.

Settings under `tries` are run once for each data set, at its first noise, r and seed. The one that the method's own
rule finds best on noisy validation labels, never on the test set, is taken for cells of its own, `METHOD, tuned`.

The same command again skips finished cells, resumes those that were stopped, and tries failed ones again. A finished
cell is known by its configuration: copy OUTPUT/cells to another machine, and it counts there, too.
"""

EXAMPLE = """\
A grid, for example; files are looked for around the grid's file, and then in the working directory:

  data:
    digits:
      config: configs/quickstart.yaml         # or a list of files, of which a later one wins
      noise:                                  # none: the labels as they are
        class-dependent: {class_path: ClassDependentNoise, init_args: {flips: {9: 1, 2: 0}}}
        class-independent: {class_path: SymmetricNoise}
  rates: [0.3, 0.6]                           # r, the rate of each noise
  methods: [ce, dmi]                          # configs/methods/NAME.yaml; others: {ce: null, mine: [mine.yaml]}
  seeds: [1, 2, 3]                            # of the run and of its noise
  options: {model.warmup.epochs: 5}           # of all cells, as for `ldmi fit`
  tries:                                      # none: the settings as they are
    dmi: {model.robust.loss.memory: [0.9, 0.99]}  # options of its stages; all combinations are tried
"""


class BenchmarkParser(argparse.ArgumentParser):
    """The parser of ``ldmi benchmark``."""

    def error(self, message: str) -> NoReturn:
        """Raise a :class:`UserError`."""
        raise UserError(f"{message}. `ldmi benchmark --help` lists the options.")


def run(args: Sequence[str], parse_fit: Callable[[list[str]], dict[str, Any]]) -> int:
    """Carry out ``ldmi benchmark``.

    Args:
        args: the words after ``benchmark``.
        parse_fit: turns the options of ``ldmi fit`` into the whole configuration.

    Returns:
        The exit code: 1 where a cell has failed, 128 and the signal's number where a signal ended the command.
    """
    options = parser().parse_args(args)
    return int(importlib.import_module("ldmi_lightning.commands.benchmark_run").run(options, parse_fit))


def parser() -> BenchmarkParser:
    """Return the parser."""
    made = BenchmarkParser(
        prog="ldmi benchmark",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("grid", metavar="GRID.yaml", help="the grid, such as configs/grids/quickstart.yaml")
    made.add_argument("--output", metavar="DIR", help="folder of the grid (default: results/GRID)")
    made.add_argument(
        "--data_root",
        action="append",
        default=[],
        metavar="DATA=DIR",
        help="where a data set of the grid lies on this machine (default: as its configuration says); can be repeated",
    )
    made.add_argument("--dry_run", action="store_true", help="list the cells, and which are finished")
    made.add_argument("--cell", metavar="NAME", help="carry out this cell alone")
    made.add_argument(
        "--sweep",
        metavar="FILE",
        help="write the grid as a W&B sweep, of which each run of `wandb agent`, on any machine, carries out one cell",
    )
    add_engine_options(made)
    return made
