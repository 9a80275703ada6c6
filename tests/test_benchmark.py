"""`ldmi benchmark`: real grids on scikit-learn's digits, killed and carried about; tables and figures from written results."""

import csv
import dataclasses
import io
import itertools
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
from PIL import Image
from wandb.sdk.launch.sweeps import utils as sweep_utils

from ldmi_lightning.benchmarking import machine, published
from ldmi_lightning.benchmarking.cells import Cell, content_key
from ldmi_lightning.benchmarking.figure import draw
from ldmi_lightning.benchmarking.grid import ParseFit, expand, fill_in, groups, read_grid
from ldmi_lightning.benchmarking.progress import Progress
from ldmi_lightning.benchmarking.summary import Spread, is_dominant, summarise
from ldmi_lightning.benchmarking.tables import comma_separated, markdown
from ldmi_lightning.commands import main
from ldmi_lightning.commands.configuration import parse_fit as parse

REPO = Path(__file__).parents[1]
LDMI = [sys.executable, "-m", "ldmi_lightning"]
FLIPS = {9: 1, 2: 0, 4: 7, 3: 5}
TINY: dict[str, Any] = {
    "data": {
        "digits": {
            "config": str(REPO / "configs/quickstart.yaml"),
            "noise": {"pairs": {"class_path": "ClassDependentNoise", "init_args": {"flips": FLIPS}}},
        }
    },
    "rates": [0.6],
    "methods": {name: str(REPO / f"configs/methods/{name}.yaml") for name in ("ce", "dmi")},
    "seeds": [1],
    "options": {f"model.{stage}.epochs": 2 for stage in ("warmup", "robust", "refine")},
}


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def parse_fit() -> ParseFit:
    return parse


def write_grid(path: str = "grid.yaml", **changes: Any) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(yaml.safe_dump({**TINY, **changes}, sort_keys=False))
    return Path(path)


def cells_of(parse_fit: ParseFit, **changes: Any) -> list[Cell]:
    return expand(read_grid(write_grid(**changes)), parse_fit)


def made(config: dict[str, Any], methods: list[str], rates: list[float], seeds: list[int]) -> list[Cell]:
    """Return cells of methods that are known by their losses alone, all made from one configuration."""
    losses = {"ce": "CELoss", "fw": "ForwardLoss", "gce": "GCELoss", "lccn": "LCCNLoss"}
    cells = []
    for seed, rate, method in itertools.product(seeds, rates, methods):
        filled = fill_in(config, rate, seed)
        model = filled["model"]["init_args"]
        model["robust"]["loss"]["class_path"] = f"ldmi_lightning.losses.{losses.get(method, 'DMILoss')}"
        model["refine"] = {"epochs": 2} if method == "dmi-refine" else None
        cells.append(Cell("digits", "pairs", rate, method, seed, filled))
    return cells


@pytest.fixture(scope="module")
def config(parse_fit: ParseFit) -> dict[str, Any]:
    """The configuration of a run on digits."""
    return parse_fit(["fit", "--config", str(REPO / "configs/quickstart.yaml")])


def finish(cell: Cell, output: Path, accuracy: float) -> None:
    """Leave what a run of the cell would have left, had it come to this accuracy."""
    run = cell.folder(output) / "20260101-000000-Digits-ClassDependent-1"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(cell.config))
    (run / "results.json").write_text(json.dumps(results_of(cell, accuracy)))


def results_of(cell: Cell, accuracy: float) -> dict[str, Any]:
    """Return the results of a run of the cell, had it come to this accuracy."""

    def stage(loss: str, accuracy: float, selected_by: str, **more: Any) -> dict[str, Any]:
        figures = {"test_acc": accuracy, "test_balanced_acc": accuracy - 0.01}
        figures |= {f"{name}_last": value - 0.1 for name, value in list(figures.items())}
        return {"loss": loss, "epochs": 9, "best_epoch": 7, "selected_by": selected_by, **figures, **more}

    robust = cell.config["model"]["init_args"]["robust"]["loss"]["class_path"].rpartition(".")[2]
    stages: dict[str, Any] = {"warmup": stage("CELoss", 0.5, "val/acc"), "robust": None, "refine": None}
    if cell.config["model"]["init_args"]["refine"] is None:
        stages["robust"] = stage(robust, accuracy, "val/log_dmi" if robust == "DMILoss" else "val/acc")
    else:
        stages["robust"] = stage(robust, accuracy - 0.01, "val/log_dmi")
        stages["refine"] = stage("ForwardLoss", accuracy, "val/nll", transition_error=0.125)
    return {
        "stages": stages,
        "noise": {"matrix": np.eye(10).tolist()},
        "versions": {"ldmi_lightning": "0.1.0", "torch": "2.15.0"},
        "wall_time_s": 36.0,
    }


