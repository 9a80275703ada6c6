"""The `ldmi` command as a user meets it: real runs on scikit-learn's digits."""

import contextlib
import csv
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ldmi_lightning.commands import main, parse_fit
from ldmi_lightning.runs.folder import make_run_folder

REPO = Path(__file__).parents[1]
QUICK = [
    *("--config", str(REPO / "configs/quickstart.yaml")),
    *("--model.warmup.epochs", "2", "--model.robust.epochs", "2"),
    *("--trainer.enable_progress_bar", "false"),
]


@pytest.fixture(autouse=True)
def in_own_folder(in_own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


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


def fit(*flags: str) -> Path:
    """Run `ldmi fit` and return the folder of the run."""
    before = set(Path("runs").glob("*"))
    assert main(["fit", *QUICK, *flags]) == 0
    (folder,) = set(Path("runs").glob("*")) - before
    return folder


def error(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run a command that must fail, and return its one line."""
    assert main(list(args)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("ldmi: error: ")
    return lines[0]


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


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


def test_without_a_robust_stage_its_results_are_null() -> None:
    assert results(fit("--model.robust", "null"))["stages"]["robust"] is None


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


def test_short_flags_reach_their_place_whatever_the_order() -> None:
    folder = fit(
        *("--model.robust.loss.memory", "0", "--model.robust.optimizer.lr", "1e-5"),
        *("--data.noise", "PairFlipNoise", "--data.noise.rate", "0.4", "--data.noise.seed", "3"),
        *("--data.batch_size", "32"),
    )
    config = yaml.safe_load((folder / "config.yaml").read_text())
    robust = config["model"]["init_args"]["robust"]
    assert robust["loss"]["init_args"]["memory"] == 0
    assert robust["optimizer"]["init_args"]["lr"] == 1e-5
    noise = results(folder)["noise"]
    assert (noise["injector"], noise["seed"], noise["requested_rate"]) == ("PairFlipNoise", 3, 0.4)
    assert config["data"]["init_args"]["batch_size"] == 32


def test_options_before_the_config_count_too() -> None:
    assert main(["fit", "--seed_everything", "5", *QUICK]) == 0
    (folder,) = Path("runs").iterdir()
    assert results(folder)["seed"] == 5
    assert results(folder)["noise"]["seed"] == 5, "the noise takes the run's seed"
    assert yaml.safe_load((folder / "config.yaml").read_text())["data"]["init_args"]["noise"]["init_args"]["seed"] == 5


@pytest.mark.slow
def test_two_commands_at_once_have_folders_of_their_own() -> None:
    short = ["--model.warmup.epochs", "1", "--model.robust", "null", "--trainer.logger", "false"]
    command = [sys.executable, "-m", "ldmi_lightning", "fit", *QUICK, *short]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    runs = [subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    folders = list(Path("runs").iterdir())
    assert len(folders) == 2
    assert all((folder / "results.json").is_file() for folder in folders)


def test_two_runs_in_the_same_second_have_folders_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda _: "20260101-000000")
    with ThreadPoolExecutor(8) as at_once:
        made = list(at_once.map(lambda _: make_run_folder(None, "Digits", "No"), range(16)))
    assert sorted(made) == sorted(Path("runs").iterdir())
    assert len(made) == 16


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


def test_a_run_that_has_gone_further_than_is_asked_for_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("at_the_fifth.py").write_text(
        "import pytorch_lightning as pl\n\nclass AtTheFifth(pl.Callback):\n"
        "    def on_train_epoch_start(self, trainer, module):\n"
        "        if trainer.current_epoch == 4:\n            raise KeyboardInterrupt\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    try:
        with pytest.raises(SystemExit):
            main(["fit", *QUICK, "--model.robust.epochs", "5", "--trainer.callbacks", "at_the_fifth.AtTheFifth"])
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning has switched Ctrl-C off
    (last,) = Path("runs").glob("*/last.ckpt")
    assert main(["fit", "--ckpt_path", str(last), "--model.robust.epochs", "1"]) == 0
    robust = results(last.parent)["stages"]["robust"]
    assert robust["epochs"] == 2
    assert min(robust["test_acc"], robust["test_acc_last"]) > 0


@pytest.mark.parametrize("by_file", [True, False])
def test_further_stages_come_as_a_mapping(by_file: bool) -> None:
    polish = {
        "loss": {"class_path": "CELoss"},
        "epochs": 1,
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}},
    }
    Path("more.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"more_stages": {"polish": polish}}}}))
    given = ["--config", "more.yaml"] if by_file else ["--model.more_stages", json.dumps({"polish": polish})]
    folder = fit(*given)
    stages = results(folder)["stages"]
    assert list(stages) == ["warmup", "robust", "refine", "polish"]
    assert (stages["refine"], stages["polish"]["loss"], stages["polish"]["epochs"]) == (None, "CELoss", 1)
    assert "transition" not in stages["polish"]
    assert main(["test", "--ckpt_path", str(folder / "polish-best.ckpt")]) == 0


def test_the_run_s_figure_is_that_of_the_chosen_stage(folder: Path) -> None:
    found = results(folder)
    with (folder / "metrics.csv").open() as file:
        (logged,) = [row["test/acc"] for row in csv.DictReader(file) if row.get("test/acc")]
    assert found["chosen"] in found["stages"]
    assert [each["stage"] for each in found["choice"]] == ["robust"]
    assert float(logged) == pytest.approx(found["stages"][found["chosen"]]["test_acc"], abs=1e-6)


def test_where_stdout_is_no_terminal_an_epoch_is_one_plain_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *QUICK[:-2], "--trainer.logger", "false"]) == 0
    printed = "".join(capfd.readouterr())
    assert "\r" not in printed
    assert [line.split(":")[0] for line in printed.splitlines() if re.match(r"\w+ \d/2: train/loss", line)] == [
        *("warmup 1/2", "warmup 2/2", "robust 1/2", "robust 2/2")
    ]


@pytest.mark.parametrize(
    ("logger", "pattern"),
    [
        ("CSVLogger", "metrics.csv"),
        ("TensorBoardLogger", "events.out.tfevents.*"),
        ("true", "wandb/offline-run-*/*.wandb"),  # the default: W&B
        ("false", None),
    ],
)
def test_each_logger_writes_into_the_run_folder(logger: str, pattern: str | None) -> None:
    folder = fit("--trainer.logger", logger)
    patterns = ["metrics.csv", "events.out.tfevents.*", "wandb/offline-run-*/*.wandb"]
    assert [each for each in patterns if list(folder.glob(each))] == ([pattern] if pattern else [])
    assert [path.name for path in Path().iterdir()] == ["runs"], "nothing lies outside the run folder"


def test_fast_dev_run_leaves_nothing_behind() -> None:
    assert main(["fit", *QUICK, "--trainer.fast_dev_run", "2"]) == 0
    assert not Path("runs").exists()


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


@pytest.mark.parametrize(
    "config",
    [path for path in sorted((REPO / "configs").rglob("*.yaml")) if path.parent.name != "grids"],
    ids=lambda path: path.stem,
)
def test_every_shipped_config_parses(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(config), "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["init_args"]["warmup"]["loss"]["class_path"] == "ldmi_lightning.losses.CELoss"


@pytest.mark.slow
def test_the_fashion_mnist_config_runs_on_the_real_data() -> None:
    root = REPO.parent / "shared/data/fashion_mnist"
    if not root.is_dir():
        pytest.skip(f"needs Fashion-MNIST in {root}")
    config = ["--config", str(REPO / "configs/fashion_mnist.yaml"), "--data.root", str(root)]
    assert main(["fit", *config, "--trainer.fast_dev_run", "2", "--trainer.enable_progress_bar", "false"]) == 0


def test_without_checkpoints_the_logs_stay() -> None:
    folder = fit("--trainer.enable_checkpointing", "false")
    assert (folder / "metrics.csv").is_file()
    assert not list(folder.glob("*.ckpt"))


def test_a_run_that_max_time_ends_says_so_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *QUICK, "--trainer.max_time", "00:00:00:00"]) == 1
    assert "stopped before the end of its first epoch" in capsys.readouterr().out


def test_a_datamodule_without_num_classes_is_told_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("foreign_data.py").write_text(
        "import pytorch_lightning as pl\n\nclass MyData(pl.LightningDataModule):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(Path.cwd()))
    assert "attribute num_classes" in error(capsys, "fit", *QUICK, "--data", "foreign_data.MyData")


@pytest.mark.parametrize("given", [["null"], []])
def test_a_stages_setting_can_be_taken_away_on_the_command_line(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("scheduler", "optimizer", "patience")
    flags = [word for name in names for word in _option(f"--model.robust.{name}", given)]
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", str(REPO / "configs/clothing1m.yaml"), *flags, "--print_config"])
    assert end.value.code == 0
    stages = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert [stages["robust"][name] for name in names] == [None] * 3
    assert stages["robust"]["loss"]["init_args"] == {"memory": 0.0}
    assert stages["warmup"]["scheduler"] is not None


def _option(name: str, given: list[str]) -> list[str]:
    return [name, *given] if given else [f"{name}=null"]


def test_options_in_the_comments_of_the_configurations_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    seen = 0
    for path in sorted((REPO / "configs").glob("*.yaml")):
        comments = [line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#")]
        for line in comments:
            words = shlex.split(line[line.index("--") :].partition("...")[0]) if "--" in line else []
            if "FOLDER" in line or "FILE" in line or not words:
                continue
            with pytest.raises(SystemExit) as end:
                main(["fit", "--config", str(path), *words, "--print_config"])
            assert end.value.code == 0, (path, words)
            seen += 1
    capsys.readouterr()
    assert seen >= 10
