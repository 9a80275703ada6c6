"""Methods beside each other on the same labels: differences to the first one, ranks, and what an epoch costs."""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

from ldmi_lightning.benchmarking.cells import Cell
from ldmi_lightning.benchmarking.chosen import chosen_of
from ldmi_lightning.benchmarking.summary import Spread, stages_of
from ldmi_lightning.benchmarking.tables import percent, plain
from ldmi_lightning.benchmarking.tries import TUNED

Results = Mapping[str, Mapping[str, Any]]
Accuracies = dict[str, dict[int, float]]
"""Test accuracy in percent by method and seed."""

NOTE = """\
Test accuracy in percent of the selected epoch of each method's last stage: mean ± standard deviation over the seeds. "against":
the difference to the first method, which has the same labels, seed by seed: mean ± its standard error. Rank: 1 is the best; of
the means, where all methods have all seeds. "tuned": the same with the setting that the method's own rule took among those tried
(see table.md), against the first method, tuned alike. "kept": the stage that each run keeps to predict, the warm-up included.
"CPU s": processor seconds of one epoch's training, a median, without validation."""
BEHIND = "Points of accuracy behind the best method there: the mean, and the most."


def comparison(cells: Sequence[Cell], results: Results) -> str | None:
    """Return ``comparison.md``; ``None`` for fewer than two methods.

    Args:
        cells: the grid's, those with tuned settings included, without those of tries.
        results: the content of ``results.json`` by the names of the finished cells.
    """
    methods = list(dict.fromkeys(cell.method for cell in cells if not cell.method.endswith(TUNED)))
    if len(methods) < 2:
        return None
    tuned = any(cell.method.endswith(TUNED) for cell in cells)
    lines, ranks = ["# Methods compared", "", NOTE], _Ranks()
    order = list(dict.fromkeys((cell.data, cell.noise, cell.rate) for cell in cells))
    for data, noise, rate in order:
        same = [cell for cell in cells if (cell.data, cell.noise, cell.rate) == (data, noise, rate)]
        at = "" if rate is None else f", r = {rate:g}"
        lines += ["", f"## {data}: {noise}{at}", "", *_table(methods, same, results, tuned, ranks)]
    lines += ranks.lines(methods, tuned)
    return "\n".join(lines) + "\n"


def _table(methods: Sequence[str], cells: Sequence[Cell], results: Results, tuned: bool, ranks: "_Ranks") -> list[str]:
    heads = ["method", "n", "accuracy", f"against {methods[0]}", "rank"]
    heads += ["tuned", f"against {methods[0]}{TUNED}", "rank"] if tuned else []
    heads += ["kept", "CPU s"]
    found = accuracies(cells, results)
    columns = []
    for suffix in ["", TUNED] if tuned else [""]:
        names = [method + suffix for method in methods]
        places = ranks_of(names, found)
        ranks.add(suffix, dict(zip(methods, places.values(), strict=True)) if places else {}, found)
        columns.append(
            [
                [
                    percent(Spread.of([value / 100 for value in found.get(name, {}).values()])),
                    _difference(found.get(name, {}), found.get(names[0], {})) if name != names[0] else "",
                    f"{places[name]:g}" if places else "–",
                ]
                for name in names
            ]
        )
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for place, method in enumerate(methods):
        of_method = [results[cell.name] for cell in cells if cell.method == method and cell.name in results]
        kept = [chosen.test_acc for each in of_method if (chosen := chosen_of(each)) is not None]
        words = [plain(method), str(len(of_method)), *itertools.chain(*(each[place] for each in columns))]
        lines.append(f"| {' | '.join([*words, percent(Spread.of(kept)), _cost(of_method)])} |")
    return lines


def accuracies(cells: Sequence[Cell], results: Results) -> Accuracies:
    """Return the test accuracy of each method's last stage, in percent, by seed."""
    found: Accuracies = defaultdict(dict)
    for cell in cells:
        if cell.name in results and (accuracy := stages_of(results[cell.name])[-1][1]["test_acc"]) is not None:
            found[cell.method][cell.seed] = 100 * accuracy
    return found


