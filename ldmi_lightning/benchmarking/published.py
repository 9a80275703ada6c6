"""Accuracies that Xu et al. (NeurIPS 2019) published, to stand beside one's own."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from ldmi_lightning.benchmarking.cells import data_within

RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

METHODS = {"CELoss": "CE", "ForwardLoss": "FW", "GCELoss": "GCE", "LCCNLoss": "LCCN", "DMILoss": "DMI"}
"""What the paper calls a method, by the loss of its last stage."""


class Published(NamedTuple):
    """Test accuracies in percent by method and r, as far as they are known.

    Attributes:
        data: class of the data set, and settings of it that matter.
        noise: class of the injector and its settings but for the rate; empty for labels as given.
        source: where in the paper, and how exact.
        exact: whether the paper prints the numbers.
        accuracy: by method one for each of :data:`RATES`, ``None`` where not known; a single one where there is no rate.
    """

    data: Mapping[str, Any]
    noise: Mapping[str, Any]
    source: str
    exact: bool
    accuracy: Mapping[str, tuple[float | None, ...]]


FIGURE_1 = "figure 1, approximate"
FIGURE_2 = "figure 2, read off, ±1"
BAG = {"class_path": "FashionMNISTDataModule", "classes": "bag"}
EVERYWHERE_98 = (98.0,) * 10
UNKNOWN_BELOW = (None,) * 6

PUBLISHED = (
    Published(
        BAG,
        {"class_path": "SymmetricNoise", "include_true": True},
        FIGURE_1,
        False,
        {"CE": EVERYWHERE_98, "DMI": EVERYWHERE_98},
    ),
    Published(
        BAG,
        {"class_path": "ClassDependentNoise", "flips": {0: 1}},
        FIGURE_1,
        False,
        {"CE": (*UNKNOWN_BELOW, 90, 90, 90, 90), "DMI": EVERYWHERE_98},
    ),
    Published(
        BAG,
        {"class_path": "ClassDependentNoise", "flips": {1: 0}},
        FIGURE_1,
        False,
        {"CE": (*UNKNOWN_BELOW, 10, 10, 10, 10), "DMI": EVERYWHERE_98},
    ),
    Published(
        {"class_path": "CIFAR10DataModule"},
        {"class_path": "ClassDependentNoise", "flips": {9: 1, 2: 0, 4: 7, 3: 5}},
        FIGURE_2,
        False,
        {
            "CE": (93.3, 91.6, 90.2, 88.9, 84.8, 74.8, 64.5, 59.2, 57.6, 57.5),
            "FW": (93.5, 91.6, 90.2, 88.8, 84.8, 77.2, 72, 67.5, 62.3, 58.5),
            "GCE": (93.4, 91.7, 91, 89.8, 86.5, 78.5, 71.2, 67.2, 62.5, 59),
            "LCCN": (92.4, 92, 91, 90, 89.5, 88.3, 87, 77.5, 74.5, 61.5),
            "DMI": (93.3, 92, 91.5, 91.2, 90.4, 89.5, 89, 88.8, 87.5, 86),
        },
    ),
    Published(
        {"class_path": "DogsVsCatsDataModule"},
        {"class_path": "ClassDependentNoise", "flips": {1: 0}},
        FIGURE_2,
        False,
        {
            "CE": (88.7, 86, 82.5, 79.2, 73, 57.5, 50, 50, 50, 50),
            "FW": (89.5, 86, 82.9, 78.8, 72.5, 67.7, 64.6, 63, 52.5, 50.5),
            "GCE": (94.2, 92.7, 89, 81, 70, 58.5, 50.3, 50, 50, 50),
            "LCCN": (90, 87.5, 84.8, 83, 81, 77, 68.5, 66, 65.8, 64.3),
            "DMI": (90, 87.7, 85.8, 84.5, 82.5, 81.3, 80, 77, 75, 68),
        },
    ),
    Published(
        {"class_path": "Clothing1MDataModule"},
        {},
        "its table for Clothing1M",
        True,
        {"CE": (68.94,), "FW": (70.83,), "GCE": (69.09,), "LCCN": (71.63,), "DMI": (72.46,)},
    ),
)


def find(config: Mapping[str, Any]) -> Published | None:
    """Return what the paper says of the data and the noise of a run's configuration, at any rate.

    A run on a data set's features is compared with what the paper reached from scratch, and the source says so.
    """
    within = data_within(config)
    data = within or config["data"]
    noise = (config["data"].get("init_args") or {}).get("noise") or (data.get("init_args") or {}).get("noise")
    for each in PUBLISHED:
        if _agrees(data, each.data) and (_agrees(noise or {}, each.noise) if each.noise else _adds_nothing(noise)):
            return each if within is None else each._replace(source=f"{each.source}; trained from scratch")
    return None


def accuracy(config: Mapping[str, Any], rate: float | None, loss: str) -> float | None:
    """Return the paper's test accuracy in percent; ``None`` where it gives none.

    Args:
        config: the configuration of a run.
        rate: noise amount r.
        loss: class of the loss of the run's last stage.
    """
    found = find(config)
    numbers = found.accuracy.get(METHODS.get(loss, ""), ()) if found else ()
    if rate is None:
        return numbers[0] if len(numbers) == 1 else None
    return next((number for r, number in zip(RATES, numbers, strict=False) if abs(r - rate) < 1e-9), None)


def _agrees(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a ``class_path`` with ``init_args`` is of the wanted class and has the wanted arguments."""
    own = {**(given.get("init_args") or {}), "class_path": str(given.get("class_path")).rpartition(".")[2]}
    in_json = json.loads(json.dumps([{key: own.get(key) for key in wanted}, wanted]))  # where keys are strings
    return bool(in_json[0] == in_json[1])


def _adds_nothing(noise: Mapping[str, Any] | None) -> bool:
    return noise is None or _agrees(noise, {"class_path": "NoNoise"})
