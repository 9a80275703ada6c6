"""Curves over epochs, and accuracies of classes, of one run or of several laid side by side."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ldmi_lightning.pages.figures import COLOURS, INK, NAMED_CLASSES, shortened, style, svg

DASHES = {"solid": "-", "dashed": "--", "dotted": ":"}
"""How lines are drawn where there are more runs than colours: as CSS and as matplotlib call it."""
MARKERS = {"●": "o", "■": "s", "▲": "^", "◆": "D", "▼": "v"}
"""How points are drawn: as a letter and as matplotlib calls it."""


class Curve(NamedTuple):
    """A figure over the epochs of a run.

    Attributes:
        place: of the run among all, which gives its colour.
        epochs: from 1, over all stages.
        values: one for each.
        best: epochs at which a stage was at its best.
        switches: the last epoch of each stage but the last.
    """

    place: int
    epochs: Sequence[int]
    values: Sequence[float]
    best: Sequence[int] = ()
    switches: Sequence[int] = ()


def draw_curves(curves: Sequence[Curve], title: str) -> Markup:
    """Draw one figure of all runs; dots are each stage's best epoch, vertical lines the ends of stages."""
    with style():
        figure = Figure(figsize=(4.8, 2.9), layout="constrained")
        axes = figure.subplots()
        several = len({curve.place for curve in curves}) > 1
        for curve in curves:
            look = _look(curve.place)
            axes.plot(curve.epochs, curve.values, linewidth=1.6, **look)
            if len(curve.epochs) == 1:
                axes.plot(curve.epochs, curve.values, ".", color=look["color"])
            known = dict(zip(curve.epochs, curve.values, strict=True))
            dots = [epoch for epoch in curve.best if epoch in known]
            axes.plot(dots, [known[epoch] for epoch in dots], "o", color=look["color"], markersize=6)
            for switch in curve.switches:
                line = look if several else {"color": INK, "linestyle": ":"}
                axes.axvline(switch + 0.5, linewidth=1, alpha=0.6, **line)
        axes.set_xlabel("epoch of the run")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25, linewidth=0.6)
        return svg(figure, f"{title} over epochs")


def draw_class_accuracies(accuracies: Sequence[NDArray[np.float64]], class_names: Sequence[str], title: str) -> Markup:
    """Draw the accuracy of each class.

    Args:
        accuracies: for each of what is compared the shares of each class; NaN for a class without samples.
        class_names: names of the classes.
        title: what it shows.
    """
    classes = len(accuracies[0])
    with style():
        figure = Figure(figsize=(min(max(4.8, 1.5 + 0.33 * classes), 8.0), 3.2), layout="constrained")
        axes = figure.subplots()
        shift = np.linspace(-0.2, 0.2, len(accuracies)) if len(accuracies) > 1 else [0.0]
        for place, values in enumerate(accuracies):
            axes.plot(
                np.arange(classes) + shift[place],
                100 * values,
                list(MARKERS.values())[place % len(MARKERS)],
                color=_look(place)["color"],
                markersize=6 if classes <= NAMED_CLASSES else 4,
            )
        axes.set_ylim(-3, 103)
        axes.set_ylabel("correct, %")
        axes.grid(axis="y", alpha=0.25, linewidth=0.6)
        _name_classes(axes, classes, class_names)
        return svg(figure, title)


def _name_classes(axes: Axes, classes: int, class_names: Sequence[str]) -> None:
    if classes <= NAMED_CLASSES:
        names = [shortened(name) for name in class_names] or [str(each) for each in range(classes)]
        axes.set_xticks(range(classes), names, rotation=90 if max(map(len, names)) > 3 else 0)
    else:
        axes.set_xlabel("class, by its number")


def legend(names: Sequence[str]) -> list[dict[str, str]]:
    """Return how each of what is compared is drawn, for a list within the page.

    >>> legend(["a", "b"])[1]
    {'name': 'b', 'colour': '#D55E00', 'line': 'solid', 'marker': '■'}
    """
    marks = list(MARKERS)
    return [
        {
            "name": name,
            "colour": COLOURS[place % len(COLOURS)],
            "line": list(DASHES)[place // len(COLOURS) % len(DASHES)],
            "marker": marks[place % len(marks)],
        }
        for place, name in enumerate(names)
    ]


def _look(place: int) -> dict[str, Any]:
    """Return the colour and the line of the run at a place among all."""
    drawn = legend([""] * (place + 1))[place]
    return {"color": drawn["colour"], "linestyle": DASHES[drawn["line"]]}
