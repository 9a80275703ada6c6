"""`ldmi predict`: each sample once, in the order of the data set, however many processes predict."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ldmi_lightning.commands import main
from ldmi_lightning.commands.predict import order
from ldmi_lightning.errors import UserError

PLAIN = """
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

class Plain(pl.LightningDataModule):
    num_classes = 10
    def loader(self):
        pixels, y = load_digits(return_X_y=True)
        x = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
        return DataLoader(TensorDataset(x[:251], torch.tensor(y)[:251]), batch_size=20)
    train_dataloader = val_dataloader = predict_dataloader = loader

class Batches:
    def __init__(self, batches):
        self.batches = batches
    def __iter__(self):
        return iter(self.batches)

class Unordered(Plain):
    vocab_size = 0  # or jsonargparse would print the datamodule, and Lightning's __str__ knows DataLoaders only
    def predict_dataloader(self):
        return Batches(list(self.loader()))
"""
FIT = [
    *("--model.warmup.epochs", "2", "--model.robust", "null", "--model.warmup.optimizer.lr", "0.01"),
    *("--trainer.accelerator", "cpu", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a net that has seen a plain LightningDataModule, in the folder where that lies."""
    root = tmp_path_factory.mktemp("plain")
    (root / "plain_data.py").write_text(PLAIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.syspath_prepend(str(root))
        patch.setenv("PL_GLOBAL_SEED", "1")
        assert main(["fit", "--data", "plain_data.Plain", *FIT]) == 0
    (found,) = root.glob("runs/*/warmup-best.ckpt")
    return found


def predict(checkpoint: Path, output: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    command = [
        sys.executable,
        "-m",
        "ldmi_lightning",
        "predict",
        "--ckpt_path",
        str(checkpoint),
        "--output",
        str(output),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *flags], capture_output=True, text=True, env=env, cwd=checkpoint.parents[2])


@pytest.mark.slow
def test_two_ranks_predict_a_plain_data_set_as_one_does(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = predict(checkpoint, tmp_path / "2", "--trainer.devices", "2")
    monkeypatch.chdir(checkpoint.parents[2])
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    alone = ["predict", "--ckpt_path", str(checkpoint), "--output", str(tmp_path / "1"), "--trainer.devices", "1"]
    capsys.readouterr()
    code, printed = main(alone), capsys.readouterr()
    for returncode, out, err in ((run.returncode, run.stdout, run.stderr), (code, *printed)):
        assert (returncode, err) == (0, ""), err
        assert out.startswith("251 predictions: ")
    one, two = (np.load(tmp_path / str(ranks) / "probabilities.npy") for ranks in (1, 2))
    assert one.shape == (251, 10)
    assert np.allclose(one, two, atol=1e-6)
    rows = [list(csv.DictReader((tmp_path / name / "predictions.csv").read_text().splitlines())) for name in "12"]
    assert [[int(row["index"]) for row in each] for each in rows] == [list(range(251))] * 2
    assert [row["class"] for row in rows[0]] == [row["class"] for row in rows[1]]
    from sklearn.datasets import load_digits

    assert (two.argmax(axis=1) == load_digits().target[:251]).mean() > 0.7


@pytest.mark.slow
def test_rows_that_cannot_be_put_in_order_are_refused_in_one_line(checkpoint: Path, tmp_path: Path) -> None:
    run = predict(checkpoint, tmp_path, "--trainer.devices", "2", "--data", "plain_data.Unordered")
    assert run.returncode == 2
    lines = set(run.stderr.splitlines())
    assert len(lines) == 1, lines
    assert re.match(
        r"ldmi: error: 2 processes predict batches that do not say which .* --trainer.devices 1\.", lines.pop()
    )
    assert not list(tmp_path.iterdir())


def test_the_batch_s_own_word_counts_first_and_then_the_sampler_s() -> None:
    known, drawn, unknown = torch.tensor([1, 0]), torch.tensor([0, 1]), torch.tensor([-1, -1])
    assert order(known, drawn, ranks=2)[1].tolist() == [1, 0]
    assert order(unknown, drawn, ranks=2)[1].tolist() == [0, 1]
    assert order(unknown, unknown, ranks=1)[1].tolist() == [0, 1]
    with pytest.raises(UserError, match="2 processes"):
        order(unknown, unknown, ranks=2)