def paired(own: Mapping[int, float], other: Mapping[int, float]) -> tuple[float, float | None] | None:
    """Return the mean difference over the seeds that both have, and its standard error where there are two and more.

    >>> paired({1: 3.0, 2: 5.0}, {1: 1.0, 2: 1.0, 3: 9.0})
    (3.0, 1.0)
    >>> paired({1: 3.0}, {1: 1.0}), paired({1: 3.0}, {2: 1.0})
    ((2.0, None), None)
    """
    differences = [value - other[seed] for seed, value in own.items() if seed in other]
    if not differences:
        return None
    error = statistics.stdev(differences) / sqrt(len(differences)) if len(differences) > 1 else None
    return statistics.fmean(differences), error


def _difference(own: Mapping[int, float], other: Mapping[int, float]) -> str:
    found = paired(own, other)
    if found is None:
        return "–"
    return f"{found[0]:+.2f}" + ("" if found[1] is None else f" ± {found[1]:.2f}")


def ranks_of(methods: Sequence[str], found: Accuracies) -> dict[str, float]:
    """Return the ranks of mean accuracies, 1 the best and equal ones alike; none where a method lacks a seed.

    >>> ranks_of(["a", "b", "c"], {"a": {1: 90.0}, "b": {1: 95.0}, "c": {1: 90.0}})
    {'a': 2.5, 'b': 1.0, 'c': 2.5}
    """
    seeds = {frozenset(found.get(method, {})) for method in methods}
    if len(seeds) > 1 or not next(iter(seeds)):
        return {}
    means = {method: statistics.fmean(found[method].values()) for method in methods}
    better = {method: sum(other > mean for other in means.values()) for method, mean in means.items()}
    equal = {method: sum(other == mean for other in means.values()) for method, mean in means.items()}
    return {method: better[method] + (equal[method] + 1) / 2 for method in methods}


def _cost(finished: Sequence[Mapping[str, Any]]) -> str:
    times = [each["epoch_times"] for each in finished if each.get("epoch_times")]
    seconds = [each for found in times if (each := list(found.values())[-1]["cpu_time_s"]) is not None]
    return f"{statistics.median(seconds):.2g}" if seconds else "–"


class _Ranks:
    """Ranks and differences of each method, over all noises and rates of the grid."""

    def __init__(self) -> None:
        self.ranks: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.behind: dict[tuple[str, str], list[float]] = defaultdict(list)

    def add(self, suffix: str, places: Mapping[str, float], found: Accuracies) -> None:
        best = max((statistics.fmean(each.values()) for name, each in found.items() if _has(name, suffix)), default=0.0)
        for method, rank in places.items():
            self.ranks[suffix, method].append(rank)
            self.behind[suffix, method].append(best - statistics.fmean(found[method + suffix].values()))

    def lines(self, methods: Sequence[str], tuned: bool) -> list[str]:
        """Return a table of the mean ranks; nothing for a single noise and rate."""
        settings = len(self.ranks.get(("", methods[0]), []))
        if settings < 2:
            return []
        suffixes = ["", TUNED] if tuned else [""]
        heads = [f"{what}{suffix}" for suffix in suffixes for what in ("mean rank", "behind the best", "at most")]
        lines = ["", f"## Over {settings} noises and rates", "", BEHIND, "", f"| method | {' | '.join(heads)} |"]
        lines.append(f"|{'---|' * (1 + len(heads))}")
        for method in methods:
            words = [plain(method)]
            for suffix in suffixes:
                ranks, behind = self.ranks[suffix, method], self.behind[suffix, method]
                if ranks:
                    words += [f"{statistics.fmean(ranks):.1f}", f"{statistics.fmean(behind):.2f}", f"{max(behind):.2f}"]
                else:
                    words += ["–"] * 3
            lines.append(f"| {' | '.join(words)} |")
        return lines


def _has(name: str, suffix: str) -> bool:
    return name.endswith(TUNED) if suffix else not name.endswith(TUNED)
