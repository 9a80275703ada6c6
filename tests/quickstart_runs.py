"""Runs of `ldmi fit` on scikit-learn's digits, and what they leave or refuse: shared by the tests of the command."""

import json
from pathlib import Path

import pytest

from ldmi_lightning.commands import main

REPO = Path(__file__).parents[1]
QUICK = [
    *("--config", str(REPO / "configs/quickstart.yaml")),
    *("--model.warmup.epochs", "2", "--model.robust.epochs", "2"),
    *("--trainer.enable_progress_bar", "false"),
]


@pytest.fixture(autouse=True)
def in_own_folder(in_own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def fit(*flags: str) -> Path:
    """Run `ldmi fit` and return the folder of the run."""
    before = set(Path("runs").glob("*"))
    assert main(["fit", *QUICK, *flags]) == 0
    (folder,) = set(Path("runs").glob("*")) - before
    return folder


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())
