"""The options by which `ldmi benchmark` and `ldmi audit` say where their runs are carried out."""

import argparse
import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ldmi_lightning.errors import UserError

LOCAL = "local"
ENGINES = {LOCAL: (), "ray": ("cpus", "gpus"), "slurm": ("cpus", "gpus", "partition", "time")}
"""Which of the options each engine takes."""
OPTIONS = ("cpus", "gpus", "partition", "time")
MINUTES = 24 * 60
ALL = 1_000_000
"""So many runs at a time are left to an engine that has a queue of its own."""


def add_engine_options(made: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    group = made.add_argument_group("where runs are carried out")
    group.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="number of runs at a time (default: 1; on ray and slurm all that find room)",
    )
    group.add_argument(
        "--engine",
        choices=list(ENGINES),
        help="processes of this machine; tasks of the Ray cluster that RAY_ADDRESS names; or jobs of SLURM (default: local)",
    )
    group.add_argument("--cpus", type=int, metavar="N", help="cores of a run (default: 1)")
    group.add_argument("--gpus", type=int, metavar="N", help="GPUs of a run (default: 0)")
    group.add_argument("--partition", metavar="NAME", help="SLURM's partition (default: SLURM's own)")
    group.add_argument("--time", type=int, metavar="MIN", help="minutes that a job may take (default: 24 hours)")


def check_engine_options(options: argparse.Namespace) -> None:
    """Refuse options that the engine does not take, and numbers that are none.

    Raises:
        UserError: it names the option.
    """
    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs must be at least 1, but got {options.jobs}.")
    engine = options.engine or LOCAL
    for name in OPTIONS:
        value = getattr(options, name)
        if value is None:
            continue
        if name not in ENGINES[engine]:
            takers = " or ".join(f"--engine {engine}" for engine, taken in ENGINES.items() if name in taken)
            raise UserError(f"--{name} is for {takers}: give it, or leave --{name} out.")
        if name != "partition" and value < (name != "gpus"):
            raise UserError(f"--{name} must be at least {int(name != 'gpus')}, but got {value}.")


def jobs_of(options: argparse.Namespace) -> int:
    """Return how many runs may be at work at a time."""
    return int(options.jobs or (1 if (options.engine or LOCAL) == LOCAL else ALL))


@contextlib.contextmanager
def engine_of(options: argparse.Namespace, output: Path) -> Iterator[Any]:
    """Make the engine, and let go of it in the end.

    Args:
        options: with those of :func:`add_engine_options`.
        output: folder of all runs.

    Raises:
        UserError: its package is missing.
    """
    name = options.engine or LOCAL
    given: dict[str, Any] = {"cpus": options.cpus or 1, "gpus": options.gpus or 0}
    if name == LOCAL:
        given = {"jobs": jobs_of(options)}
    if name == "slurm":
        given |= {"folder": output / "jobs", "partition": options.partition, "minutes": options.time or MINUTES}
    try:
        module = importlib.import_module(f"ldmi_lightning.engines.{name}")
    except ModuleNotFoundError as error:
        raise UserError(f"--engine {name} needs {error.name}: pip install 'ldmi-lightning[{name}]'.") from error
    try:
        engine = getattr(module, f"{name.capitalize()}Engine")(**given)
    except ConnectionError as error:
        raise UserError(f"The Ray cluster cannot be reached ({error}): start it, or unset RAY_ADDRESS.") from error
    try:
        if name != LOCAL:
            print(engine.describe(), flush=True)
        yield engine
    finally:
        engine.shutdown()
