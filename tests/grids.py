"""A grid of two cells on scikit-learn's digits, and what its runs would leave: shared by the tests of `ldmi benchmark`."""

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ldmi_lightning.benchmarking.cells import Cell
from ldmi_lightning.benchmarking.grid import ParseFit, expand, fill_in, read_grid

REPO = Path(__file__).parents[1]
LDMI = [sys.executable, "-m", "ldmi_lightning"]
FLIPS = {9: 1, 2: 0, 4: 7, 3: 5}
TINY: dict[str, Any] = {
    "data": {
        "digits": {
            "config": str(REPO / "configs/quickstart.yaml"),
            "noise": {"pairs": {"class_path": "ClassDependentNoise", "init_args": {"flips": FLIPS}}},
        }
    },
    "rates": [0.6],
    "methods": {name: str(REPO / f"configs/methods/{name}.yaml") for name in ("ce", "dmi")},
    "seeds": [1],
    "options": {f"model.{stage}.epochs": 2 for stage in ("warmup", "robust", "refine")},
}


def write_grid(path: str = "grid.yaml", **changes: Any) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(yaml.safe_dump({**TINY, **changes}, sort_keys=False))
    return Path(path)


def cells_of(parse_fit: ParseFit, **changes: Any) -> list[Cell]:
    return expand(read_grid(write_grid(**changes)), parse_fit)


def made(config: dict[str, Any], methods: list[str], rates: list[float], seeds: list[int]) -> list[Cell]:
    """Return cells of methods that are known by their losses alone, all made from one configuration."""
    losses = {"ce": "CELoss", "fw": "ForwardLoss", "gce": "GCELoss", "lccn": "LCCNLoss"}
    cells = []
    for seed, rate, method in itertools.product(seeds, rates, methods):
        filled = fill_in(config, rate, seed)
        model = filled["model"]["init_args"]
        model["robust"]["loss"]["class_path"] = f"ldmi_lightning.losses.{losses.get(method, 'DMILoss')}"
        model["refine"] = {"epochs": 2} if method == "dmi-refine" else None
        cells.append(Cell("digits", "pairs", rate, method, seed, filled))
    return cells


def finish(cell: Cell, output: Path, accuracy: float) -> None:
    """Leave what a run of the cell would have left, had it come to this accuracy."""
    run = cell.folder(output) / "20260101-000000-Digits-ClassDependent-1"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(cell.config))
    (run / "results.json").write_text(json.dumps(results_of(cell, accuracy)))


def results_of(cell: Cell, accuracy: float) -> dict[str, Any]:
    """Return the results of a run of the cell, had it come to this accuracy."""

    def stage(loss: str, accuracy: float, selected_by: str, **more: Any) -> dict[str, Any]:
        figures = {"test_acc": accuracy, "test_balanced_acc": accuracy - 0.01}
        figures |= {f"{name}_last": value - 0.1 for name, value in list(figures.items())}
        return {"loss": loss, "epochs": 9, "best_epoch": 7, "selected_by": selected_by, **figures, **more}

    robust = cell.config["model"]["init_args"]["robust"]["loss"]["class_path"].rpartition(".")[2]
    stages: dict[str, Any] = {"warmup": stage("CELoss", 0.5, "val/acc"), "robust": None, "refine": None}
    if cell.config["model"]["init_args"]["refine"] is None:
        stages["robust"] = stage(robust, accuracy, "val/log_dmi" if robust == "DMILoss" else "val/acc")
    else:
        stages["robust"] = stage(robust, accuracy - 0.01, "val/log_dmi")
        stages["refine"] = stage("ForwardLoss", accuracy, "val/nll", transition_error=0.125)
    return {
        "stages": stages,
        "noise": {"matrix": np.eye(10).tolist()},
        "versions": {"ldmi_lightning": "0.1.0", "torch": "2.15.0"},
        "wall_time_s": 36.0,
    }


def table_rows(path: Path) -> list[list[str]]:
    return table_rows_of(path.read_text())


def table_rows_of(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def without_times(table: str) -> str:
    return re.sub(r"computing time [\d.]+ h", "", table)
