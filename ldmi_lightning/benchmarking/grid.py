"""The file that describes a grid of runs, read and checked, and the cells that it asks for."""

import copy
import importlib
import inspect
import itertools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

import ldmi_lightning.noise
from ldmi_lightning.benchmarking.cells import Cell
from ldmi_lightning.benchmarking.grid_check import Check, listed
from ldmi_lightning.errors import UserError
from ldmi_lightning.runs.configuration import STAGES

ParseFit = Callable[[list[str]], dict[str, Any]]
"""What turns the options of ``ldmi fit`` into the whole configuration, defaults included."""

AS_GIVEN = "labels as given"
"""The name of the pattern of a data set to which no noise is added."""

KEYS = {"data": dict, "rates": list, "methods": (list, dict), "seeds": list, "options": dict, "tries": dict}
DATA_KEYS = {"config": (str, list), "noise": dict}
STAGE_OPTION = re.compile(rf"model\.({'|'.join(STAGES)})\.\w")
NOISE_KEYS = {"class_path": str, "init_args": dict}


@dataclass(frozen=True)
class DataSet:
    """A data set of the grid: its configuration files, and injectors by the name of the pattern."""

    configs: list[Path]
    noise: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Grid:
    """What a grid's file says."""

    path: Path
    data: dict[str, DataSet]
    rates: list[float]
    methods: dict[str, list[Path]]
    seeds: list[int]
    options: dict[str, Any]
    tries: dict[str, list[dict[str, Any]]]
    """Settings of a method, each a value by the option of a stage, that are tried once for each data set."""


def read_grid(path: Path) -> Grid:
    """Read a grid, and check it.

    Raises:
        UserError: the file is missing, no YAML, or not the description of a grid; the message names the key.
    """
    try:
        said = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read: give the YAML file of a grid, such as configs/grids/mr.yaml."
        ) from error
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f" in line {place.line + 1}" if place else ""
        raise UserError(f"{path} is no YAML{where}: {getattr(error, 'problem', error)}.") from error
    check = Check(path)
    check.keys("the grid", said, KEYS, required=("data", "methods", "seeds"))
    data = {}
    for name, entry in said["data"].items():
        check.keys(f"data.{name}", entry, DATA_KEYS, required=("config",))
        for pattern, injector in entry.get("noise", {}).items():
            check.keys(f"data.{name}.noise.{pattern}", injector, NOISE_KEYS, required=("class_path",))
        configs = [check.file(each) for each in listed(entry["config"])]
        data[str(name)] = DataSet(configs, {str(key): each for key, each in entry.get("noise", {}).items()})
    if not all(isinstance(name, str) for name in [*said["methods"], *said.get("options", {})]):
        raise check.mistake("methods and options must each have a name.")
    methods = said["methods"] if isinstance(said["methods"], dict) else dict.fromkeys(said["methods"])
    grid = Grid(
        path,
        data,
        [float(rate) for rate in check.numbers("rates", said.get("rates", []), 1, "a number in 0..1")],
        {
            str(name): [check.file(each) for each in listed(files or f"configs/methods/{name}.yaml")]
            for name, files in methods.items()
        },
        check.numbers("seeds", said["seeds"], 2**32 - 1, "a whole number in 0..2**32-1", whole=True),
        said.get("options", {}),
        _settings(check, said.get("tries", {}), list(methods)),
    )
    injectors = [injector for each in data.values() for injector in each.noise.values()]
    if not grid.rates and any(map(takes_rate, injectors)):
        raise UserError(f"{path}: its noise needs a rate: list some, as in `rates: [0.2, 0.6]`.")
    return grid


