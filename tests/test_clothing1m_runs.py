"""Clothing1M's ResNet-50, and both stages by the real command."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from stops import same
from torch import nn
from writers import write_clothing1m, write_official

from ldmi_lightning.commands import main
from ldmi_lightning.commands.description import describe_labels
from ldmi_lightning.datamodules import Clothing1MDataModule, DigitsDataModule, NoisyDataModule
from ldmi_lightning.models import ResNet50
from ldmi_lightning.noise import SymmetricNoise

CONFIG = Path(__file__).parents[1] / "configs/clothing1m.yaml"
SIZES = {"train": 61, "val": 28, "test": 15}
TINY = """
import multiprocessing
import os
import time
import pytorch_lightning as pl
import torch

class Net(torch.nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(torch.nn.AvgPool2d(32), torch.nn.Flatten(), torch.nn.Linear(147, num_classes))

class Interrupt(pl.Callback):
    def on_train_batch_start(self, trainer, *_):
        if str(trainer.global_step) == os.environ.get("INTERRUPT_AT"):
            raise KeyboardInterrupt

class KillWorker(pl.Callback):
    def on_train_batch_start(self, trainer, *_):
        multiprocessing.active_children()[0].kill()
        time.sleep(1)
"""


@pytest.fixture(scope="module")
def authors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clothing1m(tmp_path_factory.mktemp("authors"), SIZES)


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_official(tmp_path_factory.mktemp("official"), SIZES)


@pytest.fixture
def broken(authors: Path, tmp_path: Path) -> Path:
    return shutil.copytree(authors, tmp_path / "broken")


# -- ResNet-50 --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights in the layout of torchvision's file, of a net that is as tame as a trained one."""
    torch.manual_seed(0)
    net = ResNet50(1000)
    for each in net.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.momentum = None
        if hasattr(each, "bn3"):
            nn.init.constant_(each.bn3.weight, 0.2)
    with torch.no_grad():
        net(torch.randn(16, 3, 96, 96))
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(net.state_dict(), path)
    return path


def test_resnet50_is_torchvisions_with_another_last_layer() -> None:
    net = ResNet50(14)
    assert net.fc.weight.shape == (14, 2048)
    assert sum(parameter.numel() for parameter in net.parameters()) == 25_557_032 - 1000 * 2049 + 14 * 2049


def test_resnet50_takes_all_but_the_last_layer_from_a_file(weights: Path) -> None:
    saved = torch.load(weights, weights_only=True)
    torch.manual_seed(1)
    state = ResNet50(14, str(weights)).state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], saved[name]) for name in saved if not name.startswith("fc."))
    torch.manual_seed(1)
    assert torch.equal(state["fc.weight"], ResNet50(14).fc.weight)


def test_resnet50_takes_what_torchvision_has_downloaded(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(weights, tmp_path / "checkpoints/resnet50-0676ba61.pth")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    assert same(ResNet50(1000, "imagenet").conv1.state_dict(), ResNet50(1000, str(weights)).conv1.state_dict())


def test_weights_that_cannot_be_downloaded_name_their_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"Download https://.*resnet50-0676ba61.pth and give the file with --model"):
        ResNet50(14, "imagenet")


