"""Mistakes with the `ldmi` command: each gets one line, and leaves nothing behind."""

import subprocess
import sys
from pathlib import Path

import pytest
import quickstart_runs
from quickstart_runs import QUICK
from refusals import error

in_own_folder = quickstart_runs.in_own_folder  # a fixture


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--trainer.max_epochs", "3"], ["max_epochs=3", "--model.warmup.epochs"]),
        (["--trainer.max_steps", "3"], ["max_steps=3", "--model.warmup.epochs"]),
        (["--data", "FashionMNISTDataModule", "--data.root", "nowhere"], ["nowhere", "hf download"]),
        (["--data.noise.rate", "1.2"], ["1.2", "[0, 1]", "--data.noise.rate"]),
        (["--data.noise", "MatrixNoise", "--data.noise.matrix", "[[0.5, 0.4], [0, 1]]"], ["row 0", "0.9"]),
        (["--data.noise.flips", "{1: 12}"], ["1: 12", "0..9"]),
        (["--ckpt_path", "nowhere.ckpt"], ["nowhere.ckpt"]),
        (["--model.robust.los.memory", "0"], ["los"]),
        (["--model.robust.loss.memry", "0"], ["memry"]),
        (["--trainer.max_epoch", "3"], ["--trainer.max_epoch", "trainer.max_epochs?"]),
        (["--data.batch_size", "many"], ["many", "batch_size"]),
        (["--data.batch_size", "4", "--model.robust.loss.memory", "0"], ["4", "--model.robust.loss.memory 0.99"]),
        (["--model.robust.loss.memory", "1"], ["memory", "1"]),
        (["--model.warmup.epochs", "0"], ["epochs"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--model.backbone", "nowhere.Net"], ["nowhere"]),
        (["--data", "NoSuchDataModule"], ["NoSuchDataModule"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_gets_one_line_and_leaves_nothing(
    flags: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = error(capsys, "fit", *QUICK, *flags)
    assert all(name in line for name in named), line
    assert not list(Path().glob("runs/*"))


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_nothing_is_tested_with_random_weights(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--ckpt_path" in error(capsys, command)
    assert "nowhere.ckpt" in error(capsys, command, "--ckpt_path", "nowhere.ckpt")


def test_an_unknown_config_key_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("wrong.yaml").write_text("modle: 1\n")
    assert "modle" in error(capsys, "fit", "--config", "wrong.yaml")


def test_the_installed_command_exits_with_an_error_and_no_traceback() -> None:
    command = Path(sys.executable).parent / "ldmi"
    run = subprocess.run([command, "fit", *QUICK, "--data.noise.rate", "1.2"], capture_output=True, text=True)
    assert run.returncode != 0
    assert "Traceback" not in run.stderr + run.stdout
    assert run.stderr.strip().splitlines()[-1].startswith("ldmi: error: ")


def test_a_datamodule_without_num_classes_is_told_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("foreign_data.py").write_text(
        "import pytorch_lightning as pl\n\nclass MyData(pl.LightningDataModule):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    assert "attribute num_classes" in error(capsys, "fit", *QUICK, "--data", "foreign_data.MyData")
