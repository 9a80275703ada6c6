"""The command on features: encoders from YAML, a fit, its test and predictions, and grids of runs."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import writers
from refusals import error
from tiny_tokenizers import write_tokenizer
from tiny_transformers import tiny_bert

from ldmi_lightning.benchmarking import published
from ldmi_lightning.benchmarking.cells import Cell, content_key
from ldmi_lightning.benchmarking.grid import expand, read_grid
from ldmi_lightning.benchmarking.runner import Runner
from ldmi_lightning.commands import main
from ldmi_lightning.commands.configuration import parse_fit
from ldmi_lightning.engines.local import LocalEngine

pytestmark = pytest.mark.usefixtures("hub_of_its_own", "at_home")

REPO = Path(__file__).parents[1]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
SHORT = ["--model.warmup.epochs", "1", "--model.robust.epochs", "1"]
NOISE = ["--data.noise", "SymmetricNoise", "--data.noise.rate", "0.3"]
OWN = """from torch import nn


def flat(width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width))


def unannotated(width):
    return flat(width)
"""


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder in which there is a module of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("own_encoder.py").write_text(OWN)


def words(*encoder: str, data: str = "DigitsDataModule") -> list[str]:
    return ["--data", "EncodedDataModule", "--data.data", data, "--data.encoder", *encoder]


def head(features: int, classes: int = 10) -> list[str]:
    sizes = {"in_features": features, "out_features": classes}
    return ["--model.backbone", "torch.nn.Linear", *(f"--model.backbone.{key}={each}" for key, each in sizes.items())]


FLAT = words("own_encoder.flat", "--data.encoder.width", "6")


def test_a_fit_its_test_and_its_predictions_share_the_features(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *FLAT, *NOISE, *head(6), *QUIET, *SHORT]) == 0
    (run,) = Path().glob("runs/*/")
    results = json.loads((run / "results.json").read_text())
    assert results["noise"]["injector"] == "SymmetricNoise"
    assert results["noise"]["seed"] == 1  # that of the run
    lines = capsys.readouterr().out
    assert [lines.count(f"samples of the {name} split in ") for name in ("train", "val", "test")] == [1, 1, 1]
    best = str(run / "robust-best.ckpt")
    assert main(["test", "--ckpt_path", best, *QUIET]) == 0
    assert f"{results['stages']['robust']['test_acc']:.4f}"[:5] in capsys.readouterr().out
    assert main(["predict", "--ckpt_path", best, *QUIET]) == 0
    lines = capsys.readouterr().out
    assert "per second" not in lines
    assert "The features of the test split" in lines
    # What the net says of the features on disk, standardised as the checkpoint tells.
    state = torch.load(best, weights_only=True)
    own = state["EncodedDataModule"]
    (folder,) = (
        path.parent
        for path in Path("features").rglob("description.json")
        if "the test split" in json.loads(path.read_text())["what"]
    )
    x = np.concatenate([np.load(path) for path in sorted(folder.glob("*.npy"))])
    x = (torch.from_numpy(x) - own["mean"]) / own["std"]
    weight, bias = (state["state_dict"][f"backbone.{name}"] for name in ("weight", "bias"))
    assert np.allclose(np.load(run / "probabilities.npy"), (x @ weight.T + bias).softmax(1), atol=1e-5)


def test_a_probe_takes_its_width_from_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    probe = ["--model.backbone", "Probe", "--model.backbone.hidden", "4"]
    assert main(["fit", *FLAT, *probe, *QUIET, *SHORT]) == 0
    state = torch.load(next(Path().glob("runs/*/last.ckpt")), weights_only=True)["state_dict"]
    assert state["backbone.layers.0.weight"].shape == (4, 6)


def test_another_encoder_is_refused_by_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *FLAT, *head(6), *QUIET, "--model.warmup.epochs", "1", "--model.robust", "null"]) == 0
    best = str(next(Path().glob("runs/*/warmup-best.ckpt")))
    capsys.readouterr()
    line = error(capsys, "test", "--ckpt_path", best, "--data.encoder.width", "7", *QUIET)
    assert line.startswith("ldmi: error: The encoder Sequential is not that of the checkpoint")


def test_the_labels_are_described_without_encoding_anything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["noise", "--data", "DigitsDataModule", *NOISE, "--output", "plain"]) == 0
    assert main(["noise", *FLAT, *NOISE, "--output", "encoded"]) == 0
    assert Path("plain/labels.csv").read_text() == Path("encoded/labels.csv").read_text()
    assert not Path("features").exists()


def test_a_function_that_does_not_say_what_it_returns(capsys: pytest.CaptureFixture[str]) -> None:
    built = words("ldmi_lightning.models.built_by", "--data.encoder.function", "own_encoder.unannotated")
    arguments = ["--data.encoder.arguments", "{width: 5}"]
    assert main(["fit", *built, *arguments, *head(5), *QUIET, "--trainer.fast_dev_run", "1"]) == 0


def test_torchvisions_nets_by_their_class_path(capsys: pytest.CaptureFixture[str]) -> None:
    writers.write_image_folders(Path("photos/train"), {"cat": 20, "dog": 20})
    photos = ["--data.data.root", "photos", "--data.data.image_size", "8", "--data.image_size", "32"]
    resnet = words("torchvision.models.resnet18", *photos, data="ImageFolderDataModule")
    assert main(["fit", *resnet, *head(512, 2), *QUIET, "--trainer.fast_dev_run", "1"]) == 0
    lines = capsys.readouterr().out
    assert "ResNet's head fc (512 → 1000) is taken off" in lines


def test_timms_nets_by_their_name(capsys: pytest.CaptureFixture[str]) -> None:
    timm = pytest.importorskip("timm")
    writers.write_image_folders(Path("photos/train"), {"cat": 20, "dog": 20})
    torch.save(timm.create_model("test_resnet").state_dict(), "weights.pt")
    photos = ["--data.data.root", "photos", "--data.data.image_size", "8", "--data.image_size", "32"]
    net = ["--data.encoder.model_name", "test_resnet", "--data.encoder.checkpoint_path", "weights.pt"]
    given = words("timm.create_model", *net, *photos, data="ImageFolderDataModule")
    width = timm.create_model("test_resnet", num_classes=0).num_features
    assert main(["fit", *given, *head(width, 2), *QUIET, "--trainer.fast_dev_run", "1"]) == 0
    assert "ResNet's head for 1000 classes is taken off" in capsys.readouterr().out


def test_texts_by_a_tokenizer_and_a_transformer(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    tokenizer = write_tokenizer(Path("tokenizer"), ["good", "bad", *(f"word{i}" for i in range(10))])
    model = tiny_bert(Path("model"))
    root = writers.write_texts(Path("texts"), {"train": 80, "validation": 50, "test": 20})
    texts = ["--data.data.root", str(root), "--data.data.tokenizer", tokenizer, "--data.data.max_tokens", "16"]
    given = words("ldmi_lightning.models.TextEncoder", "--data.encoder.name", str(model), *texts, data="MRDataModule")
    assert main(["fit", *given, *NOISE, *head(16, 2), *QUIET, *SHORT]) == 0
    best = str(next(Path().glob("runs/*/robust-best.ckpt")))
    assert main(["predict", "--ckpt_path", best, *QUIET]) == 0
    assert "samples of the train split in" in capsys.readouterr().out


# -- grids ------------------------------------------------------------------------------------------------------------


def cells_of_dmi(name: str) -> list[Cell]:
    grid = read_grid(REPO / f"configs/grids/features-{name}.yaml")
    return expand(dataclasses.replace(grid, methods={"dmi": grid.methods["dmi"]}), parse_fit)


@pytest.mark.parametrize(("name", "cells"), [("mr", 30), ("dogs_vs_cats", 30), ("cifar10", 9), ("cifar10n", 15)])
def test_a_grid_on_features_gives_its_noise_and_finds_its_data(name: str, cells: int, tmp_path: Path) -> None:
    pytest.importorskip("transformers" if name == "mr" else "timm")
    found = cells_of_dmi(name)
    assert len(found) == cells
    cell = found[-1]
    assert cell.config["data"]["init_args"]["noise"]["init_args"].get("rate") == cell.rate
    words = Runner(tmp_path, LocalEngine(1), 1, {cell.data: "/data"}).work_of(cell).words
    assert words[words.index("--data.data.root") + 1] == "/data"
    assert "--data.root" not in words


def test_the_key_does_not_hold_where_data_and_features_lie() -> None:
    config = ["fit", "--config", str(REPO / "configs/features/mr.yaml")]
    plain, same, other = (
        content_key(parse_fit([*config, *flags]))
        for flags in (
            [],
            ["--data.data.root", "/data", "--data.cache", "/elsewhere"],
            ["--data.dtype", "float16"],
        )
    )
    assert plain == same != other


def test_runs_on_features_stand_beside_what_the_paper_reached_from_scratch() -> None:
    noise = {"class_path": "ClassDependentNoise", "init_args": {"flips": {1: 0}, "rate": 0.6}}
    inner = {"class_path": "ldmi_lightning.datamodules.DogsVsCatsDataModule"}
    config = {"data": {"class_path": "EncodedDataModule", "init_args": {"data": inner, "noise": noise}}}
    found = published.find(config)
    assert found is not None
    assert found.source.endswith("trained from scratch")
    assert published.accuracy(config, 0.6, "DMILoss") == 80
    plain = {"data": {**inner, "init_args": {"noise": noise}}}
    assert published.accuracy(plain, 0.6, "DMILoss") == 80