class Code:
    """Would leave a mark if a file of weights were allowed to run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, r"cannot be read as weights of PyTorch \(no such file\)"),
        (b"no weights", "cannot be read as weights of PyTorch"),
        ({"code": Code()}, "cannot be read as weights of PyTorch"),
        ([torch.zeros(3)], "holds a list, but must hold a state dict"),
        ({"conv1.weight": torch.zeros(3)}, r"conv1.weight has shape \(3,\), but must have \(64, 3, 7, 7\)"),
        ({"net": {"conv1.weight": torch.zeros(64, 3, 7, 7)}}, "they lack conv1.weight"),
        ("less", "they lack layer4.2.bn3.bias"),
        ("more", "extra is unknown"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, fault: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if content in ("less", "more"):
        state = torch.load(weights, weights_only=True)
        state.pop("layer4.2.bn3.bias") if content == "less" else state.update(extra=torch.zeros(1))
        torch.save(state, "given.pth")
    elif isinstance(content, bytes):
        Path("given.pth").write_bytes(content)
    elif content is not None:
        torch.save(content, "given.pth")
    with pytest.raises(ValueError, match=f"--model.backbone.weights given.pth .*{fault}"):
        ResNet50(14, "given.pth")
    assert not Path("ran").exists()


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_own_folder(in_own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(in_own_folder))
    (in_own_folder / "tiny.py").write_text(TINY)
    return in_own_folder


def fit(root: Path, name: str, *flags: str) -> tuple[int, list[str]]:
    """Run `ldmi fit` with the shipped config and a tiny net; return its exit code and what it printed."""
    printed = io.StringIO()
    args = [
        *("fit", "--config", str(CONFIG), "--data.root", str(root), "--trainer.default_root_dir", name),
        *("--data.batch_size", "16", "--model.robust.loss.memory", "0.9", "--model.backbone", "tiny.Net"),
        *("--model.warmup.epochs", "2", "--model.robust.epochs", "2"),
        *("--trainer.enable_progress_bar", "false", "--trainer.logger", "false", "--trainer.accelerator", "cpu"),
    ]
    with contextlib.redirect_stdout(printed):
        try:
            code = main([*args, *flags])
        except SystemExit as end:  # Lightning's answer to Ctrl-C
            code = int(end.code or 0)
    return code, printed.getvalue().splitlines()


def weights_of(name: str, file: str = "robust-last.ckpt") -> Any:
    (folder,) = Path(name).iterdir()
    return torch.load(folder / file, weights_only=True)["state_dict"]


def test_both_stages_train_alike_with_and_without_workers(in_own_folder: Path, official: Path) -> None:
    code, lines = fit(official, "alone", "--data.num_workers", "0")
    assert code == 0
    assert (
        "Clothing1MDataModule: 14 classes; training labels may be wrong as given; validation and test labels are"
        in ("\n".join(lines))
    )
    assert sum("the highest val/acc, seen on clean labels." in line for line in lines) == 2
    assert fit(official, "helped", "--data.num_workers", "2")[0] == 0
    assert same(weights_of("alone"), weights_of("helped"))
    (folder,) = Path("alone").iterdir()
    results = json.loads((folder / "results.json").read_text())
    assert results["data"] == "Clothing1MDataModule"
    selected_by = {name: stage["selected_by"] for name, stage in results["stages"].items() if stage is not None}
    assert selected_by == {"warmup": "val/acc", "robust": "val/acc"}


@pytest.mark.slow
def test_run_interrupted_in_both_stages_goes_on_to_the_same_end(
    in_own_folder: Path, official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--trainer.callbacks+=tiny.Interrupt", "--data.num_workers", "2", "--data.cache", "cache"]
    assert fit(official, "whole", *flags)[0] == 0
    for step in ("4", "10"):  # the second of three batches in the second epoch of either stage
        monkeypatch.setenv("INTERRUPT_AT", step)
        code, lines = fit(official, "stopped", *flags)
        assert code == 1
        assert "Go on with" in lines[-1]
        (folder,) = Path("stopped").iterdir()
        flags += ["--ckpt_path", str(folder / "last.ckpt")] if step == "4" else []
    monkeypatch.delenv("INTERRUPT_AT")
    assert fit(official, "stopped", *flags)[0] == 0
    assert same(weights_of("stopped"), weights_of("whole"))


@pytest.mark.parametrize("workers", ["0", "2"])
def test_broken_image_is_one_line_or_left_out(
    in_own_folder: Path, broken: Path, capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    image = broken / "images/6/6/train6,6.jpg"  # of a class of which all are in the balanced subset
    image.write_bytes(image.read_bytes()[:-50])
    short = ("--data.num_workers", workers, "--model.warmup.epochs", "1", "--model.robust", "null")
    code, _ = fit(broken, "refused", *short)
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert line.startswith(f"ldmi: error: {image} cannot be read (")
    assert not list(Path("refused").iterdir())
    code, lines = fit(broken, "skipped", *short, "--data.skip_broken", "true", "--data.balanced", "true")
    assert code == 0
    (line,) = [line for line in lines if "left out" in line]
    assert line.startswith(f"{image} cannot be read (")
    assert line.endswith("left out: 1 of 56 so far.")


def test_worker_that_dies_is_one_line(in_own_folder: Path, official: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--trainer.callbacks+=tiny.KillWorker", "--data.num_workers", "2", "--model.robust", "null")
    code, _ = fit(official, "runs", *flags)
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert line.startswith("ldmi: error: DataLoader worker (pid")
    assert line.endswith("Lower --data.num_workers; 0 reads in the main process.")


@pytest.mark.parametrize(
    ("data", "labels", "seen_on"),
    [
        (DigitsDataModule(), "training, validation and test labels are clean", "clean labels"),
        (
            DigitsDataModule(SymmetricNoise(0.25, seed=0)),
            "SymmetricNoise at rate 0.25 on training and validation labels; test labels are clean",
            "noisy labels",
        ),
        (
            Clothing1MDataModule(),
            "training labels may be wrong as given; validation and test labels are clean",
            "clean labels",
        ),
        (
            Clothing1MDataModule(noise=SymmetricNoise(0.25, seed=0)),
            "SymmetricNoise at rate 0.25 on training labels; training labels may be wrong as given; "
            "validation and test labels are clean",
            "clean labels",
        ),
    ],
)
def test_what_is_said_of_the_labels_is_true(data: NoisyDataModule, labels: str, seen_on: str) -> None:
    assert describe_labels(data) == (labels, seen_on)


@pytest.mark.slow
def test_shipped_config_trains_both_stages_of_resnet50(
    in_own_folder: Path, tmp_path_factory: pytest.TempPathFactory, weights: Path
) -> None:
    root = write_clothing1m(tmp_path_factory.mktemp("few"), {"train": 14, "val": 2, "test": 2})
    net = ("--model.backbone", "ldmi_lightning.models.ResNet50", "--model.backbone.weights", str(weights))
    short = ("--data.batch_size", "14", "--model.warmup.epochs", "1", "--model.robust.epochs", "1")
    code, lines = fit(root, "runs", *net, *short, "--model.robust.loss.memory", "0")
    assert code == 0
    assert any("robust  DMILoss" in line for line in lines)
    assert weights_of("runs")["backbone.fc.weight"].shape == (14, 2048)
