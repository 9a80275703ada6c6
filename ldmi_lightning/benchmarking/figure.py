"""The figure of a grid: accuracy against r, in the style of the paper's, or beside each kind of labels that has no r."""

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ldmi_lightning.benchmarking.cells import Cell
from ldmi_lightning.benchmarking.summary import WARM_UP, Row, is_dominant, number_of_classes

COLUMNS = 3
COLOURS = ["C0", "C1", "C2", "C4", "C3", "C5", "C6", "C9", "C8", "k", "navy"]
MARKERS = "os^vDPX*phd"
KNOWN = ("ce", "fw", "gce", "lccn", "dmi", "dmi-refine")
"""Methods that look the same in every figure."""

FINE = np.linspace(0, 1, 201)
"""The r at which diagonal dominance is looked at."""


def draw(rows: Sequence[Row], cells: Sequence[Cell], results: Mapping[str, Mapping[str, Any]]) -> bytes | None:
    """Draw a panel for each data set and noise pattern, as a PNG; ``None`` where nothing is done.

    Patterns without a rate stand beside each other in one panel for each data set. Where T is not diagonally dominant the
    background is grey. Bars are standard deviations over seeds; dotted lines are the paper's.
    """
    drawn = [row for row in rows if row.figures["test_acc"].mean is not None]
    panels = [(key, list(same)) for key, same in itertools.groupby(drawn, _panel)]
    if not panels:
        return None
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns + 1.5, 3.7 * lines), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    methods = list(dict.fromkeys(row.method for row in rows if not row.method.startswith(WARM_UP)))
    rates = [row.rate for row in drawn if row.rate is not None]
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for unused in grid[len(panels) :]:
        unused.remove()
    for axes, ((data, noise), same) in zip(grid, panels, strict=False):
        axes.set_title(f"{data}: {noise}" if noise else data, fontsize=10, parse_math=False)
        axes.set_ylabel("test accuracy, %")
        axes.grid(alpha=0.3)
        if noise:
            axes.set_xlim(min(rates) - 0.05, max(rates) + 0.05)
            axes.set_xlabel("noise amount r")
            _shade(axes, [cell for cell in cells if (cell.data, cell.noise) == (data, noise)], results)
        else:
            _draw_patterns(axes, same, methods)
            continue
        for method, of_method in itertools.groupby(sorted(same, key=lambda row: row.method), lambda row: row.method):
            _draw_method(axes, method, list(of_method), methods)
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    order = [*(each for each in methods if each in handles), *(each for each in handles if each not in methods)]
    legend = figure.legend([handles[label] for label in order], order, loc="outside right upper", fontsize=9)
    for name in legend.get_texts():  # a method may be called $
        name.set_parse_math(False)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _panel(row: Row) -> tuple[str, str]:
    """Return what stands in one panel: a data set and a pattern; all patterns without a rate together."""
    return row.data, row.noise if row.rate is not None else ""


def _style(method: str, methods: Sequence[str]) -> tuple[str, str]:
    """Return colour and marker, which no two of the first 121 methods share."""
    place = [*KNOWN, *(each for each in methods if each not in KNOWN)].index(method)
    rounds, within = divmod(place, len(COLOURS))
    return COLOURS[within], MARKERS[(within + rounds) % len(MARKERS)]


def _draw_patterns(axes: Axes, rows: Sequence[Row], methods: Sequence[str]) -> None:
    """Draw the patterns of a data set that have no rate, side by side."""
    patterns = list(dict.fromkeys(row.noise for row in rows))
    axes.set_xticks(range(len(patterns)), patterns, rotation=0 if len(patterns) < 7 else 45, parse_math=False)
    axes.set_xlim(-0.5, len(patterns) - 0.5)
    shown = list(dict.fromkeys(row.method for row in rows))
    for place, method in enumerate(shown):
        shift = 0.6 * ((place + 0.5) / len(shown) - 0.5)  # beside each other, not one over the other
        of_method = [row for row in rows if row.method == method]
        x = [patterns.index(row.noise) + shift for row in of_method]
        accuracy = [100 * (row.figures["test_acc"].mean or 0) for row in of_method]
        if method not in methods:
            axes.plot(x, accuracy, color="0.45", marker="_", markersize=8, linestyle="", label=method)
            continue
        colour, marker = _style(method, methods)
        bars = [100 * (row.figures["test_acc"].std or 0) for row in of_method]
        axes.errorbar(
            x, accuracy, bars, color=colour, marker=marker, markersize=5, capsize=3, linestyle="", label=method
        )


def _draw_method(axes: Axes, method: str, rows: Sequence[Row], methods: Sequence[str]) -> None:
    points = sorted((float(row.rate), *row.figures["test_acc"]) for row in rows if row.rate is not None)
    r, mean, std = zip(*points, strict=True)
    accuracy = [100 * value for value in mean]
    if method not in methods:
        axes.plot(r, accuracy, color="0.45", linestyle="--", linewidth=1, label=method, zorder=1)
        return
    colour, marker = _style(method, methods)
    bars = [100 * (value or 0) for value in std] if any(std) else None
    axes.errorbar(r, accuracy, bars, color=colour, marker=marker, markersize=5, capsize=3, linewidth=1.5, label=method)
    paper = sorted((row.rate, row.paper) for row in rows if row.rate is not None and row.paper is not None)
    if paper:
        axes.plot(*zip(*paper, strict=True), color=colour, linestyle=":", linewidth=1.2, zorder=1)
        axes.plot([], [], color="0.3", linestyle=":", linewidth=1.2, label="paper")


def _shade(axes: Axes, cells: Sequence[Cell], results: Mapping[str, Mapping[str, Any]]) -> None:
    """Mark the r at which T is not diagonally dominant."""
    classes = number_of_classes(cells, results)
    left, right = axes.get_xlim()
    step = FINE[1]
    for dominant, run in itertools.groupby(FINE, lambda r: is_dominant(cells[0].config, float(r), classes)):
        r = list(run)
        if dominant is False and r[0] < right:
            span = max(left, r[0] - step / 2), min(right, r[-1] + step / 2)
            axes.axvspan(*span, color="0.9", zorder=0, label="T not diagonally\ndominant")
