"""A test set whose own labels are noisy: accuracy as labelled, and on true labels, with its interval."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from ldmi_lightning.commands import main
from ldmi_lightning.datamodules import DigitsDataModule
from ldmi_lightning.datamodules.base import Examples
from ldmi_lightning.datamodules.own_data import OwnData
from ldmi_lightning.runs.results import table


class WrongDigits(OwnData, DigitsDataModule):
    """Digits of which 30 % have another label, in all splits, as somebody's own data may have."""

    def __init__(self) -> None:
        DigitsDataModule.__init__(self)

    def load(self) -> Mapping[str, Examples]:
        clean = DigitsDataModule.load(self)
        random = np.random.RandomState(5)
        return {
            name: each._replace(
                y=np.where(random.rand(len(each.y)) < 0.3, (each.y + 1 + random.randint(0, 9)) % 10, each.y)
            )
            for name, each in clean.items()
        }


def test_noisy_test_labels_have_both_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    words = ["--data", "test_true_accuracy.WrongDigits", "--trainer.logger", "false", "--trainer.accelerator", "cpu"]
    epochs = ["--model.warmup.epochs", "6", "--model.robust.epochs", "6"]
    assert main(["fit", *words, *epochs, "--trainer.enable_progress_bar", "false"]) == 0
    printed = capsys.readouterr().out
    (run,) = Path("runs").iterdir()
    stages = json.loads((run / "results.json").read_text())["stages"]
    assert "true_acc" not in stages["warmup"]
    robust = stages["robust"]
    assert robust["test_acc"] < robust["true_acc_low"] <= robust["true_acc"] <= robust["true_acc_high"]
    assert main(["predict", "--ckpt_path", str(run / "robust-best.ckpt"), "--output", "out"]) == 0
    clean = DigitsDataModule().load()["test"].y
    hidden = (np.load("out/probabilities.npy").argmax(axis=1) == clean).mean()
    assert robust["true_acc_low"] <= hidden <= robust["true_acc_high"]
    assert "on true labels (95 %)" in printed
    assert "test acc and balanced acc are on the test labels as given, some of which may be wrong" in printed


def test_a_clean_test_set_has_one_figure() -> None:
    stage = {"loss": "DMILoss", "epochs": 1, "best_epoch": 1, "selected_by": "val/acc"}
    figures = {"test_acc": 0.5, "test_balanced_acc": 0.5, "test_acc_last": 0.5}
    estimated = {"true_acc": 0.75, "true_acc_low": 0.7, "true_acc_high": 0.8}
    assert "true labels" not in table({"robust": {**stage, **figures}})
    shown = table({"warmup": {**stage, **figures}, "robust": {**stage, **figures, **estimated}}).splitlines()
    assert [line.rstrip()[-1] for line in shown[1:3]] == ["–", ")"]
    assert "0.7500 (0.7000 to 0.8000)" in shown[2]
