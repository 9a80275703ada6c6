"""What the tests share: a quiet Trainer, and a hub that nobody can reach."""

from collections.abc import Callable, Iterator
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


@pytest.fixture(scope="module")
def hub_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep `datasets` offline and out of the home directory."""
    import datasets
    import huggingface_hub.constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        yield
