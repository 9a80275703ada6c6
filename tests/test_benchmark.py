"""`ldmi benchmark`: real grids on scikit-learn's digits, killed and carried about; its sweep, and what it shows."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from grids import LDMI, REPO, TINY, table_rows, without_times, write_grid
from PIL import Image
from processes import children_of, is_running
from wandb.sdk.launch.sweeps import utils as sweep_utils

from ldmi_lightning.benchmarking.cells import Cell
from ldmi_lightning.benchmarking.progress import Progress
from ldmi_lightning.commands import main
from ldmi_lightning.engines import machine

pytestmark = pytest.mark.usefixtures("in_own_folder")


# -- a real grid ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a grid of two cells that has been carried out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        assert main(["benchmark", str(write_grid())]) == 0
        yield Path("results/grid").absolute()


def runs(output: Path) -> list[str]:
    """Return the names of a grid's run folders, by cell."""
    return sorted(str(path.parent.relative_to(output)) for path in output.glob("cells/*/*/config.yaml"))


def test_each_cell_is_a_run_with_its_results_and_log(whole: Path) -> None:
    folders = sorted((whole / "cells").iterdir())
    assert [re.sub("[0-9a-f]{8}$", "", folder.name) for folder in folders] == [
        "digits-pairs-r0.6-ce-seed1-",
        "digits-pairs-r0.6-dmi-seed1-",
    ]
    found = {}
    for folder in folders:
        (run,) = (path.parent for path in folder.glob("*/results.json"))
        found[folder.name] = json.loads((run / "results.json").read_text())
        log = (folder / "fit.log").read_text()
        assert log.startswith("$ ")
        assert f"Run folder: {run.relative_to(whole.parents[1])}" in log
        assert (folder / "device.txt").read_text().endswith(", 1 thread\n")
    ce, dmi = found.values()
    assert ce["noise"] == dmi["noise"], "all methods get the same labels"
    assert ce["stages"]["warmup"] == dmi["stages"]["warmup"]
    assert "warmup: taken from" in log, "the second method takes the warm-up of the first"


def test_the_tables_hold_the_results(whole: Path) -> None:
    rows = table_rows(whole / "table.md")
    assert [row[:3] for row in rows[1:]] == [["0.6\\*", name, "1"] for name in ("warm-up", "ce", "dmi")]
    for row in rows[2:]:
        (path,) = whole.glob(f"cells/*-{row[1]}-seed1-*/*/results.json")
        stage = json.loads(path.read_text())["stages"]["robust"]
        keys = ("test_acc", "test_balanced_acc", "test_acc_last", "test_balanced_acc_last")
        assert row[3:7] == [f"{100 * stage[key]:.2f}" for key in keys]
        assert row[7:9] == [stage["selected_by"], str(stage["best_epoch"])]
    table = (whole / "table.md").read_text()
    assert "cells: 2 done, 0 missing, 0 failed" in table
    assert "`ldmi benchmark grid.yaml`" in table
    assert "torch 2" in table
    assert "1 thread" in table
    assert np.asarray(Image.open(whole / "figure.png")).std() > 10
    assert not list(whole.glob("*.tmp"))


def test_finished_cells_are_passed_over(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole, "results/grid")
    (Path("results/grid") / "table.md").unlink()
    assert main(["benchmark", str(write_grid())]) == 0
    assert "2 cells, 2 finished, 0 to do" in capsys.readouterr().out
    assert runs(Path("results/grid")) == runs(whole)
    assert Path("results/grid/table.md").read_text() == (whole / "table.md").read_text()


