"""The page of ``ldmi report``: what runs have come to, one beside the other."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ldmi_lightning.pages.base import number, render
from ldmi_lightning.pages.charts import Curve, draw_class_accuracies, draw_curves, legend
from ldmi_lightning.pages.figures import heatmap
from ldmi_lightning.runs.left import SINGULAR, Left, differences
from ldmi_lightning.runs.results import OF_TRUE_LABELS, why

FIGURES = {
    "val/acc": "accuracy on noisy validation labels",
    "val/nll": "negative log-likelihood of noisy validation labels",
    "val/log_dmi": "log |det U| on the validation set",
    "val/dmi_normalised": "normalised DMI on the validation set",
    "lr": "learning rate",
    SINGULAR: "steps whose U was singular",
}
"""What is drawn over all epochs, and what it is called."""
DULL = ("lr", SINGULAR)
"""What is not drawn where it never changes."""


def report_page(runs: Sequence[Left], command: str) -> str:
    """Return the page.

    Args:
        runs: what they have left.
        command: the command that asked for it.
    """
    names = distinct_names(runs)
    labels = {digest for run in runs if (digest := (run.results.get("noise") or {}).get("sha256"))}
    return render(
        "report.html",
        title=names[0] if len(runs) == 1 else f"{len(runs)} runs",
        command=command,
        runs=[described(run, name) for run, name in zip(runs, names, strict=True)],
        several=len(runs) > 1,
        other_labels=len(labels) > 1,
        of_true_labels=OF_TRUE_LABELS
        if any("true_acc" in stage for run in runs for stage in run.stages.values())
        else "",
        legend=legend(names),
        curves=list(curves_of(runs)),
        classes=class_accuracies(runs, names),
        differences=differences([run.config for run in runs]) if all(run.config for run in runs) else {},
    )


def distinct_names(runs: Sequence[Left]) -> list[str]:
    """Return the folders' names, or their whole paths where two share a name."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.folder) for run in runs]


def described(run: Left, name: str) -> dict[str, Any]:
    """Return what the template shows of a run."""
    results = run.results
    noise = results.get("noise") or {}
    choice = results.get("choice") or []
    return {
        "name": name,
        "missing": run.missing,
        "data": results.get("data") or _class_of(run.config.get("data")),
        "seed": results.get("seed", run.config.get("seed_everything")),
        "noise": {key: value for key, value in noise.items() if not isinstance(value, list | dict)},
        "wall_time_s": results.get("wall_time_s"),
        "versions": results.get("versions") or {},
        "stages": [
            {**stage, "name": stage_name, "singular_steps": run.singular_steps(stage_name)}
            for stage_name, stage in run.stages.items()
        ],
        "chosen": results.get("chosen"),
        "why": why(choice) if choice else "",
        "joints": list(joints_of(run)),
        "transitions": list(transitions_of(run)),
        "confusions": list(confusions_of(run)),
        "config": run.config_text,
    }


def _class_of(config: Any) -> str | None:
    return str(config["class_path"]).rpartition(".")[2] if isinstance(config, dict) and "class_path" in config else None


def class_names(run: Left) -> list[str]:
    """Return the names of the run's classes; none where they are not known."""
    return [str(name) for name in run.results.get("class_names") or []]


# -- figures ----------------------------------------------------------------------------------------------------------


def curves_of(runs: Sequence[Left]) -> Iterator[tuple[str, Markup]]:
    """Draw figures over epochs: of the validation, the loss of each stage, and rates and singular steps where they tell anything.

    Yields:
        What is drawn, and the drawing.
    """
    wanted: list[tuple[str, str, str | None]] = [
        (figure, f"{figure}: {says}", None) for figure, says in FIGURES.items()
    ]
    for name in dict.fromkeys(each for run in runs for each in run.stages):
        kinds = dict.fromkeys(str(run.stages[name].get("loss", "")) for run in runs if name in run.stages)
        wanted.append(("train/loss", f"train/loss of {name}: {', '.join(filter(None, kinds))}", name))
    for figure, title, stage in wanted:
        curves = [_curve(run, place, figure, stage) for place, run in enumerate(runs)]
        values = {value for curve in curves for value in curve.values}
        if values and (figure not in DULL or len(values) > 1):
            yield title, draw_curves([curve for curve in curves if curve.values], title)


def _curve(run: Left, place: int, figure: str, stage: str | None = None) -> Curve:
    """Return a figure of a run over its epochs, or over those of a stage."""
    rows = [row for row in run.curves if figure in row and stage in (None, row.get("stage"))]
    began: dict[str, int] = {}
    for row in run.curves:
        began.setdefault(str(row.get("stage")), row["epoch"])
    best = [
        began[stage_name] + known["best_epoch"]
        for stage_name, known in run.stages.items()
        if known.get("best_epoch") and stage_name in began
    ]
    ends = [] if stage else [first for first in began.values() if first > run.curves[0]["epoch"]]
    return Curve(place, [row["epoch"] + 1 for row in rows], [row[figure] for row in rows], best, ends)


