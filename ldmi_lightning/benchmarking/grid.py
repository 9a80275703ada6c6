"""The file that describes a grid of runs, read and checked, and the cells that it asks for."""

import copy
import difflib
import importlib
import inspect
import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

import ldmi_lightning.noise
from ldmi_lightning.benchmarking.cells import Cell
from ldmi_lightning.errors import UserError

ParseFit = Callable[[list[str]], dict[str, Any]]
"""What turns the options of ``ldmi fit`` into the whole configuration, defaults included."""

AS_GIVEN = "labels as given"
"""The name of the pattern of a data set to which no noise is added."""

KEYS = {"data": dict, "rates": list, "methods": (list, dict), "seeds": list, "options": dict}
DATA_KEYS = {"config": (str, list), "noise": dict}
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
    check = _Check(path)
    check.keys("the grid", said, KEYS, required=("data", "methods", "seeds"))
    data = {}
    for name, entry in said["data"].items():
        check.keys(f"data.{name}", entry, DATA_KEYS, required=("config",))
        for pattern, injector in entry.get("noise", {}).items():
            check.keys(f"data.{name}.noise.{pattern}", injector, NOISE_KEYS, required=("class_path",))
        configs = [check.file(each) for each in _listed(entry["config"])]
        data[str(name)] = DataSet(configs, {str(key): each for key, each in entry.get("noise", {}).items()})
    if not all(isinstance(name, str) for name in [*said["methods"], *said.get("options", {})]):
        raise check.mistake("methods and options must each have a name.")
    methods = said["methods"] if isinstance(said["methods"], dict) else dict.fromkeys(said["methods"])
    grid = Grid(
        path,
        data,
        [float(rate) for rate in check.numbers("rates", said.get("rates", []), 1, "a number in 0..1")],
        {
            str(name): [check.file(each) for each in _listed(files or f"configs/methods/{name}.yaml")]
            for name, files in methods.items()
        },
        check.numbers("seeds", said["seeds"], 2**32 - 1, "a whole number in 0..2**32-1", whole=True),
        said.get("options", {}),
    )
    injectors = [injector for each in data.values() for injector in each.noise.values()]
    if not grid.rates and any(map(takes_rate, injectors)):
        raise UserError(f"{path}: its noise needs a rate: list some, as in `rates: [0.2, 0.6]`.")
    return grid


class _Check:
    """Checks of a grid's parts, each with one line for a mistake."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def keys(self, what: str, entry: Any, known: Mapping[str, Any], required: Collection[str]) -> None:
        if not isinstance(entry, dict):
            raise self.mistake(f"{what} must map names to values, such as {', '.join(known)}.")
        for key, value in entry.items():
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f"Did you mean {close[0]}?" if close else f"It may have {', '.join(known)}."
                raise self.mistake(f"{what} has no key {key}. {hint}")
            if not isinstance(value, known[key]):
                kinds = {dict: "a mapping", list: "a list", str: "a text"}
                meant = " or ".join(kinds[each] for each in _listed(known[key]))
                raise self.mistake(f"{key} of {what} must be {meant}, but got {value}.")
            if not value and key not in ("options", "init_args"):
                raise self.mistake(f"{key} of {what} is empty.")
        for key in required:
            if key not in entry:
                raise self.mistake(f"{what} lacks {key}.")

    def mistake(self, said: str) -> UserError:
        return UserError(f"{self.path}: {said} `ldmi benchmark --help` shows a grid.")

    def numbers(self, what: str, values: list[Any], largest: float, rule: str, whole: bool = False) -> list[Any]:
        for value in values:
            right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if not right or not 0 <= value <= largest:
                raise UserError(f"{self.path}: {what} must each be {rule}, but got {value}.")
        if len(set(values)) < len(values):
            raise UserError(f"{self.path}: {what} holds a value twice: {values}.")
        return values

    def file(self, name: Any) -> Path:
        """Find a file, named from the grid's folder, one of those around it, or the working directory."""
        folders = [*self.path.absolute().parents, Path()]
        found = next((folder / str(name) for folder in folders if (folder / str(name)).is_file()), None)
        if found is None:
            raise UserError(
                f"{self.path} names {name}, but there is no such file, neither around the grid's file nor in the working "
                "directory."
            )
        return found


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


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
    kinds: dict[tuple[str, str, str], dict[str, Any]] = {}
    for data, method in itertools.product(grid.data, grid.methods):
        try:
            kinds |= _kinds(grid, data, method, parse_fit)
        except UserError as error:
            raise UserError(f"{grid.path}: {data}, {method}: {error}") from error
    cells = []
    plans = [(data, pattern) for data, each in grid.data.items() for pattern in each.noise or [AS_GIVEN]]
    for seed, (data, pattern) in itertools.product(grid.seeds, plans):
        injector = grid.data[data].noise.get(pattern)
        rates: list[float | None] = [*grid.rates] if injector and takes_rate(injector) else [None]
        for rate, method in itertools.product(rates, grid.methods):
            cell = Cell(data, pattern, rate, method, seed, kinds[data, pattern, method])
            cells.append(replace(cell, config=fill_in(cell.config, rate, seed)))
    names = [cell.name for cell in cells]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{grid.path}: two cells would be called {twice}. Let names differ in letters or digits.")
    return cells


def _kinds(grid: Grid, data: str, method: str, parse_fit: ParseFit) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return, by data set, pattern and method, the configurations that cells share but for rate and seed."""
    files = [*grid.data[data].configs, *grid.methods[method]]
    args = ["fit", *(word for file in files for word in ("--config", str(file)))]
    absent: set[str] = set()
    if any(key.startswith("model.") for key in grid.options):
        model = parse_fit(args)["model"].get("init_args", {})
        absent = {key for key, value in model.items() if value is None}
    options = [f"--{key}={_flow(value)}" for key, value in grid.options.items() if not _belongs(key, absent)]
    kinds = {}
    for pattern in grid.data[data].noise or [AS_GIVEN]:
        noise = []
        if injector := grid.data[data].noise.get(pattern):
            rate = {"rate": grid.rates[0]} if takes_rate(injector) else {}
            arguments = {**injector.get("init_args", {}), **rate}
            noise = [f"--data.noise={_flow({'class_path': injector['class_path'], 'init_args': arguments})}"]
        kinds[data, pattern, method] = parse_fit([*args, *noise, *options])
    return kinds


def _belongs(option: str, stages: Collection[str]) -> bool:
    """Whether an option is one of a stage.

    >>> _belongs("model.refine.epochs", {"refine"}), _belongs("model.refine", {"refine"})
    (True, False)
    """
    found = re.match(r"model\.(?:init_args\.)?(\w+)\.", option)
    return found is not None and found[1] in stages


def _flow(value: Any) -> str:
    """Write a value as it stands on a command line.

    >>> _flow({0: 1}), _flow("cpu"), _flow(1e-4), _flow(None)
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


def groups(cells: Collection[Cell]) -> Iterator[list[Cell]]:
    """Part cells into those that share data, noise, rate and seed, and with them the warm-up."""
    for _, group in itertools.groupby(cells, key=lambda cell: (cell.data, cell.noise, cell.rate, cell.seed)):
        yield list(group)