def test_finished_cells_count_on_another_machine(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In other folders, with data elsewhere, on other devices, and with nothing but results and configurations."""
    for name in ("results.json", "config.yaml"):
        for path in whole.glob(f"cells/*/*/{name}"):
            target = Path("there/of mine") / path.relative_to(whole)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    Path("disk").mkdir()
    options = TINY["options"] | {"trainer.accelerator": "auto", "trainer.devices": 2, "trainer.logger": "CSVLogger"}
    grid = write_grid("elsewhere/other.yaml", options=options)
    command = ["benchmark", str(grid), "--output", "there/of mine", "--data_root", "digits=disk"]
    assert main(command) == 0
    assert "2 cells, 2 finished, 0 to do" in capsys.readouterr().out
    assert table_rows(Path("there/of mine/table.md")) == table_rows(whole / "table.md")


@pytest.mark.slow
def test_a_failed_cell_stops_no_other_and_torn_results_count_for_nothing(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, "results/grid")
    Path("bad.yaml").write_text("model: {init_args: {robust: {loss: {class_path: DMILoss, init_args: {memory: 2}}}}}")
    (torn,) = Path("results/grid").glob("cells/*-dmi-*/*/results.json")
    torn.write_text(torn.read_text()[:200])
    before = runs(whole)
    methods = {"bad": "bad.yaml", **TINY["methods"]}
    assert main(["benchmark", str(write_grid(methods=methods))]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"\[2/3\] digits, pairs, r = 0.6, bad, seed 1: FAILED: ldmi: error: .*memory.*fit\.log", printed)
    assert re.search(r"\[3/3\] digits, pairs, r = 0.6, dmi, seed 1: ", printed)
    assert runs(Path("results/grid")) == before, "what was torn has gone on in its folder"
    (log,) = Path("results/grid").glob("cells/*-dmi-*/fit.log")
    assert f"--run_folder {torn.parent}" in log.read_text()
    table = Path("results/grid/table.md")
    assert "2 done, 0 missing, 1 failed" in table.read_text()
    assert re.search("- digits-pairs-r0.6-bad-seed1: ldmi: error: .*memory", table.read_text())
    rows = table_rows(table)
    assert rows[2][:4] == ["0.6\\*", "bad", "0", "–"]
    assert [rows[0], rows[1], *rows[3:]] == table_rows(whole / "table.md")


def start(*args: str, **environment: str) -> subprocess.Popen[str]:
    """Start the command as a process of its own."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | environment
    return subprocess.Popen(
        [*LDMI, "benchmark", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )


def wait_for(pattern: str, runner: subprocess.Popen[str]) -> Path:
    while not (found := list(Path().glob(pattern))):
        assert runner.poll() is None, runner.communicate()[0]
        time.sleep(0.005)
    return found[0]


linux_alone = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")


@pytest.mark.slow
@linux_alone
def test_a_killed_grid_goes_on_and_gives_the_same_table(whole: Path) -> None:
    shutil.copytree(whole, "results/grid")
    shutil.rmtree("results/grid/stages")
    (cell,) = Path("results/grid/cells").glob("*-dmi-*")
    shutil.rmtree(cell)
    Path("results/grid/table.md").unlink()
    grid = str(write_grid())
    runner = start(grid)
    checkpoint = wait_for("results/grid/cells/*-dmi-*/*/last.ckpt", runner)
    (run,) = children_of(runner.pid)
    os.kill(run, signal.SIGSTOP)  # in mid-cell, and not a moment later
    runner.kill()
    runner.communicate()
    deadline = time.monotonic() + 10
    while is_running(run) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(run), "a run outlives its runner"
    assert not (checkpoint.parent / "results.json").exists()
    (kept,) = Path("results/grid").glob("cells/*-ce-*/*/results.json")
    before = kept.stat()

    assert main(["benchmark", grid]) == 0
    log = (checkpoint.parents[1] / "fit.log").read_text()
    assert log.count(f"--run_folder {checkpoint.parent}") == 2
    assert kept.stat() == before
    table = Path("results/grid/table.md").read_text()
    assert without_times(table) == without_times((whole / "table.md").read_text())
    assert Path("results/grid/table.csv").read_text() == (whole / "table.csv").read_text()


@pytest.mark.slow
@linux_alone
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_grid_stops_its_runs_and_says_how_to_go_on(stop: signal.Signals) -> None:
    epochs = {"model.warmup.epochs": 2, "model.robust.epochs": 200}
    runner = start(str(write_grid(options=epochs, seeds=[1, 2])), "--jobs", "2")
    checkpoints = [wait_for(f"results/grid/cells/*-seed{seed}-*/*/last.ckpt", runner) for seed in (1, 2)]
    pids = children_of(runner.pid)
    assert len(pids) == 2
    runner.send_signal(stop)
    printed = runner.communicate()[0]
    assert runner.returncode == 128 + stop
    assert "The same command goes on from here." in printed
    assert "Traceback" not in printed
    assert not any(map(is_running, pids))
    for checkpoint in checkpoints:
        assert f"Go on with --ckpt_path={checkpoint}" in (checkpoint.parents[1] / "fit.log").read_text()


@pytest.mark.slow
def test_two_runners_at_once_share_the_cells() -> None:
    grid = str(write_grid(seeds=[1, 2], methods={"dmi": TINY["methods"]["dmi"]}))
    both = [start(grid), start(grid)]
    printed = [each.communicate()[0] for each in both]
    assert [each.returncode for each in both] == [0, 0], printed
    assert len(runs(Path("results/grid"))) == 2
    assert sum(log.read_text().count("$ ") for log in Path("results/grid").glob("cells/*/fit.log")) == 2
    assert "2 done, 0 missing, 0 failed" in Path("results/grid/table.md").read_text()


@pytest.mark.slow
@linux_alone
def test_a_cell_that_another_process_has_at_work_is_waited_for(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole, "results/grid")
    (results,) = Path("results/grid").glob("cells/*-dmi-*/*/results.json")
    results.rename("kept.json")
    held = f"""
import pathlib, sys, time
sys.path.insert(0, {str(REPO)!r})
import fcntl
lock = open({str(results.parents[1] / ".lock")!r}, "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
pathlib.Path("kept.json").rename({str(results)!r})
"""
    with subprocess.Popen(
        [sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "held\n"
        runner = start(str(write_grid()))
        assert runner.stdout is not None
        while "waits for them" not in runner.stdout.readline():
            assert runner.poll() is None
        other.stdin.write("\n")
    assert "2 of 2 cells" in runner.communicate()[0]
    assert runner.returncode == 0
    assert runs(Path("results/grid")) == runs(whole)


# -- a sweep ----------------------------------------------------------------------------------------------------------


def agents_command(sweep: dict[str, Any], cell: str) -> list[str]:
    """Return the command of a sweep's run, filled in as `wandb agent` does."""
    filled = sweep_utils.create_sweep_command_args({"args": {"cell": {"value": cell}}}) | {"env": ["/usr/bin/env"]}
    words: list[str] = []
    for word in sweep_utils.create_sweep_command(sweep["command"]):
        words += filled[word[2:-1]] if re.fullmatch(r"\$\{\w+\}", word) else [word]
    return words


def test_a_sweep_names_each_cell(capsys: pytest.CaptureFixture[str]) -> None:
    grid = str(write_grid(seeds=[1, 2]))
    assert main(["benchmark", grid, "--output", "out", "--sweep", "sweep.yaml"]) == 0
    assert "`wandb sweep sweep.yaml`" in capsys.readouterr().out
    sweep = yaml.safe_load(Path("sweep.yaml").read_text())
    names = [f"digits-pairs-r0.6-{method}-seed{seed}" for seed in (1, 2) for method in ("ce", "dmi")]
    assert sweep["parameters"] == {"cell": {"values": names}}
    command = agents_command(sweep, names[0])
    assert command == ["/usr/bin/env", "ldmi", "benchmark", grid, "--output", "out", f"--cell={names[0]}"]
    assert main([*command[2:], "--dry_run"]) == 0
    assert not Path("out").exists()


@pytest.mark.slow
def test_an_agent_s_run_carries_out_its_cell_and_logs_to_wandb() -> None:
    options = TINY["options"] | {"trainer.logger": "CSVLogger"}
    assert main(["benchmark", str(write_grid(options=options)), "--sweep", "sweep.yaml"]) == 0
    name = "digits-pairs-r0.6-dmi-seed1"
    command = agents_command(yaml.safe_load(Path("sweep.yaml").read_text()), name)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    agent = {"PATH": path, "WANDB_SWEEP_ID": "abc", "WANDB_RUN_ID": "abcdef", "WANDB_MODE": "offline"}
    done = subprocess.run(command, env=os.environ | agent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (results,) = Path("results/grid").glob(f"cells/{name}-*/*/results.json")
    assert list((results.parent / "wandb").glob("offline-run-*"))
    assert "1 done, 1 missing, 0 failed" in Path("results/grid/table.md").read_text()


# -- the machine, and what is shown -----------------------------------------------------------------------------------


def test_runs_on_a_cpu_get_one_thread_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert machine.environment({"accelerator": "cpu"}, None)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    own = machine.environment({"accelerator": "cpu"}, 3)
    assert own["OMP_NUM_THREADS"] == "4"
    assert machine.device_name({"accelerator": "cpu"}, own).endswith(", 4 threads")


def test_runs_at_a_time_share_out_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    auto = {"accelerator": "auto", "devices": "auto"}
    assert [machine.environment(auto, slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["0", "1", "0"]
    assert "CUDA_VISIBLE_DEVICES" not in machine.environment(auto, None)
    assert "CUDA_VISIBLE_DEVICES" not in machine.environment({**auto, "devices": 2}, 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert machine.environment(auto, 1)["CUDA_VISIBLE_DEVICES"] == "7"


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_one_line_on_a_terminal_and_a_line_for_each_cell_elsewhere(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)
    cell = Cell("digits", "pairs", 0.3, "dmi", 1, {})
    progress = Progress(4, 1)
    progress.show()
    progress.begun -= 60
    progress.end(cell, "97.00 %", failed=False)
    progress.end(cell, "FAILED: no memory", failed=True)
    printed = capsys.readouterr().out
    if terminal:
        assert printed.count("\n") == 1, "a failure stays to be read"
        assert "2 of 4 cells; 2 min left" in printed
    else:
        assert printed.splitlines() == [
            "[2/4] digits, pairs, r = 0.3, dmi, seed 1: 97.00 %; 2 min left",
            "[3/4] digits, pairs, r = 0.3, dmi, seed 1: FAILED: no memory; 30 s left",
        ]


def test_help_reads_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["benchmark", "--help"])
    assert stop.value.code == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 120
    example = page[page.index("  data:") :]
    assert set(yaml.safe_load(example)) == {"data", "rates", "methods", "seeds", "options", "tries"}
