"""Runs on own images that are streamed: resumed bit for bit, and whole commands."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from blobs import run_folder
from conftest import MakeTrainer
from own_sources import folder_of_images, parquet_of_images, shards
from pytorch_lightning import seed_everything
from stops import StopAt, Stopped
from torch import nn

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.commands import main
from ldmi_lightning.datamodules import NoisyDataModule
from ldmi_lightning.losses import CELoss, DMILoss

pytestmark = pytest.mark.usefixtures("hub_of_its_own")

QUICK = [
    *("--trainer.enable_progress_bar", "false", "--trainer.logger", "false", "--trainer.accelerator", "cpu"),
    *("--model.warmup.epochs", "2", "--model.robust.epochs", "2", "--data.batch_size", "8"),
    *("--model.backbone", "test_own_streamed_runs.Flat", "--data.streamed", "true", "--data.num_workers", "1"),
]


class Flat(nn.Sequential):
    """A linear probe for images of 6×6."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(108, num_classes))


def fit(make: Callable[..., NoisyDataModule], make_trainer: MakeTrainer, root: Path, **options: Any) -> LDMIModule:
    seed_everything(0, verbose=False)
    data, checkpoint = make(streamed=options.pop("streamed", True)), options.pop("ckpt_path", None)
    stages = {"warmup": Stage(CELoss(), epochs=2), "robust": Stage(DMILoss(0.9), epochs=3)}
    module = LDMIModule(Flat(2), num_classes=2, **stages)
    make_trainer(default_root_dir=root, **options).fit(module, data, ckpt_path=checkpoint)
    return module


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("epoch", [1, 3])
def test_run_is_resumed_bit_for_bit_and_may_hold_its_data_from_then_on(
    tmp_path: Path, make_trainer: MakeTrainer, epoch: int, streamed: bool
) -> None:
    make = parquet_of_images(tmp_path)
    whole = fit(make, make_trainer, tmp_path / "whole")
    with pytest.raises(Stopped):
        fit(make, make_trainer, tmp_path / "parts", callbacks=[StopAt(epoch)])
    last = run_folder(tmp_path / "parts") / "last.ckpt"
    resumed = fit(make, make_trainer, tmp_path / "parts", ckpt_path=last, streamed=streamed)
    assert all(torch.equal(whole.state_dict()[name], value) for name, value in resumed.state_dict().items())


def command(root: Path, kind: str) -> list[str]:
    if kind == "folder":
        folder_of_images(root)
        return ["--data", "ImageFolderDataModule", "--data.root", "photos", "--data.image_size", "6"]
    shards(root / "images")
    options = {"source": "images", "image_column": "image", "image_size": "6"}
    return ["--data", "HFDataModule", *(word for name, value in options.items() for word in (f"--data.{name}", value))]


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_streamed_data_is_trained_on_and_predicted(in_own_folder: Path, kind: str) -> None:
    assert main(["fit", *command(in_own_folder, kind), *QUICK]) == 0
    (best,) = Path("runs").glob("*/robust-best.ckpt")
    assert main(["predict", "--ckpt_path", str(best), "--trainer.enable_progress_bar", "false"]) == 0
    assert len((best.parent / "predictions.csv").read_text().splitlines()) == 1 + 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_streamed_data_is_audited(in_own_folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    words = ["audit", *command(in_own_folder, kind), *QUICK, "--folds", "2", "--output", "found"]
    assert main(words) == 0
    assert len((in_own_folder / "found" / "audit" / "issues.csv").read_text().splitlines()) == 1 + 36
