"""Runs of which new samples are predicted, and the samples: shared by the tests of `ldmi predict --input`."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from ldmi_lightning.commands import main

QUIET = ["--trainer.accelerator", "cpu", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
WARMUP = ["--model.warmup.epochs", "1", "--model.robust", "null"]
OWN = """
import torch
from ldmi_lightning.datamodules import Examples, NoisyDataModule
import numpy as np

class Flowers(NoisyDataModule):
    def __init__(self, noise=None, batch_size: int = 16):
        super().__init__(2, ["a", "b"], noise, batch_size)
    def load(self):
        y = np.arange(60) % 2
        x = torch.from_numpy((np.random.RandomState(0).randn(60, 3) + y[:, None]).astype(np.float32))
        every = Examples(x, y, np.arange(60))
        return {"train": every.take(slice(0, 40)), "val": every.take(slice(40, 50)), "test": every.take(slice(50, 60))}

class Sentences(Flowers):
    def load(self):
        random = np.random.RandomState(1)
        return {name: each._replace(x=torch.from_numpy(random.randint(1, 9, (len(each.y), 4)))) for name, each in
                super().load().items()}

class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 6), torch.nn.ReLU())
    def forward(self, x):
        return self.net(x)

class Flat(torch.nn.Sequential):
    def __init__(self, num_classes: int, num_features: int = 3):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(num_features, num_classes))

class Colour(Flat):
    def __init__(self, num_classes: int):
        super().__init__(num_classes, 192)
"""


def fitted(folder: Path, *words: str, stage: str = "warmup") -> Path:
    """Fit a model in a folder; return its checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setenv("PL_GLOBAL_SEED", "1")
        assert main(["fit", *words, *QUIET]) == 0
    (found,) = folder.glob(f"runs/*/{stage}-best.ckpt")
    return found


def predict(checkpoint: Path, place: Path | None, output: str = "out", *words: str) -> int:
    new = [] if place is None else ["--input", str(place)]
    return main(["predict", "--ckpt_path", str(checkpoint), "--output", output, *new, *words, *QUIET])


def rows(output: str = "out") -> list[dict[str, str]]:
    with (Path(output) / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def answers(found: list[dict[str, str]]) -> list[tuple[str, ...]]:
    return [(row["class"], row["name"], row["confidence"]) for row in found]


def held_out() -> Any:
    """Return the digits of the test split, uint8, shape ``(300, 8, 8)``."""
    return load_digits().images[np.random.RandomState(0).permutation(1797)[:300]].astype(np.uint8)


def photos(folder: Path, pixels: Any, size: int | None = None) -> Path:
    (folder / "in").mkdir(parents=True)
    for number, each in enumerate(pixels):
        image = Image.fromarray((each * (255 / 16)).round().astype(np.uint8))
        image = image if size is None else image.resize((size, size), Image.Resampling.NEAREST)
        image.save(folder / ("in" if number % 2 else "") / f"{number:03}.png")
    return folder


def text_table(path: Path, number: int = 80, label: bool = True) -> Path:
    lines = ["text,label\n" if label else "number,text\n"]
    for i in range(number):
        text = f"{['a bad', 'a good'][i % 2]} film {i % 7}"
        lines.append(f"{text},{['no', 'yes'][i % 2]}\n" if label else f"{i},{text}\n")
    path.write_text("".join(lines))
    return path


def fit_digits(folder: Path) -> Path:
    """Return the checkpoint of a run on digits."""
    return fitted(folder, *WARMUP)


def fit_flowers(folder: Path) -> Path:
    """Return the checkpoint of a run on three numbers a sample, by classes of one's own, which lie in the folder."""
    (folder / "flower_data.py").write_text(OWN)
    return fitted(folder, "--data", "flower_data.Flowers", "--model.backbone", "flower_data.Flat", *WARMUP)


def fit_sentences(folder: Path) -> Path:
    """Return the checkpoint of a run on token ids, by a data set of one's own."""
    (folder / "sentence_data.py").write_text(OWN)
    net = ["--model.backbone", "WordCNN", "--model.backbone.vocab_size", "9"]
    return fitted(folder, "--data", "sentence_data.Sentences", *net, *WARMUP)


def fit_texts(folder: Path) -> Path:
    """Return the checkpoint of a run on a CSV that is gone."""
    source = text_table(folder / "train.csv")
    words = [
        "--data",
        "HFDataModule",
        "--data.source",
        str(source),
        "--data.text_column",
        "text",
        "--data.batch_size",
        "16",
    ]
    stages = ["--model.warmup.epochs", "2", "--model.robust.epochs", "1", "--model.warmup.optimizer.lr", "0.01"]
    found = fitted(folder, *words, "--model.backbone", "WordCNN", *stages, stage="robust")
    source.unlink()
    return found


# -- fixtures -----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_flowers(tmp_path_factory.mktemp("flowers"))


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_sentences(tmp_path_factory.mktemp("sentences"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture
def importable(flowers: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the checkpoint of flowers, whose classes can be imported."""
    monkeypatch.syspath_prepend(str(flowers.parents[2]))
    return flowers
