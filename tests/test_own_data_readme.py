"""Data of one's own as README and docs/python.md show it: each example is run."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import writers

from ldmi_lightning.commands import main

pytestmark = pytest.mark.usefixtures("hub_of_its_own")

README = (Path(__file__).parents[1] / "README.md").read_text()
PYTHON = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
QUICK = [
    *("--trainer.enable_progress_bar", "false", "--trainer.logger", "false", "--trainer.accelerator", "cpu"),
    *("--model.warmup.epochs", "1", "--model.robust.epochs", "1", "--data.batch_size", "8"),
]


def shown(name: str) -> str:
    """Return the file of this name that README shows."""
    (text,) = re.findall(rf"^```\w+\n(# {re.escape(name)}\n.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    assert len(text.splitlines()) < 20
    return str(text)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    return tmp_path


def results() -> dict[str, Any]:
    (path,) = Path("runs").glob("*/results.json")
    return dict(json.loads(path.read_text()))


def photos(here: Path) -> None:
    writers.write_image_folders(here / "photos", {"cat": 30, "dog": 30})
    (here / "photos.yaml").write_text(shown("photos.yaml"))


def test_folders_of_images_as_readme_shows_them(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos(here)
    assert main(["fit", "--config", "photos.yaml", "--data.image_size", "32", *QUICK]) == 0
    assert results()["data"] == "ImageFolderDataModule"
    assert (results()["noise"]["train_rate"], results()["noise"]["matrix"]) == (None, None)
    assert results()["stages"]["robust"]["test_acc"] is not None
    assert "training and validation labels may be wrong as given; test labels are as given" in capsys.readouterr().out


def test_texts_as_readme_shows_them(here: Path) -> None:
    writers.write_texts(here / "reviews", {"train": 60, "test": 20})
    (here / "reviews.yaml").write_text(shown("reviews.yaml"))
    command = ["--config", "reviews.yaml", "--data.source", "reviews"]
    assert main(["fit", *command, *QUICK]) == 0
    assert results()["data"] == "HFDataModule"
    (best,) = Path("runs").glob("*/robust-best.ckpt")
    assert main(["predict", "--ckpt_path", str(best), "--trainer.enable_progress_bar", "false"]) == 0
    names = Counter(line.split(",")[2] for line in (best.parent / "predictions.csv").read_text().splitlines()[1:])
    assert names.keys() <= {"negative", "positive"}
    assert names.total() == 20


def test_backbone_from_timm_as_readme_shows_it_and_noise(here: Path) -> None:
    pytest.importorskip("timm")
    photos(here)
    (line,) = re.findall(r"^ldmi (fit .* timm\..*)$", PYTHON, flags=re.MULTILINE)
    noise = ["--data.noise", "SymmetricNoise", "--data.noise.rate", "0.3"]
    assert main([*line.split(), "--data.image_size", "32", *noise, *QUICK]) == 0
    assert results()["noise"]["train_rate"] == pytest.approx(0.3, abs=0.15)
    (best,) = Path("runs").glob("*/robust-best.ckpt")
    assert main(["test", "--ckpt_path", str(best), "--trainer.enable_progress_bar", "false"]) == 0
