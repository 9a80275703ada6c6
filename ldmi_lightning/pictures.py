"""Pictures of the joint distribution matrix U and of noise transition matrices T."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from ldmi_lightning import files
from ldmi_lightning.condensed import DRAWN, condensed
from ldmi_lightning.joint import log_dmi

NAMED_CLASSES = 20
"""Up to so many classes have their names at the axes."""


def row_shares(joint: Tensor) -> Tensor:
    """Return P(prediction | noisy label), shape ``(C, C)``; zeros in the row of a label that does not occur.

    >>> import torch
    >>> row_shares(torch.tensor([[0.25, 0.25], [0.0, 0.0]])).tolist()
    [[0.5, 0.5], [0.0, 0.0]]
    """
    return (joint / joint.sum(dim=1, keepdim=True)).nan_to_num()


def draw_joints(joints: Mapping[str, Tensor], class_names: Sequence[str]) -> Figure:
    """Draw matrices U side by side, rows normalised.

    Args:
        joints: title and U, shape ``(C, C)``, of each.
        class_names: names of the classes; none for their numbers.
    """
    shares = {
        f"{title}: log |det U| = {log_dmi(joint).item():.4g}": row_shares(joint).numpy()
        for title, joint in joints.items()
    }
    return _heatmaps(shares, class_names, rows="noisy label", columns="prediction")


def draw_transitions(transitions: Mapping[str, NDArray[np.float64]], class_names: Sequence[str]) -> Figure:
    """Draw matrices T side by side.

    Args:
        transitions: title and T, shape ``(C, C)``, of each.
        class_names: names of the classes.
    """
    return _heatmaps(transitions, class_names, rows="true class", columns="noisy label", numbers=True)


def _heatmaps(
    matrices: Mapping[str, NDArray[Any]], class_names: Sequence[str], *, rows: str, columns: str, numbers: bool = False
) -> Figure:
    """Draw matrices of shares side by side; ``numbers`` writes the values of few classes into the cells."""
    size = max(4.8, 0.52 * len(class_names)) if len(class_names) <= NAMED_CLASSES and numbers else 4.8
    figure = Figure(figsize=((size + 0.4) * len(matrices), size), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    for axes, (title, matrix) in zip(
        figure.subplots(1, len(matrices), squeeze=False)[0], matrices.items(), strict=True
    ):
        last = len(matrix) - 0.5
        image = axes.imshow(condensed(matrix), vmin=0, vmax=1, cmap="viridis", extent=(-0.5, last, last, -0.5))
        axes.set_title(title if len(matrix) <= DRAWN else f"{title}\n(a pixel is the greatest value of its block)")
        axes.set_xlabel(columns)
        axes.set_ylabel(rows)
        if 0 < len(class_names) <= NAMED_CLASSES:
            for ticks, turned in ((axes.set_xticks, 90), (axes.set_yticks, 0)):  # a class may be called $
                ticks(range(len(class_names)), class_names, rotation=turned, parse_math=False)
            for (row, column), share in np.ndenumerate(matrix) if numbers else ():
                if share > 0:
                    tone = "black" if share > 0.5 else "white"
                    axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=tone, fontsize=8)
    figure.colorbar(image, ax=figure.axes, label=f"P({columns} | {rows})", shrink=0.8)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_with(path, lambda file: figure.savefig(file, format="png"))


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """Return the picture as RGB pixels, shape ``(height, width, 3)``."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