def table_rows(path: Path) -> list[list[str]]:
    return table_rows_of(path.read_text())


def table_rows_of(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def without_times(table: str) -> str:
    return re.sub(r"computing time [\d.]+ h", "", table)


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
    assert f"--ckpt_path {torn.parent / 'last.ckpt'}" in log.read_text()
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


def children(runner: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{runner.pid}/task/{runner.pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


linux_alone = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")


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
    (run,) = children(runner)
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
    assert f"--ckpt_path {checkpoint}" in (checkpoint.parents[1] / "fit.log").read_text()
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
    pids = children(runner)
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


# -- cells and their keys ---------------------------------------------------------------------------------------------


def test_cells_come_in_the_order_in_which_they_share_warm_ups(parse_fit: ParseFit) -> None:
    cells = cells_of(parse_fit, rates=[0.3, 0.6], seeds=[1, 2])
    assert [(cell.seed, cell.rate, cell.method) for cell in cells[:5]] == [
        *((1, 0.3, "ce"), (1, 0.3, "dmi"), (1, 0.6, "ce"), (1, 0.6, "dmi"), (2, 0.3, "ce"))
    ]
    assert [[cell.method for cell in group] for group in groups(cells)] == [["ce", "dmi"]] * 4
    for cell in cells:
        noise = cell.config["data"]["init_args"]["noise"]["init_args"]
        flips = {str(source): target for source, target in FLIPS.items()}
        assert noise == {"rate": cell.rate, "flips": flips, "seed": cell.seed, "exact": False}
        assert cell.config["seed_everything"] == cell.seed
    assert len({cell.key for cell in cells}) == len({cell.name for cell in cells}) == 8


def test_an_option_of_a_stage_that_a_method_lacks_is_left_out(parse_fit: ParseFit) -> None:
    methods = {name: str(REPO / f"configs/methods/{name}.yaml") for name in ("dmi", "dmi-refine")}
    without, refined = (cell.config["model"]["init_args"] for cell in cells_of(parse_fit, methods=methods))
    assert without["refine"] is None
    assert refined["refine"]["epochs"] == 2


def test_data_may_keep_its_labels_and_noise_may_have_no_rate(parse_fit: ParseFit) -> None:
    config = TINY["data"]["digits"]["config"]
    matrix = np.eye(10).tolist()
    own = {"class_path": "ldmi_lightning.noise.MatrixNoise", "init_args": {"matrix": matrix}}
    clean = {"class_path": "NoNoise"}
    data = {"given": {"config": config}, "noisy": {"config": config, "noise": {"own": own, "clean": clean}}}
    cells = cells_of(parse_fit, data=data, methods={"dmi": TINY["methods"]["dmi"]}, rates=[0.3, 0.6])
    assert [cell.name for cell in cells] == [
        "given-labels-as-given-dmi-seed1",
        "noisy-own-dmi-seed1",
        "noisy-clean-dmi-seed1",
    ]
    assert cells[1].config["data"]["init_args"]["noise"]["init_args"]["matrix"] == matrix


def test_the_key_holds_what_changes_a_result_and_nothing_else(parse_fit: ParseFit) -> None:
    plain, same = (
        parse_fit(["fit", "--config", str(REPO / "configs/fashion_mnist.yaml"), *flags])
        for flags in (
            [],
            [
                *("--data.root", "/data", "--trainer.devices", "2", "--trainer.logger", "CSVLogger"),
                *("--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", "there"),
            ],
        )
    )
    assert content_key(plain) == content_key(same)
    for flag, value in {
        "--model.warmup.epochs": "3",
        "--model.robust.loss.memory": "0",
        "--model.robust": "null",
        "--data.noise.rate": "0.7",
        "--data.batch_size": "64",
        "--trainer.precision": "bf16-mixed",
        "--seed_everything": "2",
    }.items():
        other = parse_fit(["fit", "--config", str(REPO / "configs/fashion_mnist.yaml"), flag, value])
        assert content_key(other) != content_key(plain), flag


def test_a_configuration_that_was_edited_makes_another_cell(parse_fit: ParseFit, tmp_path: Path) -> None:
    (cell, _) = cells_of(parse_fit)
    finish(cell, tmp_path, 0.9)
    assert cell.results(tmp_path) is not None
    other = dataclasses.replace(cell, config=cell.config | {"seed_everything": 7})
    shutil.move(cell.folder(tmp_path), other.folder(tmp_path))
    assert other.results(tmp_path) is None, "whatever its folder is called"


@pytest.mark.parametrize("path", sorted((REPO / "configs/grids").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_grid_is_understood(path: Path, parse_fit: ParseFit) -> None:
    cells = expand(read_grid(path), parse_fit)
    assert cells
    for cell in cells:
        assert cell.config["seed_everything"] == cell.seed
        noise = cell.config["data"]["init_args"]["noise"]
        assert noise["class_path"].endswith("HumanNoise") or noise["init_args"]["seed"] == cell.seed
        assert cell.config["trainer"]["logger"]["class_path"].endswith("CSVLogger")
        if path.stem != "quickstart":
            assert published.find(cell.config) or path.stem in ("mr", "choice", "features-mr", "features-cifar10n")


@pytest.mark.parametrize("grid", sorted(path.parent.name for path in (REPO / "docs/results").glob("*/cells")))
def test_published_cells_are_those_of_their_grid_whatever_options_came_later(grid: str, parse_fit: ParseFit) -> None:
    cells = expand(read_grid(REPO / "configs/grids" / f"{grid}.yaml"), parse_fit)
    published_cells = REPO / "docs/results" / grid
    known = {cell.folder(published_cells).name for cell in cells}
    assert {path.name for path in (published_cells / "cells").iterdir()} <= known
    assert any(cell.results(published_cells) for cell in cells)


# -- tables and figures -----------------------------------------------------------------------------------------------


def test_rows_give_mean_and_deviation_over_the_seeds_that_are_there(config: dict[str, Any]) -> None:
    cells = made(config, ["ce", "dmi", "dmi-refine"], rates=[0.3, 0.6], seeds=[1, 2, 3])
    base = {"ce": 0.5, "dmi": 0.7, "dmi-refine": 0.9}
    finished = [cell for cell in cells if (cell.method, cell.seed) != ("dmi", 3)]
    rows = summarise(cells, {cell.name: results_of(cell, base[cell.method] + cell.seed / 100) for cell in finished})
    assert [(row.rate, row.method, len(row.seeds), row.dominant) for row in rows] == [
        (rate, method, n, rate < 0.5)
        for rate in (0.3, 0.6)
        for method, n in {"warm-up": 3, "ce": 3, "dmi": 2, "dmi-refine": 3}.items()
    ]
    ce, dmi, refined = rows[1:4]
    assert ce.figures["test_acc"] == pytest.approx(Spread(0.52, 0.01))
    assert dmi.figures["test_acc"] == pytest.approx(Spread(0.715, np.std([0.71, 0.72], ddof=1)))
    assert (refined.stage, refined.loss, refined.selected_by) == ("refine", "ForwardLoss", "val/nll")
    assert refined.figures["transition_error"] == Spread(0.125, 0.0)


def test_a_table_of_written_results(parse_fit: ParseFit) -> None:
    for cell in (cells := cells_of(parse_fit, seeds=[1, 2])):
        finish(cell, Path("out"), 0.9 + cell.seed / 100)
    assert main(["benchmark", "grid.yaml", "--output", "out"]) == 0
    assert table_rows(Path("out/table.md"))[1:] == [
        [
            "0.6\\*",
            "warm-up",
            "2",
            "50.00 ± 0.00",
            "49.00 ± 0.00",
            "40.00 ± 0.00",
            "39.00 ± 0.00",
            "val/acc",
            "7, 7",
            "–",
            "–",
            "–",
            "–",
        ],
        [
            "0.6\\*",
            "ce",
            "2",
            "91.50 ± 0.71",
            "90.50 ± 0.71",
            "81.50 ± 0.71",
            "80.50 ± 0.71",
            "val/acc",
            "7, 7",
            "–",
            "–",
            "–",
            "–",
        ],
        [
            "0.6\\*",
            "dmi",
            "2",
            "91.50 ± 0.71",
            "90.50 ± 0.71",
            "81.50 ± 0.71",
            "80.50 ± 0.71",
            "val/log_dmi",
            "7, 7",
            "–",
            "–",
            "–",
            "–",
        ],
    ]
    (_, _, last) = csv.DictReader(io.StringIO(Path("out/table.csv").read_text()))
    assert (last["method"], last["n"], last["seeds"], last["diagonally_dominant"]) == ("dmi", "2", "1 2", "False")
    assert (last["test_acc_mean"], last["test_acc_std"], last["best_epochs"]) == ("0.915000", "0.007071", "7 7")
    assert "cells: 4 done, 0 missing, 0 failed; computing time 0.0 h" in Path("out/table.md").read_text()
    assert len(cells) == 4


def choosing(cell: Cell, chosen: str) -> dict[str, Any]:
    """Return results of three stages of 50, 79 and 80 % plus a point for each seed, and what a run chose of them."""
    found = results_of(cell, 0.8 + cell.seed / 100)
    return {**found, "chosen": chosen, "choice": []}


def test_tables_say_which_stage_is_kept_and_what_that_costs(config: dict[str, Any]) -> None:
    cells = made(config, ["dmi", "dmi-refine"], rates=[0.6], seeds=[1, 2, 3])
    chosen = {1: "robust", 2: "refine", 3: "refine"}
    results = {
        cell.name: choosing(cell, chosen[cell.seed] if cell.method == "dmi-refine" else "warmup") for cell in cells
    }
    rows = summarise(cells, results)
    _, dmi, refined = table_rows_of(markdown([], cells, rows, results, {}))[1:]
    assert dmi[3] == "82.00 ± 1.00", "a method's figures are those of its last stage, whichever is kept"
    # The warm-up has 50 %, DMI 81, 82 and 83: regrets of 31, 32 and 33 points.
    assert dmi[9:11] == ["warmup 50.00 ± 0.00", "32.00 / 32.00"]
    # Of 80 and 81, 82, 83 %: the first seed keeps the one a point below its best.
    assert refined[9:11] == ["refine 2, robust 1: 81.67 ± 1.53", "0.33 / 0.33"]
    table = markdown([], cells, rows, results, {})
    assert "Mean regret of the choice, 6 runs: 16.17 points of accuracy, 16.17 of balanced accuracy." in table
    warm, dmi_row, refined_row = csv.DictReader(io.StringIO(comma_separated(rows)))
    assert (warm["chosen_stages"], warm["chosen_acc_mean"], warm["regret_mean"]) == ("", "", "")
    assert (dmi_row["chosen_stages"], dmi_row["regret_mean"]) == ("warmup warmup warmup", "0.320000")
    assert refined_row["chosen_stages"] == "robust refine refine"
    expected = {"chosen_acc_mean": "0.816667", "chosen_acc_std": "0.015275", "chosen_balanced_acc_mean": "0.806667"}
    expected |= {"chosen_balanced_acc_std": "0.015275", "regret_mean": "0.003333", "balanced_regret_mean": "0.003333"}
    assert {key: refined_row[key] for key in expected} == expected


def test_results_from_before_the_choice_stand_beside_new_ones(config: dict[str, Any]) -> None:
    cells = made(config, ["dmi"], rates=[0.6], seeds=[1, 2])
    results = {cell.name: results_of(cell, 0.9) for cell in cells}
    assert table_rows_of(markdown([], cells, summarise(cells, results), results, {}))[2][9:11] == ["–", "–"]
    results[cells[1].name] |= {"chosen": "robust", "choice": []}
    rows = summarise(cells, results)
    assert table_rows_of(markdown([], cells, rows, results, {}))[2][9:11] == ["robust 1: 90.00", "0.00 / 0.00"]
    assert list(csv.DictReader(io.StringIO(comma_separated(rows))))[-1]["chosen_stages"] == "- robust"


def test_stages_may_have_any_names_and_be_any_number(config: dict[str, Any]) -> None:
    cells = made(config, ["own"], rates=[0.6], seeds=[1])
    name, found = cells[0].name, choosing(cells[0], "student")
    model = cells[0].config["model"]["init_args"]
    model["more_stages"] = {"teacher": model["warmup"], "student": model["robust"], "polish": model["robust"]}
    model["warmup"] = model["robust"] = None
    one, other = found["stages"]["warmup"], found["stages"]["robust"]
    last = {**other, "test_acc": 0.7}
    found["stages"] = {
        **dict.fromkeys(["warmup", "robust", "refine"]),
        "teacher": one,
        "student": other,
        "polish": last,
    }
    rows = summarise(cells, {name: found})
    assert [(row.method, row.stage) for row in rows] == [("warm-up", "teacher"), ("own", "polish")]
    last_row = table_rows_of(markdown([], cells, rows, {name: found}, {}))[-1]
    assert (last_row[3], last_row[9]) == ("70.00", "student 81.00")


def test_the_paper_s_numbers_belong_to_a_warm_up_and_one_stage_more(parse_fit: ParseFit) -> None:
    config = parse_fit(["fit", "--config", str(REPO / "configs/cifar10.yaml")])
    cells = made(config, ["dmi", "dmi-refine"], rates=[0.6], seeds=[1])
    rows = summarise(cells, {cell.name: results_of(cell, 0.9) for cell in cells})
    assert [row.paper for row in rows] == [None, 89, None]


def test_different_warm_ups_have_a_row_each(config: dict[str, Any]) -> None:
    cells = made(config, ["dmi", "longer"], rates=[0.6], seeds=[1])
    cells[1].config["model"]["init_args"]["warmup"]["epochs"] = 99
    rows = summarise(cells, {cell.name: results_of(cell, 0.9) for cell in cells})
    assert [row.method for row in rows] == ["warm-up of dmi", "warm-up of longer", "dmi", "longer"]


def test_the_paper_s_numbers_stand_beside_ours(parse_fit: ParseFit) -> None:
    wanted = {
        ("cifar10", 0.6, "CELoss"): 64.5,
        ("cifar10", 0.6, "DMILoss"): 89,
        ("cifar10", 0.2, "LCCNLoss"): 91,
        ("cifar10", 0.25, "DMILoss"): None,
        ("fashion_mnist", 0.9, "DMILoss"): 98,
        ("fashion_mnist", 0.9, "CELoss"): 10,
        ("fashion_mnist", 0.3, "CELoss"): None,
        ("fashion_mnist", 0.9, "GCELoss"): None,
        ("dogs_vs_cats", 0.3, "GCELoss"): 81,
        ("clothing1m", None, "ForwardLoss"): 70.83,
        ("mr", 0.6, "DMILoss"): None,
    }
    for (name, rate, loss), number in wanted.items():
        config = parse_fit(["fit", "--config", str(REPO / f"configs/{name}.yaml")])
        assert published.accuracy(config, rate, loss) == number, (name, rate, loss)
    other = parse_fit(["fit", "--config", str(REPO / "configs/cifar10.yaml"), "--data.noise.flips", "{9: 1}"])
    assert published.find(other) is None


@pytest.mark.parametrize("methods", [["dmi"], ["ce", "fw", "gce", "lccn", "dmi", "dmi-refine"]], ids=len)
def test_the_figure_shows_each_method_and_where_t_is_not_dominant(methods: list[str], config: dict[str, Any]) -> None:
    cells = made(config, methods, rates=[0.3, 0.6], seeds=[1, 2])
    results = {cell.name: results_of(cell, 0.9 - methods.index(cell.method) / 10 + cell.seed / 100) for cell in cells}
    png = draw(summarise(cells, results), cells, results)
    assert png is not None
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    colours = {tuple(int(part) for part in colour) for colour in picture.reshape(-1, 3)}
    expected = {"ce": (31, 119, 180), "fw": (255, 127, 14), "gce": (44, 160, 44), "lccn": (148, 103, 189)}
    expected |= {"dmi": (214, 39, 40), "dmi-refine": (140, 86, 75)}
    assert {name for name, colour in expected.items() if colour in colours} == set(methods)
    grey = (picture == 230).all(axis=2)
    assert 0.05 < grey.mean() < 0.5


def test_dominance_is_known_where_there_is_a_transition_matrix() -> None:
    def dominant(rate: float | None, **noise: Any) -> bool | None:
        return is_dominant({"data": {"init_args": {"noise": noise}}}, rate, 10)

    assert dominant(0.45, class_path="PairFlipNoise", init_args={"rate": 0.1}) is True
    assert dominant(0.5, class_path="ldmi_lightning.noise.PairFlipNoise", init_args={"rate": 0.1}) is False
    assert dominant(None, class_path="HumanNoise", init_args={"file": "not here", "kind": "worse"}) is None
    assert is_dominant({"data": {}}, None, 10) is None


def test_no_figure_of_what_has_no_rate(parse_fit: ParseFit) -> None:
    data = {"digits": {"config": TINY["data"]["digits"]["config"]}}
    for cell in cells_of(parse_fit, data=data):
        finish(cell, Path("out"), 0.9)
    assert main(["benchmark", "grid.yaml", "--output", "out"]) == 0
    assert {path.name for path in Path("out").iterdir()} == {"cells", "table.md", "table.csv"}
    assert table_rows(Path("out/table.md"))[2][:4] == ["–", "ce", "1", "90.00"]


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
    assert set(yaml.safe_load(example)) == {"data", "rates", "methods", "seeds", "options"}
