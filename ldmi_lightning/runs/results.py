"""What is left of a run: `results.json`, and the table that is printed."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ldmi_lightning import files
from ldmi_lightning.runs.configuration import STAGES

CHOSEN = "*"
"""What the table puts after the name of the stage that is kept to predict."""
TRUE_ACCURACY = "on true labels (95 %)"
OF_TRUE_LABELS = (
    "test acc and balanced acc are on the test labels as given, some of which may be wrong; on true labels: estimated through "
    "T̂ of the validation and test labels."
)


def collect(
    *,
    data: str,
    seed: int,
    noise: Mapping[str, Any] | None,
    stages: Mapping[str, Mapping[str, Any] | None],
    chosen: str | None,
    choice: Sequence[Mapping[str, Any]],
    wall_time_s: float,
    epoch_times: Mapping[str, Mapping[str, Any]] | None = None,
    class_names: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the content of ``results.json``, in plain JSON types.

    Args:
        data: class of the data set.
        seed: of the run.
        noise: the report of its noise; ``None`` for data that cannot speak of its labels.
        stages: the results of each stage, by name, in order.
        chosen: name of the stage that is kept to predict.
        choice: why: ``stage``, ``against``, ``difference``, ``standard_error``, ``z`` and ``kept`` for each later stage.
        wall_time_s: how long the run took.
        epoch_times: for each stage, how long the training of an epoch took.
        class_names: names of the classes, where the data knows them.

    >>> found = collect(data="Digits", seed=1, noise=None, stages={"warmup": {}, "polish": {}}, chosen="polish", choice=[],
    ...                 wall_time_s=2.04)
    >>> found["stages"], found["wall_time_s"]
    ({'warmup': {}, 'robust': None, 'refine': None, 'polish': {}}, 2.0)
    """
    import torch  # here, so that `why` can be had without

    return {
        "data": data,
        "class_names": list(map(str, class_names)),
        "seed": seed,
        "noise": noise,
        "stages": dict.fromkeys(STAGES) | dict(stages),
        "chosen": chosen,
        "choice": [dict(each) for each in choice],
        "versions": {
            "ldmi_lightning": version("ldmi_lightning"),
            "torch": torch.__version__,
            "pytorch_lightning": version("pytorch_lightning"),
        },
        "wall_time_s": round(wall_time_s, 1),
        "epoch_times": {name: dict(each) for name, each in (epoch_times or {}).items()},
    }


def write_json(results: Mapping[str, Any], path: Path) -> None:
    """Write ``results.json``."""
    files.write(path, (json.dumps(results, indent=1, allow_nan=False) + "\n").encode())


def table(
    stages: Mapping[str, Mapping[str, Any] | None],
    chosen: str | None = None,
    choice: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the stages' figures as a table to print; the arguments are those of :func:`collect`.

    Where there was a choice, the stage that is kept is marked, and a line below says why.

    >>> print(table({"warmup": {"loss": "CELoss", "epochs": 2, "best_epoch": 1, "selected_by": "val/acc",
    ...                         "test_acc": 0.5, "test_balanced_acc": None, "test_acc_last": 0.25}}))
    stage   loss    epochs  best epoch  selected by  test acc  balanced acc  last epoch's test acc
    warmup  CELoss       2           1  val/acc        0.5000             –                 0.2500
    """
    heads = [
        "stage",
        "loss",
        "epochs",
        "best epoch",
        "selected by",
        "test acc",
        "balanced acc",
        "last epoch's test acc",
    ]
    keys = ["loss", "epochs", "best_epoch", "selected_by", "test_acc", "test_balanced_acc", "test_acc_last"]
    estimated = any("true_acc" in stage for stage in stages.values() if stage is not None)
    heads += [TRUE_ACCURACY] if estimated else []
    marked = chosen is not None and bool(choice)
    rows = [
        [
            name,
            *(_cell(stage[key]) for key in keys),
            *([_true_accuracy(stage)] if estimated else []),
            *([CHOSEN if name == chosen else ""] if marked else []),
        ]
        for name, stage in stages.items()
        if stage is not None
    ]
    heads += ["kept"] if marked else []
    left = {0, 1, 4}
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    lines = [
        "  ".join(
            cell.ljust(width) if column in left or row is heads else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [heads, *rows]
    ]
    return "\n".join(
        [*lines, *([f"{CHOSEN} {why(choice)}"] if marked else []), *([OF_TRUE_LABELS] if estimated else [])]
    )


def why(choice: Sequence[Mapping[str, Any]]) -> str:
    """Say why a stage is kept.

    >>> found = {"stage": "robust", "against": "warmup", "difference": -0.02, "standard_error": 0.01, "z": -2.0}
    >>> print(why([found]).partition(": ")[2])
    robust is 2.0 behind warmup.
    """
    compared = "; ".join(map(_compared, choice))
    return (
        "kept to predict. A later stage is kept where its decisions are more than 1 standard error ahead on noisy held-out "
        f"labels: {compared}."
    )


def _compared(found: Mapping[str, Any]) -> str:
    later, kept, difference, z = (found[key] for key in ("stage", "against", "difference", "z"))
    if difference is None:
        return f"{later} could not be compared with {kept}, and was taken as the later one"
    if z is None:  # without an error
        return f"{later} is {'ahead of' if difference > 0 else 'behind'} {kept} in each label by the same"
    return f"{later} is {abs(z):.1f} {'ahead of' if z >= 0 else 'behind'} {kept}"


def _true_accuracy(stage: Mapping[str, Any]) -> str:
    """Return the estimate of a stage with its interval.

    >>> _true_accuracy({"true_acc": 0.9, "true_acc_low": 0.88, "true_acc_high": 0.92}), _true_accuracy({})
    ('0.9000 (0.8800 to 0.9200)', '–')
    """
    if "true_acc" not in stage:
        return _cell(None)
    return f"{stage['true_acc']:.4f} ({stage['true_acc_low']:.4f} to {stage['true_acc_high']:.4f})"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
