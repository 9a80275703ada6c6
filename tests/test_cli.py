"""The `ldmi` command as a user meets it: what one real run leaves, and what is repeated, tested and resumed from it."""

import contextlib
import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
import quickstart_runs
import torch
import yaml
from quickstart_runs import QUICK, results
from refusals import error

from ldmi_lightning.commands import main, parse_fit

in_own_folder = quickstart_runs.in_own_folder  # a fixture


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """One run that several tests look at: its folder, and the lines that it printed."""
    root = tmp_path_factory.mktemp("run")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["fit", *QUICK, "--trainer.default_root_dir", str(root)]) == 0
    (folder,) = root.iterdir()
    return folder, [line for line in printed.getvalue().splitlines() if line]


@pytest.fixture
def folder(run: tuple[Path, list[str]]) -> Path:
    return run[0]


def test_a_run_folder_holds_all_of_a_run(run: tuple[Path, list[str]]) -> None:
    folder, lines = run
    assert re.fullmatch(r"\d{8}-\d{6}-Digits-ClassDependent-1", folder.name)
    files = {path.name for path in folder.iterdir()}
    checkpoints = {f"{stage}-{which}.ckpt" for stage in ("warmup", "robust") for which in ("best", "last")}
    assert files >= checkpoints | {"last.ckpt", "config.yaml", "results.json", "joint.png", "metrics.csv"}
    assert not list(folder.glob("*.tmp"))
    assert lines[0] == lines[-1] == f"Run folder: {folder}"
    assert any(re.match("stage +loss  ", line) for line in lines)


def test_results_json_has_the_promised_form(folder: Path) -> None:
    found = results(folder)
    keys = {
        "data",
        "class_names",
        "seed",
        "noise",
        "stages",
        "chosen",
        "choice",
        "versions",
        "wall_time_s",
        "epoch_times",
    }
    assert set(found) == keys
    assert (found["data"], found["seed"]) == ("DigitsDataModule", 1)
    noise = found["noise"]
    assert set(noise) == {"injector", "seed", "requested_rate", "train_rate", "matrix", "sha256"}
    assert (noise["injector"], noise["seed"], noise["requested_rate"]) == ("ClassDependentNoise", 1, 0.6)
    assert np.allclose(np.sum(noise["matrix"], axis=1), 1)
    assert re.fullmatch("[0-9a-f]{64}", noise["sha256"])
    keys = {"loss", "epochs", "best_epoch", "selected_by", "mode", "best_score"}
    keys |= {
        "test_acc",
        "test_balanced_acc",
        "test_acc_last",
        "test_balanced_acc_last",
        "confusion",
        "joint",
    }
    warmup, robust = found["stages"]["warmup"], found["stages"]["robust"]
    assert set(warmup) == keys, "no T from outputs that are probabilities of noisy labels"
    assert set(robust) == keys | {"transition", "transition_error", "temperature"}
    assert np.allclose(np.sum(robust["transition"], axis=1), 1)
    assert (warmup["loss"], warmup["epochs"], warmup["selected_by"]) == ("CELoss", 2, "val/acc")
    assert (robust["loss"], robust["epochs"], robust["selected_by"]) == ("DMILoss", 2, "val/log_dmi")
    assert (warmup["mode"], robust["mode"]) == ("max", "max")
    assert robust["best_epoch"] in (1, 2)
    rows = list(csv.DictReader((folder / "curves.csv").read_text().splitlines()))
    assert f"{robust['best_score']:.8g}" == f"{float(rows[1 + robust['best_epoch']]['val/log_dmi']):.8g}"
    assert list(found["epoch_times"]) == ["warmup", "robust"]
    assert 0 < found["epoch_times"]["robust"]["time_s"] < found["wall_time_s"]
    assert found["epoch_times"]["robust"]["cpu_time_s"] > 0
    assert 0 < robust["test_acc"] <= 1
    assert {"ldmi_lightning", "torch"} <= set(found["versions"])


def test_the_run_s_figure_is_that_of_the_chosen_stage(folder: Path) -> None:
    found = results(folder)
    with (folder / "metrics.csv").open() as file:
        (logged,) = [row["test/acc"] for row in csv.DictReader(file) if row.get("test/acc")]
    assert found["chosen"] in found["stages"]
    assert [each["stage"] for each in found["choice"]] == ["robust"]
    assert float(logged) == pytest.approx(found["stages"][found["chosen"]]["test_acc"], abs=1e-6)


