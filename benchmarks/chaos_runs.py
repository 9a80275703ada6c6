"""The commands of `benchmarks/chaos.py`, tiny all of them, and what they have left, to compare."""

import csv
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import nn

REPO = Path(__file__).parents[1]
QUICKSTART = str(REPO / "configs/quickstart.yaml")
LINE = re.compile(r"^(warmup|robust) (\d+)/(\d+): train/loss", re.MULTILINE)
DISK, RAY = ("full disk", "read-only folder"), "ray"


class Net(nn.Sequential):
    """A net for images of 16×16 that takes no time."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, num_classes))


@dataclass
class Command:
    """A command that trains.

    Attributes:
        words: the words after ``ldmi``.
        weight: how often it is drawn; what starts processes of its own takes longer, and is drawn less often.
        part: what else than its main process is killed: a rank, a loader's worker, an engine's worker; empty for none.
        outlived: whether its runs are to outlive it, as SLURM's jobs do.
    """

    words: list[str]
    weight: int
    part: str = ""
    outlived: bool = False
    left: dict[str, Any] = field(default_factory=dict)
    """What it leaves where nobody disturbs it."""
    starts = trains = 0.0
    """So many seconds does it take to begin its first run, and from there."""

    @property
    def faults(self) -> list[str]:
        """The faults that can hit it."""
        parts = ["main process", *([self.part] if self.part else [])]
        return [f"{name} of {part}" for part in parts for name in ("SIGKILL", "SIGTERM")] + list(DISK)

    @property
    def spreads(self) -> bool:
        """Whether its runs are processes of their own, which are given out again where they die."""
        return self.words[0] != "fit"


def commands_in(folder: Path) -> dict[str, Command]:
    """Return the commands by their names, and write what they read into a folder."""
    epochs = {f"model.{stage}.epochs": 4 for stage in ("warmup", "robust")}
    options = [word for key, value in epochs.items() for word in (f"--{key}", str(value))]
    fit = ["fit", "--config", QUICKSTART, *options, "--run_folder", "run"]
    images = {"class_path": "ImageFolderDataModule", "init_args": _images(folder / "images")}
    config = yaml.safe_load(Path(QUICKSTART).read_text())
    config["model"]["init_args"]["backbone"] = {"class_path": "chaos_runs.Net"}
    (folder / "streamed.yaml").write_text(yaml.safe_dump({**config, "data": images}))
    noise = {"class_path": "ClassDependentNoise", "init_args": {"flips": {9: 1, 2: 0, 4: 7, 3: 5}}}
    grid = {
        "data": {"digits": {"config": QUICKSTART, "noise": {"pairs": noise}}},
        "rates": [0.6],
        "methods": {"dmi": str(REPO / "configs/methods/dmi.yaml")},
        "seeds": [1, 2],
        "options": {**epochs, "trainer.logger": "CSVLogger"},
    }
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))
    benchmark = ["benchmark", str(folder / "grid.yaml"), "--output", "out", "--jobs", "2", "--engine"]
    audit = ["audit", "--config", QUICKSTART, *options, "--folds", "2", "--output", "out", "--jobs", "2"]
    return {
        "fit": Command(fit, 30),
        "fit, a loader's workers": Command(
            ["fit", "--config", str(folder / "streamed.yaml"), *options, "--run_folder", "run"], 25, "loader's worker"
        ),
        "fit, 2 ranks": Command([*fit, "--trainer.devices", "2"], 15, "rank"),
        "benchmark, local": Command([*benchmark, "local"], 10, "engine's worker"),
        "benchmark, slurm": Command([*benchmark, "slurm"], 6, "engine's worker", outlived=True),
        "benchmark, ray": Command([*benchmark, RAY], 6, "engine's worker"),
        "audit --folds 2": Command(audit, 8, "engine's worker"),
    }


def _images(root: Path) -> dict[str, Any]:
    """Write small images of ten classes; return the arguments of the data set that streams them."""
    rng = np.random.RandomState(0)
    for label in range(10):
        (root / str(label)).mkdir(parents=True)
        for number in range(30):
            pixels = rng.randint(0, 128, (16, 16, 3)) + 12 * label
            Image.fromarray(pixels.astype(np.uint8)).save(root / str(label) / f"{number}.png")
    noise = {"class_path": "SymmetricNoise", "init_args": {"rate": 0.3}}
    own = {"root": str(root), "image_size": 16, "batch_size": 64, "streamed": True, "num_workers": 2}
    return {**own, "val_share": 0.2, "noise": noise}


# -- what is left -----------------------------------------------------------------------------------------------------


def left_by(folder: Path) -> dict[str, Any]:
    """Return what counts of all that a command has left: weights, states, results, rows and tables."""
    found: dict[str, Any] = {"unfinished": [str(path.relative_to(folder)) for path in folder.rglob("*.tmp")]}
    for path in [*folder.glob("out/table.csv"), *folder.glob("out/audit/*.csv")]:
        found[path.name] = path.read_bytes()
    for results in folder.rglob("results.json"):
        run = results.parent
        name = str(run.relative_to(folder))
        found |= {f"{name} {key}": json.loads(results.read_text())[key] for key in ("noise", "stages")}
        with (run / "metrics.csv").open() as file:
            found[f"{name} rows"] = [
                {key: value for key, value in row.items() if value} for row in csv.DictReader(file)
            ]
        for path in run.glob("*.ckpt"):
            saved = torch.load(path, weights_only=True)
            for key in ("state_dict", "optimizer_states", "ldmi_lightning"):
                found[f"{name} {path.name} {key}"] = saved[key]
    return found


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """Name where two nests of plain values and tensors differ, bit for bit."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = dict.fromkeys([*one, *other])
        return [each for key in keys for each in differences(one.get(key), other.get(key), f"{name}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [
            each for n, pair in enumerate(zip(one, other, strict=True)) for each in differences(*pair, f"{name}/{n}")
        ]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [name]
    return [] if type(one) is type(other) and one == other else [name]


def runs_in(folder: Path, log: Path) -> dict[str, tuple[int, list[list[int]]]]:
    """Return, for each run, how many whole epochs are kept, and the epochs that each of its processes has carried out."""
    found = {}
    for run in [folder / "run", *folder.glob("out/cells/*/run"), *folder.glob(".cache/ldmi_lightning/runs/*/run")]:
        of_run = log if run.parent == folder else run.with_name("fit.log")
        name = "run" if run.parent == folder else run.parent.name
        said = of_run.read_text(errors="replace").split("\n$ ") if of_run.is_file() else []
        sections = [[_position(match) for match in LINE.finditer(part)] for part in said]
        if run.parent.parent.name == "runs":  # Ray's: with the hash of its place
            name = name.rpartition("-")[0]
        if name not in found or sections:
            found[name] = (_epochs_in(run), sections)
    return found


def _position(match: re.Match[str]) -> int:
    """Return an epoch's number, from 0, among those of all stages."""
    return int(match[2]) - 1 + (int(match[3]) if match[1] == "robust" else 0)


def _epochs_in(run: Path) -> int:
    try:
        return int(torch.load(run / "last.ckpt", weights_only=True)["epoch"]) + 1
    except (OSError, RuntimeError, pickle.UnpicklingError):
        return 0
