"""What the tests of training share: a quiet Trainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

MakeTrainer = Callable[..., pl.Trainer]


@pytest.fixture
def make_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeTrainer:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # puts back what seed_everything leaves in the environment
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}

    def make(**flags: Any) -> pl.Trainer:
        return pl.Trainer(**{**quiet, "default_root_dir": tmp_path, **flags})

    return make
