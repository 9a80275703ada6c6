"""What the tests share: a quiet Trainer, a hub that nobody can reach, and the order in which files are run."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

MakeTrainer = Callable[..., pl.Trainer]

LONGEST_FIRST = [
    *("signals", "benchmark", "ranks", "readme", "stage_cache", "kills", "own_data_readme"),
    *("cli_options", "cli", "clothing1m_runs", "predict", "resume", "methods", "noise_command", "encoded_runs"),
    *("encoded_kills", "own_data_page", "checkpoints"),
]


def pytest_configure(config: pytest.Config) -> None:
    # Where workers share the files, one with few tests, however long they take, would otherwise come last, and be waited for.
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first, so that all workers end together."""
    place = {f"test_{name}": i for i, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of one's own, without the seed that seed_everything leaves in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return tmp_path


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
