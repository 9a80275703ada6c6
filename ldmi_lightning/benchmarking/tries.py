"""A small budget of settings for each method, tried once for each data set; the best by the method's own rule is taken."""

import copy
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ldmi_lightning.benchmarking.cells import Cell
from ldmi_lightning.benchmarking.grid import Grid, fill_in, flow
from ldmi_lightning.benchmarking.summary import stages_of
from ldmi_lightning.benchmarking.tables import plain
from ldmi_lightning.errors import UserError

ParseStage = Callable[[str, Mapping[str, Any], list[str]], dict[str, Any]]
"""What sets options in the configuration of a stage: from its name, what it is, and words such as ``--model.robust.epochs=2``."""

TUNED = ", tuned"
"""What follows a method's name where its setting was chosen among those tried."""


@dataclass(frozen=True)
class Try:
    """One setting of a method, tried at the first noise pattern, rate and seed of a data set.

    Attributes:
        method: name of the method in the grid.
        setting: values of options of the model.
        cell: its run.
    """

    method: str
    setting: Mapping[str, Any]
    cell: Cell

    def score(self, results: Mapping[str, Mapping[str, Any]]) -> tuple[float, str] | None:
        """Return what the last stage's selection came to on noisy validation labels, more being better, and its name.

        ``None`` for a run that is not finished; minus infinity where no epoch was ever selected.
        """
        found = results.get(self.cell.name)
        if found is None:
            return None
        stage = stages_of(found)[-1][1]
        score, by = stage.get("best_score"), str(stage["selected_by"])
        if score is None:
            return -float("inf"), by
        return (score if stage["mode"] == "max" else -score), by

    def __str__(self) -> str:
        """Name the setting, such as ``q 0.5, AdamW lr 0.001``."""
        return ", ".join(_say(option, value) for option, value in self.setting.items())


def tries_of(grid: Grid, cells: Sequence[Cell], parse_stage: ParseStage) -> list[Try]:
    """Return the settings that a grid tries, given its cells.

    Args:
        grid: the grid.
        cells: its cells.
        parse_stage: sets options of a stage, which it takes as words, in the stage's whole configuration.

    Raises:
        UserError: ``ldmi fit`` refuses one.
    """
    found = []
    for data in grid.data:
        for method, settings in grid.tries.items():
            first = next(cell for cell in cells if (cell.data, cell.method) == (data, method))
            for number, setting in enumerate(settings, 1):
                config = copy.deepcopy(first.config)
                try:
                    _set(config["model"]["init_args"], setting, parse_stage)
                except UserError as error:
                    raise UserError(f"{grid.path}: tries, {data}, {method}: {error}") from error
                found.append(Try(method, setting, replace(first, method=f"{method}, try {number}", config=config)))
    return found


def _set(model: dict[str, Any], setting: Mapping[str, Any], parse_stage: ParseStage) -> None:
    """Set options of stages in the arguments of a model."""
    for stage, options in itertools.groupby(sorted(setting), key=lambda option: option.split(".")[1]):
        given = list(options)
        if model.get(stage) is None:
            raise UserError(f"--{given[0]}: the method has no stage {stage}.")
        model[stage] = parse_stage(stage, model[stage], [f"--{option}={flow(setting[option])}" for option in given])


def chosen_try(tries: Collection[Try], results: Mapping[str, Mapping[str, Any]]) -> Try | None:
    """Return the best of a method's tries on a data set, the earlier of equal ones; ``None`` before all are finished."""
    scores = [(each, each.score(results)) for each in tries]
    known = [(each, score[0]) for each, score in scores if score is not None]
    return max(known, key=lambda each: each[1])[0] if known and len(known) == len(scores) else None


def by_method(tries: Sequence[Try]) -> dict[tuple[str, str], list[Try]]:
    """Group tries by data set and method."""
    grouped: dict[tuple[str, str], list[Try]] = {}
    for each in tries:
        grouped.setdefault((each.cell.data, each.method), []).append(each)
    return grouped


def tuned_cells(cells: Sequence[Cell], tries: Sequence[Try], results: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    """Return the cells of all methods whose setting is known by now: those of the grid, with the setting that was chosen."""
    best = {place: chosen_try(each, results) for place, each in by_method(tries).items()}
    found = []
    for cell in cells:
        chosen = best.get((cell.data, cell.method))
        if chosen is not None:
            config = fill_in(chosen.cell.config, cell.rate, cell.seed) | {"data": cell.config["data"]}
            found.append(replace(cell, method=cell.method + TUNED, config=config))
    return found


def markdown(tries: Sequence[Try], results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines of ``table.md`` that show what was tried, and what was taken."""
    if not tries:
        return []
    lines = [
        "",
        "## Settings tried",
        "",
        "Each once for each data set, at the first noise, r and seed; the best by the value that selects the method's epochs, on "
        f"noisy validation labels, is taken for all cells called `METHOD{TUNED}`.",
        "",
        "| data | method | setting | selected by | value | taken |",
        "|---|---|---|---|---|---|",
    ]
    for (data, method), group in by_method(tries).items():
        taken = chosen_try(group, results)
        for each in group:
            score = each.score(results)
            stage = stages_of(results[each.cell.name])[-1][1] if score else {}
            value = "–" if stage.get("best_score") is None else f"{stage['best_score']:.4f}"
            name, mark = "–" if score is None else score[1], "taken" if each is taken else ""
            words = " | ".join(plain(word) for word in (data, method, str(each), name, value, mark))
            lines.append(f"| {words} |")
    return lines


def _say(option: str, value: Any) -> str:
    """Write an option and its value in few words.

    >>> _say("model.robust.loss.q", 0.5)
    'q 0.5'
    >>> _say("model.robust.optimizer", {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}})
    'SGD lr 0.1'
    """
    name = option.rpartition(".")[2]
    if isinstance(value, Mapping) and "class_path" in value:
        inner = [f"{key} {each}" for key, each in (value.get("init_args") or {}).items()]
        return " ".join([str(value["class_path"]).rpartition(".")[2], *inner])
    return f"{name} {value}"