def test_the_saved_config_repeats_the_run(folder: Path) -> None:
    assert main(["fit", "--config", str(folder / "config.yaml"), "--trainer.default_root_dir", "again"]) == 0
    (second,) = Path("again").iterdir()
    one, two = results(folder), results(second)
    assert one["stages"] == two["stages"]
    assert one["noise"] == two["noise"]
    weights = [torch.load(each / "robust-last.ckpt", weights_only=True)["state_dict"] for each in (folder, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_checkpoint_notes_what_the_backbone_was_told_and_nothing_that_it_does_not_take(folder: Path) -> None:
    noted = torch.load(folder / "last.ckpt", weights_only=True)["hyper_parameters"]
    assert noted["num_classes"] == 10
    assert noted["backbone"] == {"class_path": "ldmi_lightning.models.DigitsCNN", "init_args": {"num_classes": 10}}


def test_a_grid_reads_what_a_fit_saves(folder: Path) -> None:
    words = ["fit", *QUICK, "--trainer.default_root_dir", str(folder.parent)]
    random = torch.get_rng_state()
    assert parse_fit(words) == yaml.safe_load((folder / "config.yaml").read_text())
    assert torch.equal(torch.get_rng_state(), random)
    assert not list(Path().iterdir())


def test_ldmi_test_repeats_the_number(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--config", str(folder / "config.yaml"), "--ckpt_path", str(folder / "robust-best.ckpt")]
    assert main(["test", *given]) == 0
    shown = float(re.search(r"test/acc\s+│\s+([\d.]+)|test/acc\s+([\d.]+)", capsys.readouterr().out)[0].split()[-1])
    assert shown == pytest.approx(results(folder)["stages"]["robust"]["test_acc"], abs=1e-6)
    assert not list(Path().iterdir()), "a test makes no run folder"


def test_predict_writes_every_sample_once_and_agrees_with_the_test(folder: Path) -> None:
    assert main(["predict", "--ckpt_path", str(folder / "robust-best.ckpt"), "--output", "out"]) == 0
    probabilities = np.load("out/probabilities.npy")
    rows = list(csv.DictReader(Path("out/predictions.csv").read_text().splitlines()))
    assert probabilities.shape == (300, 10)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert [int(row["index"]) for row in rows] == list(range(300))
    assert [int(row["class"]) for row in rows] == probabilities.argmax(axis=1).tolist()
    from ldmi_lightning.datamodules import DigitsDataModule

    truth = DigitsDataModule().load()["test"].y
    accuracy = (probabilities.argmax(axis=1) == truth).mean()
    assert accuracy == pytest.approx(results(folder)["stages"]["robust"]["test_acc"], abs=1e-6)


def test_validate_shows_dmi(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--ckpt_path", str(folder / "robust-best.ckpt")]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("val/acc", "val/log_dmi", "val/dmi_normalised"))


def test_resuming_goes_on_in_the_same_folder_to_the_same_end(folder: Path) -> None:
    stopped = Path("stopped")
    stopped.mkdir()
    for name in ("config.yaml", "warmup-best.ckpt", "warmup-last.ckpt"):
        (stopped / name).write_bytes((folder / name).read_bytes())
    (stopped / "last.ckpt").write_bytes((folder / "warmup-last.ckpt").read_bytes())
    assert main(["fit", "--ckpt_path", "stopped/last.ckpt"]) == 0, "the config beside the checkpoint is taken"
    assert [path.name for path in Path().iterdir()] == ["stopped"]
    assert (stopped / "config.yaml").read_text() == (folder / "config.yaml").read_text()
    assert results(stopped)["stages"] == results(folder)["stages"]


def test_an_earlier_checkpoint_overwrites_no_later_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}
    line = error(capsys, "fit", "--ckpt_path", str(folder / "warmup-last.ckpt"))
    assert "ends with epoch 2, but its run has come to epoch 4" in line
    assert f"--ckpt_path {folder / 'last.ckpt'}" in line
    assert all((folder / name).read_bytes() == content for name, content in before.items())


def test_a_resumed_run_keeps_the_configuration_that_it_was_resumed_with(folder: Path) -> None:
    stopped = Path("stopped")
    stopped.mkdir()
    (stopped / "config.yaml").write_bytes((folder / "config.yaml").read_bytes())
    (stopped / "last.ckpt").write_bytes((folder / "warmup-last.ckpt").read_bytes())
    last = ["fit", "--ckpt_path", "stopped/last.ckpt"]
    assert main([*last, "--model.robust.epochs", "3"]) == 0
    assert main([*last, "--model.warmup.epochs", "5"]) == 2, "refused, and so not kept"
    assert main(last) == 0, "the run is over, as it was resumed"
    for run in (folder, stopped):  # a run that repeats it logs into a folder of its own
        logger = yaml.safe_load((run / "config.yaml").read_text())["trainer"]["logger"]
        assert logger["class_path"] == "pytorch_lightning.loggers.CSVLogger"
        assert run.name not in str(logger)
    assert results(stopped)["stages"]["robust"]["epochs"] == 3
