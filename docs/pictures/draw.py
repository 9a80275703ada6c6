"""Draw the pictures of docs/concepts.md: exact figures of one small problem, which no training blurs.

Two classes of equal size are one feature's Gaussians around -1 and +1 with deviation 1. A classifier is a threshold. The
noise makes 60 % of the first class's labels the second's, and none of the second's wrong.

    python docs/pictures/draw.py
"""

import math
from collections.abc import Callable
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ldmi_lightning.pages.figures import COLOURS

Array = NDArray[np.float64]

FOLDER = Path(__file__).parent / "concepts"
T = np.array([[0.4, 0.6], [0.0, 1.0]])
DOMINANT = np.array([[0.8, 0.2], [0.2, 0.8]])
THRESHOLDS = np.linspace(-3, 3, 601)
SLOPES = np.linspace(-3, 3, 241)
BIASES = np.linspace(-6, 6, 241)
FEATURE = np.linspace(-6, 6, 601)
HELD_OUT = 300
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
}


def cdf(x: float) -> float:
    """Return the standard normal distribution function."""
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def joint_with_truth(threshold: float) -> Array:
    """Return P(true class, prediction) of the classifier that says B above the threshold, shape ``(2, 2)``."""
    below = np.array([cdf(threshold + 1), cdf(threshold - 1)])
    return np.stack([below, 1 - below], axis=1) / 2


def joint(threshold: float, transition: Array) -> Array:
    """Return U, P(given label, prediction), shape ``(2, 2)``."""
    return transition.T @ joint_with_truth(threshold)


def l_dmi(u: Array) -> float:
    """Return ``-log |det u|``."""
    return -math.log(abs(np.linalg.det(u)))


def thresholds_judged() -> dict[str, dict[str, Array]]:
    """Return what cross-entropy's decisions and L_DMI are judged by, over all thresholds, on clean and noisy labels."""
    kinds = {"clean": np.eye(2), "noisy": T}
    return {
        "share of labels missed": {
            name: np.array([1 - np.trace(joint(each, t)) for each in THRESHOLDS]) for name, t in kinds.items()
        },
        "L_DMI": {name: np.array([l_dmi(joint(each, t)) for each in THRESHOLDS]) for name, t in kinds.items()},
    }


def slopes_judged() -> dict[str, Array]:
    """Return both losses on noisy labels of classifiers with ``P(B | x) = sigmoid(slope x + bias)``, over all slopes.

    Cross-entropy is that of the best bias, L_DMI that of bias 0; infinite at slope 0.
    """
    given = np.stack([np.exp(-((FEATURE - mean) ** 2) / 2) for mean in (-1, 1)])
    given = T.T @ (given / given.sum(axis=1, keepdims=True) / 2)  # P(given label, feature)
    logits = SLOPES[:, None, None] * FEATURE + BIASES[:, None]
    cross_entropy = (np.logaddexp(0, logits) @ given[0] + np.logaddexp(0, -logits) @ given[1]).min(axis=1)
    says_b = 1 / (1 + np.exp(-SLOPES[:, None] * FEATURE))
    u = np.stack([given @ (1 - says_b).T, given @ says_b.T]).T  # (slope, given label, prediction)
    with np.errstate(divide="ignore"):
        return {"cross-entropy": cross_entropy, "L_DMI": -np.log(np.abs(np.linalg.det(u)).round(15))}


def gain(threshold: float, warmup: float, transition: Array) -> tuple[float, float]:
    """Return what a threshold's decisions say more about a noisy label than the warm-up's do, and its deviation."""
    edges = [-np.inf, min(threshold, warmup), max(threshold, warmup), np.inf]
    within = np.diff([[cdf(edge - mean) for edge in edges] for mean in (-1, 1)]) / 2  # P(true class, region)
    mass = transition.T @ within  # P(given label, region)

    def said(place: float) -> Array:
        decisions = np.array([0, place <= edges[1], 1], dtype=int)
        table = joint(place, transition)
        return np.log(np.maximum(table / table.sum(axis=0), 1e-12))[:, decisions]

    more = said(threshold) - said(warmup)
    mean = float((mass * more).sum())
    return mean, math.sqrt(float((mass * (more - mean) ** 2).sum()))


