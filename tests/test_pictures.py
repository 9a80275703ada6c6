"""Names that mathematics would be made of stand in pictures and figures as they are."""

import io
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from ldmi_lightning import pictures
from ldmi_lightning.benchmarking.figure import draw
from ldmi_lightning.benchmarking.summary import Row, Spread
from ldmi_lightning.pages.charts import draw_class_accuracies
from ldmi_lightning.pages.figures import heatmap

NAMES = ["$x^2$", "a_$b", "$", r"$\frac$"]


def as_svg(figure: Figure) -> str:
    pictures.pixels(figure)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg")
    return file.getvalue()


DRAWN: dict[str, Callable[[], str]] = {
    "U": lambda: as_svg(pictures.draw_joints({"warmup": torch.eye(4) / 4}, NAMES)),
    "T": lambda: as_svg(pictures.draw_transitions({"T": np.eye(4)}, NAMES)),
    "T in a page": lambda: heatmap(np.eye(4), NAMES, title="$T$", rows="true class", columns="given label"),
    "accuracies in a page": lambda: draw_class_accuracies([np.ones(4)], NAMES, "$"),
}


@pytest.mark.parametrize("kind", DRAWN)
def test_class_names_are_drawn_as_they_are(kind: str) -> None:
    said = DRAWN[kind]()
    assert [name for name in NAMES if f">{name}</text>" not in said] == []


def test_the_figure_of_a_grid_takes_any_names() -> None:
    rows = [
        Row(data, noise, None, None, method, "warmup", "CELoss", (1,), "val/acc", (1,), figures, None, (None,))
        for data, noise, method in [(NAMES[3], NAMES[3], NAMES[3]), (NAMES[0], NAMES[1], NAMES[2])]
        for figures in [{"test_acc": Spread.of([0.5])}]
    ]
    assert (draw(rows, [], {}) or b"").startswith(b"\x89PNG")
