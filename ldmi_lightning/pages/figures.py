"""Matplotlib's figures as SVG within a page: legible on light and dark paper, the same bytes each time, no two ids alike."""

import hashlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.style
import numpy as np
from markupsafe import Markup, escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ldmi_lightning.condensed import DRAWN, condensed

INK = "#010203"
"""What is drawn in this colour has the colour of the page's text."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito's, which the colour-blind tell apart; without black and yellow, which vanish on one of the two papers."""

NAMED_CLASSES = 20
"""Up to so many classes have their names at the axes."""
LONGEST_NAME = 18
"""Names at an axis are cut to so many characters."""

STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,  # a class may be called $
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "ldmi",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


@contextmanager
def style() -> Iterator[None]:
    """Draw as all pages are drawn, whatever the user's own settings of matplotlib."""
    with matplotlib.style.context(["default", STYLE]):
        yield


def svg(figure: Figure, label: str) -> Markup:
    """Return a figure that was drawn in :func:`style` as an SVG element of a page.

    The ids within are those of the figure's content, so that a page can hold many.

    Args:
        figure: it.
        label: what it shows, for those who cannot see it.
    """
    text = io.StringIO()
    FigureCanvasSVG(figure)
    with style(), warnings.catch_warnings():
        # Letters that matplotlib's own font lacks: the browser has others.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    own = hashlib.sha256((label + drawn).encode()).hexdigest()[:10]

    def adapted(tag: re.Match[str]) -> str:  # tags alone, and no text of the user's
        return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>f{own}-", tag[0]).replace(INK, "currentColor")

    drawn = re.sub(r"<[^>]+>", adapted, drawn)
    return Markup(drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1))


def heatmap(
    matrix: NDArray[Any], class_names: Sequence[str], *, title: str, rows: str, columns: str, shares: bool = True
) -> Markup:
    """Draw a matrix ``(C, C)`` under its title, for a ``<figure>``; the values of few classes are written into the cells.

    Colours follow the square root, so that the rare is seen beside the frequent.

    Args:
        matrix: shares in [0, 1], or counts.
        class_names: names of the classes; none for their numbers.
        title: what stands above it.
        rows: what its rows are.
        columns: what its columns are.
        shares: whether the colours go from 0 to 1, and not from 0 to the greatest count.

    >>> print(heatmap(np.eye(2), ["cat", "dog"], title="T", rows="true class", columns="given label")[:50])
    <div class="caption">T</div><svg role="img" aria-l
    """
    size, values = len(matrix), np.nan_to_num(np.asarray(matrix, dtype=np.float64))
    top = 1.0 if shares else max(float(values.max()), 1.0)
    inches = min(max(2.2 + 0.32 * size, 3.2), 7.0) if size <= NAMED_CLASSES else 5.0
    with style():
        figure = Figure(figsize=(inches if size <= NAMED_CLASSES else inches + 0.6, inches), layout="constrained")
        axes = figure.subplots()
        axes.spines[:].set_visible(False)
        last = size - 0.5
        image = axes.imshow(
            condensed(values),
            norm=PowerNorm(0.5, 0, top),
            cmap="cividis",
            extent=(-0.5, last, last, -0.5),
            interpolation="none",
        )
        axes.set_xlabel(columns)
        axes.set_ylabel(rows)
        if size <= NAMED_CLASSES:
            names = [shortened(name) for name in class_names] or [str(each) for each in range(size)]
            axes.set_xticks(range(size), names, rotation=90 if max(map(len, names)) > 2 else 0)
            axes.set_yticks(range(size), names)
            for (row, column), value in np.ndenumerate(values):
                if value >= 0.005 * top:
                    tone = "black" if value > 0.35 * top else "white"
                    said = f"{value:.2f}".removeprefix("0") if shares else f"{value:.0f}"
                    cell = axes.text(column, row, said, ha="center", va="center", color=tone, fontsize=8)
                    cell.set_in_layout(False)  # it lies within, and to measure it costs time
        else:
            figure.colorbar(image, ax=axes, shrink=0.8)
        drawn = svg(figure, f"{title}: {rows} in rows, {columns} in columns")
    blocks = "" if size <= DRAWN else " (a pixel is the greatest value of its block)"
    return Markup('<div class="caption">{}{}</div>{}').format(title, blocks, drawn)


def shortened(name: str) -> str:
    """Cut a long name.

    >>> shortened("cat"), shortened("a very long name of a class")
    ('cat', 'a very long name …')
    """
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