def _settings(check: Check, tries: Mapping[str, Any], methods: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return, for each method, all combinations of the values that its options have under ``tries``."""
    check.keys("tries", tries, dict.fromkeys(methods, dict), required=())
    for method, options in tries.items():
        for option, values in options.items():
            if not STAGE_OPTION.match(str(option)):
                raise check.mistake(f"tries.{method}: {option} is no option of a stage, such as model.robust.loss.q.")
            if not isinstance(values, list) or not values:
                raise check.mistake(f"{option} of tries.{method} must be a list of values, but got {values}.")
    return {
        str(method): [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]
        for method, options in tries.items()
    }


def injector_class(injector: Mapping[str, Any]) -> Any:
    """Return the class of an injector that is given as ``class_path`` and ``init_args``, as a command line names it."""
    module, _, name = str(injector["class_path"]).rpartition(".")
    try:
        return getattr(importlib.import_module(module) if module else ldmi_lightning.noise, name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{injector['class_path']} is no class of noise that is known here. Take one of ldmi_lightning.noise, such as "
            "SymmetricNoise, or the path of your own."
        ) from error


def takes_rate(injector: Mapping[str, Any]) -> bool:
    """Whether noise has a rate.

    >>> takes_rate({"class_path": "PairFlipNoise"}), takes_rate({"class_path": "NoNoise"})
    (True, False)
    """
    return "rate" in inspect.signature(injector_class(injector)).parameters


def expand(grid: Grid, parse_fit: ParseFit) -> list[Cell]:
    """Return the grid's cells: seed by seed, and one after the other those that share data, noise, rate and seed.

    Raises:
        UserError: ``ldmi fit`` refuses the configuration of a cell, or two cells have one name.
    """
    kinds: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for data, method in itertools.product(grid.data, grid.methods):
        try:
            first = configurations(grid, data, method, parse_fit, first_alone=True)
            like = kinds.get((data, next(iter(grid.methods))), {})
            if all(like.get(pattern, {}).get("data") == config["data"] for pattern, config in first.items()):
                # Reading takes half a second: what a method does not touch is read once.
                (config,) = first.values()
                kinds[data, method] = {pattern: {**config, "data": each["data"]} for pattern, each in like.items()}
            else:
                kinds[data, method] = configurations(grid, data, method, parse_fit)
        except UserError as error:
            raise UserError(f"{grid.path}: {data}, {method}: {error}") from error
    cells = []
    plans = [(data, pattern) for data, each in grid.data.items() for pattern in each.noise or [AS_GIVEN]]
    for seed, (data, pattern) in itertools.product(grid.seeds, plans):
        injector = grid.data[data].noise.get(pattern)
        rates: list[float | None] = [*grid.rates] if injector and takes_rate(injector) else [None]
        for rate, method in itertools.product(rates, grid.methods):
            cell = Cell(data, pattern, rate, method, seed, kinds[data, method][pattern])
            cells.append(replace(cell, config=fill_in(cell.config, rate, seed)))
    names = [cell.name for cell in cells]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{grid.path}: two cells would be called {twice}. Let names differ in letters or digits.")
    return cells


def configurations(
    grid: Grid,
    data: str,
    method: str,
    parse_fit: ParseFit,
    first_alone: bool = False,
) -> dict[str, dict[str, Any]]:
    """Return, by pattern, the configurations that cells of a data set and a method share but for rate and seed.

    Args:
        grid: the grid.
        data: name of the data set.
        method: name of the method.
        parse_fit: turns the options of ``ldmi fit`` into the whole configuration.
        first_alone: whether only the first pattern is returned.
    """
    files = [*grid.data[data].configs, *grid.methods[method]]
    args = ["fit", *(word for file in files for word in ("--config", str(file)))]
    absent: set[str] = set()
    if any(key.startswith("model.") for key in grid.options):
        model = parse_fit(args)["model"].get("init_args", {})
        absent = {key for key, value in model.items() if value is None}
    options = [f"--{key}={flow(value)}" for key, value in grid.options.items() if not _belongs(key, absent)]
    found = {}
    patterns = list(grid.data[data].noise or [AS_GIVEN])
    for pattern in patterns[:1] if first_alone else patterns:
        noise = []
        if injector := grid.data[data].noise.get(pattern):
            rate = {"rate": grid.rates[0]} if takes_rate(injector) else {}
            arguments = {**injector.get("init_args", {}), **rate}
            noise = [f"--data.noise={flow({'class_path': injector['class_path'], 'init_args': arguments})}"]
        found[pattern] = parse_fit([*args, *noise, *options])
    return found


def _belongs(option: str, stages: Collection[str]) -> bool:
    """Whether an option is one of a stage.

    >>> _belongs("model.refine.epochs", {"refine"}), _belongs("model.refine", {"refine"})
    (True, False)
    """
    found = re.match(r"model\.(?:init_args\.)?(\w+)\.", option)
    return found is not None and found[1] in stages


def flow(value: Any) -> str:
    """Write a value as it stands on a command line.

    >>> flow({0: 1}), flow("cpu"), flow(1e-4), flow(None)
    ('{0: 1}', 'cpu', '0.0001', 'null')
    """
    return yaml.safe_dump(value, default_flow_style=True, width=1 << 30).removesuffix("...\n").strip()


def fill_in(config: Mapping[str, Any], rate: float | None, seed: int) -> dict[str, Any]:
    """Return the configuration of one cell: its rate, and its seed as the run's and the noise's."""
    filled = copy.deepcopy(dict(config))
    filled["seed_everything"] = seed
    noise = (filled["data"].get("init_args") or {}).get("noise")
    arguments = (noise or {}).get("init_args") or {}
    if "seed" in arguments:
        arguments["seed"] = seed
    if rate is not None:
        arguments["rate"] = rate
    return filled
