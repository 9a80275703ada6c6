"""Runs that may share their stages, and a configuration of them: shared by the tests of the stage cache."""

from pathlib import Path
from typing import Any

import pytest

from ldmi_lightning.commands import main

CONFIG = str(Path(__file__).parents[1] / "configs/quickstart.yaml")
SHORT = ["--model.warmup.epochs", "2", "--model.robust.epochs", "2", "--trainer.enable_progress_bar", "false"]
WARMUP_ALONE = ["--model.robust", "null"]


@pytest.fixture
def in_own_folder(in_own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDMI_SHARED_STAGES", "")


def fit(name: str, *flags: str, cache: str | None = "cache") -> Path:
    """Return the folder of a run, below ``name``."""
    shared = ["--stage_cache", cache] if cache else []
    assert main(["fit", "--config", CONFIG, *SHORT, "--trainer.default_root_dir", name, *shared, *flags]) == 0
    (folder,) = Path(name).iterdir()
    return folder


def configuration(**of_the_model: Any) -> dict[str, Any]:
    """Return a configuration in plain types."""
    ce = {"loss": {"class_path": "ldmi_lightning.losses.CELoss"}, "epochs": 3, "patience": None}
    model = {"backbone": {"class_path": "ldmi_lightning.models.DigitsCNN"}, "warmup": ce, "robust": ce, "refine": None}
    return {
        "seed_everything": 1,
        "trainer": {"precision": None, "gradient_clip_val": None, "logger": True, "default_root_dir": "here"},
        "data": {"class_path": "DigitsDataModule", "init_args": {"batch_size": 128, "root": "here"}},
        "model": {"class_path": "LDMIModule", "init_args": {**model, **of_the_model}},
    }
