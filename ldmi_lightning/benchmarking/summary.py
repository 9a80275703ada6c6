"""What the finished cells of a grid say, over seeds: a row for each data set, noise pattern, r and method."""

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.benchmarking import published
from ldmi_lightning.benchmarking.cells import Cell
from ldmi_lightning.benchmarking.chosen import Chosen, chosen_of
from ldmi_lightning.benchmarking.grid import injector_class
from ldmi_lightning.noise import Noise
from ldmi_lightning.runs.configuration import stages_in
from ldmi_lightning.transition import dominated_classes

WARM_UP = "warm-up"
"""What tables call a run's first stage, whatever its name: methods share it."""

FIGURES = ("test_acc", "test_balanced_acc", "test_acc_last", "test_balanced_acc_last", "transition_error")
"""What is averaged, as ``results.json`` calls it; all but the last are shares."""


class Spread(NamedTuple):
    """Mean and standard deviation (with n - 1 in the denominator) of a figure over seeds.

    >>> Spread.of([0.5, 0.75, 1.0])
    Spread(mean=0.75, std=0.25)
    >>> Spread.of([0.5]), Spread.of([])
    (Spread(mean=0.5, std=None), Spread(mean=None, std=None))
    """

    mean: float | None
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Take the mean of any number of values, and the deviation of two and more."""
        return cls(statistics.fmean(values) if values else None, statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Row:
    """A method's last stage (or its first, the warm-up), over the seeds that have finished.

    Attributes:
        data: name of the data set.
        noise: name of the noise pattern.
        rate: r; ``None`` where the noise has none.
        dominant: whether T is diagonally dominant; ``None`` where there is no T, or no cell of the data set has finished.
        method: name of the method.
        stage: name of its last stage, and ``loss``, the class of that stage's loss; empty where no cell has finished.
        seeds: those that have finished, n of them.
        selected_by: what the stage's epoch was selected by.
        best_epochs: the selected epoch of each seed.
        figures: a spread for each of :data:`FIGURES`.
        paper: the paper's test accuracy in percent.
        chosen: the choice between the method's stages, for each seed; ``None`` where it is not known.
    """

    data: str
    noise: str
    rate: float | None
    dominant: bool | None
    method: str
    stage: str
    loss: str
    seeds: tuple[int, ...]
    selected_by: str
    best_epochs: tuple[int, ...]
    figures: Mapping[str, Spread]
    paper: float | None
    chosen: tuple[Chosen | None, ...]


def summarise(cells: Sequence[Cell], results: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Return the rows of a grid: of each data set, pattern and r the warm-up that methods share, and then each method.

    Args:
        cells: the grid's cells.
        results: the content of ``results.json`` by the names of the finished cells.
    """
    rows = []
    for _, of_data in _grouped(cells, lambda cell: cell.data):
        classes = number_of_classes(of_data, results)
        for _, same in _grouped(of_data, lambda cell: (cell.noise, cell.rate)):
            rows += list(_warm_ups(same, results, classes))
            rows += [
                _row(each, results, classes, method, -1) for method, each in _grouped(same, lambda cell: cell.method)
            ]
    return rows


def _grouped(cells: Sequence[Cell], key: Any) -> Iterator[tuple[Any, list[Cell]]]:
    """Group cells that need not stand beside each other, in the order of each group's first."""
    order = {key(cell): place for place, cell in reversed(list(enumerate(cells)))}
    for value, group in itertools.groupby(sorted(cells, key=lambda cell: order[key(cell)]), key):
        yield value, list(group)


def _warm_ups(cells: Sequence[Cell], results: Mapping[str, Mapping[str, Any]], classes: int | None) -> Iterator[Row]:
    """Return the row of the warm-up that all methods share; where they have different ones, a row for each."""
    kinds = list(_grouped(cells, lambda cell: repr(next(iter(stages_in(cell.config).items()), None))))
    for _, same in kinds:
        one_a_seed = list({cell.seed: cell for cell in reversed(same) if cell.name in results}.values())[::-1]
        methods = dict.fromkeys(cell.method for cell in same)
        name = WARM_UP if len(kinds) == 1 else f"{WARM_UP} of {', '.join(methods)}"
        if any(len(stages_of(results[cell.name])) > 1 for cell in one_a_seed):
            yield _row(sorted(one_a_seed, key=lambda cell: cell.seed), results, classes, name, 0)


def stages_of(found: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the name and the results of each stage that the run had, in order."""
    return [(name, stage) for name, stage in found["stages"].items() if stage is not None]


def _row(
    cells: Sequence[Cell], results: Mapping[str, Mapping[str, Any]], classes: int | None, method: str, which: int
) -> Row:
    """Return the row of a method's first (0) or last (-1) stage."""
    finished = [(cell.seed, results[cell.name]) for cell in cells if cell.name in results]
    runs = [stages_of(found) for _, found in finished]
    stages = [run[which][1] for run in runs]
    loss = stages[0]["loss"] if stages else ""
    cell = cells[0]
    papers = which == -1 and bool(runs) and len(runs[0]) == 2  # its methods are a warm-up and one stage more
    return Row(
        cell.data,
        cell.noise,
        cell.rate,
        is_dominant(cell.config, cell.rate, classes),
        method,
        runs[0][which][0] if runs else "",
        loss,
        tuple(seed for seed, _ in finished),
        ", ".join(dict.fromkeys(str(stage["selected_by"]) for stage in stages)),
        tuple(stage["best_epoch"] for stage in stages),
        {figure: Spread.of([stage[figure] for stage in stages if stage.get(figure) is not None]) for figure in FIGURES},
        published.accuracy(cell.config, cell.rate, loss) if papers else None,
        tuple(chosen_of(found) for _, found in finished) if which == -1 else (),
    )


def number_of_classes(cells: Sequence[Cell], results: Mapping[str, Mapping[str, Any]]) -> int | None:
    """Return C of the data set that the cells share, from the first finished one; ``None`` where it is not known."""
    reports = (results[cell.name].get("noise") for cell in cells if cell.name in results)
    return next((len(report["matrix"]) for report in reports if report and report.get("matrix")), None)


def transition_at(config: Mapping[str, Any], rate: float | None, num_classes: int) -> NDArray[np.float64] | None:
    """Return the T that a run's injector stands for, at any rate; ``None`` where there is none."""
    noise = (config["data"].get("init_args") or {}).get("noise") or {}
    kind = injector_class(noise) if noise else Noise
    if kind.transition_matrix is Noise.transition_matrix:
        return None
    arguments = dict(noise.get("init_args") or {}) | ({} if rate is None else {"rate": rate})
    matrix: NDArray[np.float64] | None = kind(**arguments).transition_matrix(num_classes)
    return matrix


def is_dominant(config: Mapping[str, Any], rate: float | None, num_classes: int | None) -> bool | None:
    """Whether the T that a run asks for is diagonally dominant; ``None`` where that is not known."""
    transition = transition_at(config, rate, num_classes) if num_classes is not None else None
    return None if transition is None else not len(dominated_classes(transition))
