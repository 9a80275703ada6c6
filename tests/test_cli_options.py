"""Options of `ldmi fit` on real runs: each reaches its place, and changes what it should and nothing else."""

import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import quickstart_runs
import yaml
from quickstart_runs import QUICK, fit, results

from ldmi_lightning.commands import main
from ldmi_lightning.runs.folder import make_run_folder

in_own_folder = quickstart_runs.in_own_folder  # a fixture


def test_without_a_robust_stage_its_results_are_null() -> None:
    assert results(fit("--model.robust", "null"))["stages"]["robust"] is None


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


def test_without_checkpoints_the_logs_stay() -> None:
    folder = fit("--trainer.enable_checkpointing", "false")
    assert (folder / "metrics.csv").is_file()
    assert not list(folder.glob("*.ckpt"))


def test_a_run_that_max_time_ends_says_so_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *QUICK, "--trainer.max_time", "00:00:00:00"]) == 1
    assert "stopped before the end of its first epoch" in capsys.readouterr().out