def draw_joint(figure: Figure) -> None:
    """Draw how U comes about: P(true, prediction), T, and their product."""
    shown = {
        "P(true class, prediction)": (joint_with_truth(0.0), "true class", "prediction"),
        "T": (T, "true class", "given label"),
        "U": (joint(0.0, T), "given label", "prediction"),
    }
    for axes, (title, (matrix, rows, columns)) in zip(figure.subplots(1, 3), shown.items(), strict=True):
        top = 1 if title == "T" else 0.5
        axes.imshow(matrix, vmin=0, vmax=top, cmap="Blues")
        axes.set_title(f"{title}\n|det| = {abs(np.linalg.det(matrix)):.3f}")
        axes.set_xlabel(columns)
        axes.set_ylabel(rows)
        axes.set_xticks(range(2), ["A", "B"])
        axes.set_yticks(range(2), ["A", "B"])
        for (row, column), value in np.ndenumerate(matrix):
            colour = "white" if value > top / 2 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=11)


def draw_minimisers(figure: Figure) -> None:
    """Draw that the noise moves what the labels say is best, and leaves L_DMI's minimum where it was."""
    for axes, (title, kinds) in zip(figure.subplots(1, 2), thresholds_judged().items(), strict=True):
        for (name, values), colour in zip(kinds.items(), COLOURS, strict=False):
            at = values.argmin()
            axes.plot(THRESHOLDS, values, color=colour, label=f"{name} labels: best at {THRESHOLDS[at]:.0f}")
            axes.plot(THRESHOLDS[at], values[at], "o", color=colour)
        axes.set(title=title, xlabel="threshold of the classifier", ylim=(0, 8 if title == "L_DMI" else 1))
        axes.legend()


def draw_stages(figure: Figure) -> None:
    """Draw what the warm-up is for: which side of L_DMI's wall a run is on, and how steep it is there."""
    losses = slopes_judged()
    left, right = figure.subplots(1, 2)
    for (name, values), colour in zip(losses.items(), COLOURS, strict=False):
        finite = np.where(np.isfinite(values), values, np.nan)
        left.plot(SLOPES, finite, color=colour, label=name)
        right.plot(SLOPES, np.abs(np.gradient(finite, SLOPES)), color=colour, label=name)
    left.set(title="loss on noisy labels", ylim=(0, 9))
    right.set(title="size of its gradient", yscale="log", ylim=(0.01, 100))
    for axes in (left, right):
        axes.set_xlabel("slope of the classifier")
    left.text(-2, 4.3, "names\nswapped", ha="center")
    left.text(2, 4.3, "names\nright", ha="center")
    left.legend(loc="upper right")


def draw_choice(figure: Figure) -> None:
    """Draw which stages would take the place of the warm-up: those above one standard error."""
    panels: list[tuple[str, Array, float]] = [
        ("60 % of A called B", T, -3.0),
        ("20 % of each class wrong", DOMINANT, 0.0),
    ]
    for axes, (title, transition, warmup) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        gains, deviations = np.array([gain(each, warmup, transition) for each in THRESHOLDS]).T
        axes.fill_between(THRESHOLDS, 0, deviations / math.sqrt(HELD_OUT), color="0.85", label="one standard error")
        axes.plot(THRESHOLDS, gains, color=COLOURS[0], label="gain over the warm-up")
        axes.plot(warmup, 0, "o", color=COLOURS[1], label="the warm-up")
        axes.plot(0, gains[len(gains) // 2], "s", color=COLOURS[0], markersize=4, label="L_DMI", zorder=1.9)
        axes.set(title=title, xlabel="threshold of the classifier")
    figure.axes[0].set_ylabel("log-probability of a label")
    figure.axes[0].legend()


PICTURES: dict[str, tuple[Callable[[Figure], None], float]] = {
    "joint": (draw_joint, 2.4),
    "minimisers": (draw_minimisers, 2.7),
    "stages": (draw_stages, 2.7),
    "choice": (draw_choice, 2.7),
}
"""How each is drawn, and how high it is, in inches."""


def draw(folder: Path) -> None:
    """Draw all of them into a folder."""
    folder.mkdir(exist_ok=True)
    with matplotlib.style.context(["default", STYLE]):
        for name, (content, height) in PICTURES.items():
            figure = Figure(figsize=(6.2, height))
            content(figure)
            figure.savefig(folder / f"{name}.png")


if __name__ == "__main__":
    draw(FOLDER)
