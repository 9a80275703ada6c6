"""Pictures of the joint distribution matrix U."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

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
    figure = Figure(figsize=(5.2 * len(joints), 4.8), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    for axes, (title, joint) in zip(figure.subplots(1, len(joints), squeeze=False)[0], joints.items(), strict=True):
        image = axes.imshow(row_shares(joint).numpy(), vmin=0, vmax=1, cmap="viridis")
        axes.set_title(f"{title}: log |det U| = {log_dmi(joint).item():.4g}")
        axes.set_xlabel("prediction")
        axes.set_ylabel("noisy label")
        if 0 < len(class_names) <= NAMED_CLASSES:
            axes.set_xticks(range(len(class_names)), class_names, rotation=90)
            axes.set_yticks(range(len(class_names)), class_names)
    figure.colorbar(image, ax=figure.axes, label="P(prediction | noisy label)", shrink=0.8)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """Return the picture as RGB pixels, shape ``(height, width, 3)``."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