def joints_of(run: Left) -> Iterator[Markup]:
    """Draw U on the noisy validation set after each stage, rows normalised."""
    for name, stage in run.stages.items():
        if stage.get("joint") is not None:
            joint = np.asarray(stage["joint"], dtype=np.float64)
            title = f"after {name}: log |det U| = {number(log_det(joint))}"
            yield heatmap(row_shares(joint), class_names(run), title=title, rows="noisy label", columns="prediction")


def transitions_of(run: Left) -> Iterator[Markup]:
    """Draw T, as it was injected, beside T̂ of each stage that implies one; nothing where there is no T̂ and no noise."""

    def drawn(matrix: Any, title: str) -> Markup:
        shares = np.asarray(matrix, dtype=np.float64)
        return heatmap(shares, class_names(run), title=title, rows="true class", columns="noisy label")

    injected = (run.results.get("noise") or {}).get("matrix")
    if injected is not None:
        yield drawn(injected, "T: as it came out in the training labels")
    for name, stage in run.stages.items():
        if stage.get("transition") is not None:
            error = stage.get("transition_error")
            off = "" if error is None else f": error {error:.3f}"
            yield drawn(stage["transition"], f"T̂ after {name}{off}")


def confusions_of(run: Left) -> Iterator[Markup]:
    """Draw the confusion matrix of each stage's best epoch on the test set."""
    for name, stage in run.stages.items():
        if stage.get("confusion") is not None:
            counts = np.asarray(stage["confusion"], dtype=np.float64)
            title = f"{name}: {number(stage.get('test_acc'))} correct"
            yield heatmap(counts, class_names(run), title=title, rows="test label", columns="prediction", shares=False)


def class_accuracies(runs: Sequence[Left], names: Sequence[str]) -> dict[str, Any]:
    """Return the accuracy of each class on the test set: of each stage of one run, or of what several runs keep to predict.

    Returns:
        ``figure``, and ``rows``: for each class its name, its test samples and its accuracies; ``heads`` of these. Empty
        where no confusion matrix is known, or the runs have not the same classes.
    """
    if len(runs) == 1:
        named = [(name, runs[0], stage.get("confusion")) for name, stage in runs[0].stages.items()]
    else:
        kept = [(str(run.results.get("chosen")), run, name) for run, name in zip(runs, names, strict=True)]
        named = [(f"{name}: {stage}", run, run.stages.get(stage, {}).get("confusion")) for stage, run, name in kept]
    known = [(label, run, np.asarray(counts, dtype=np.float64)) for label, run, counts in named if counts is not None]
    if len({(len(counts), *class_names(run)) for _, run, counts in known}) != 1:
        return {}
    first = known[0][2]
    classes = class_names(known[0][1]) or [str(each) for each in range(len(first))]
    shares = [recalls(counts) for _, _, counts in known]
    return {
        "figure": draw_class_accuracies(shares, classes, "accuracy of each class on the test set"),
        "heads": legend([label for label, _, _ in known]),
        "rows": [
            (name, int(first[place].sum()), [None if np.isnan(each[place]) else each[place] for each in shares])
            for place, name in enumerate(classes)
        ],
    }


# -- matrices ---------------------------------------------------------------------------------------------------------


def row_shares(joint: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return P(prediction | noisy label), shape ``(C, C)``; zeros in the row of a label that does not occur.

    >>> row_shares(np.array([[0.25, 0.25], [0.0, 0.0]])).tolist()
    [[0.5, 0.5], [0.0, 0.0]]
    """
    totals = joint.sum(axis=1, keepdims=True)
    shares: NDArray[np.float64] = np.divide(joint, totals, out=np.zeros_like(joint), where=totals > 0)
    return shares


def recalls(confusion: NDArray[Any]) -> NDArray[np.float64]:
    """Return the accuracy of each class, shape ``(C,)``; NaN for one without samples.

    >>> recalls(np.array([[3, 1], [0, 0]])).tolist()
    [0.75, nan]
    """
    totals = confusion.sum(axis=1).astype(np.float64)
    unknown = np.full(len(totals), np.nan)
    shares: NDArray[np.float64] = np.divide(confusion.diagonal(), totals, out=unknown, where=totals > 0)
    return shares


def log_det(joint: NDArray[np.float64]) -> float | None:
    """Return log |det U|; ``None`` for a singular matrix.

    >>> round(log_det(np.array([[0.5, 0.0], [0.0, 0.5]])), 4), log_det(np.array([[0.5, 0.5], [0.0, 0.0]]))
    (-1.3863, None)
    """
    value = float(np.linalg.slogdet(joint)[1])
    return value if np.isfinite(value) else None
