"""`ldmi fit`, killed at any moment and resumed, ends as the run that was left alone: bit for bit, and row for row."""

import contextlib
import csv
import json
import multiprocessing
import os
import random
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from stops import same

from ldmi_lightning.commands import main
from ldmi_lightning.runs.loggers import RunCSVLogger

# Runs are forked from a server that has imported everything: an import costs more than such a run.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["ldmi_lightning.commands.fit", "matplotlib.figure", "sklearn.datasets", "torch._dynamo"])
HUNDRED = [pytest.mark.kills, pytest.mark.slow]
FIT = [
    *("fit", "--config", str(Path(__file__).parents[1] / "configs/quickstart.yaml")),
    *("--trainer.enable_progress_bar", "false"),
    *("--model.warmup.epochs", "4", "--model.warmup.patience", "2"),
    *("--model.warmup.scheduler", "StepLR", "--model.warmup.scheduler.step_size", "1"),
    *("--model.robust.epochs", "4", "--model.robust.patience", "3"),
    *("--model.robust.scheduler", "torch.optim.lr_scheduler.ReduceLROnPlateau"),
    *("--model.robust.scheduler.mode", "max", "--model.robust.scheduler.patience", "0"),
    # Nothing is ever better by 9, so the rate falls after each epoch but the first.
    *("--model.robust.scheduler.threshold", "9", "--model.robust.scheduler.threshold_mode", "abs"),
]


class Command:
    """`ldmi fit` in a folder, forked: the beginning of a run, or its going on from the ``last.ckpt`` that is there."""

    def __init__(self, root: Path, kill_at_write: int = 0) -> None:
        root.mkdir(exist_ok=True)
        self.root = root
        self.log = root / f"log-{len(list(root.glob('log-*')))}"
        self.log.touch()
        checkpoint = self.checkpoint
        args = ["fit", "--ckpt_path", checkpoint] if checkpoint else FIT
        self.process = FORKS.Process(target=_run, args=(args, self.log, kill_at_write))
        self.process.start()

    @property
    def checkpoint(self) -> str:
        """The run's ``last.ckpt``, as the command names it; empty where there is none yet."""
        return next((str(path.relative_to(self.root)) for path in self.root.glob("runs/*/last.ckpt")), "")

    def printed(self) -> str:
        return self.log.read_text()

    def is_running(self) -> bool:
        return self.process.is_alive()

    def wait_for_folder(self) -> None:
        while self.is_running() and "Run folder" not in self.printed():
            time.sleep(0.005)

    def send(self, *signals: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            for each in signals:
                os.kill(self.process.pid or 0, each)

    def exit_code(self, seconds: float | None = None) -> int | None:
        """Wait for the end, or some seconds for it; a negative code is the signal that killed the command."""
        self.process.join(seconds)
        return self.process.exitcode


def _run(args: list[str], log: Path, kill_at_write: int) -> None:
    os.chdir(log.parent)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would we
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_APPEND | os.O_WRONLY), stream)
    torch.set_num_threads(1)
    writes = 0

    def count(event: str, about: tuple[Any, ...]) -> None:
        nonlocal writes
        if (event == "os.rename" and "runs/" in str(about[1])) or (
            event == "open" and "runs/" in str(about[0]) and about[2] & (os.O_WRONLY | os.O_RDWR)
        ):
            writes += 1
            if writes == kill_at_write:
                os.kill(os.getpid(), signal.SIGKILL)

    if kill_at_write:
        sys.addaudithook(count)
    try:
        code = main(args)
    except SystemExit as stop:  # Lightning's answer to Ctrl-C
        code = int(stop.code or 0)
    sys.stdout.flush()
    os._exit(code)


def left_by(root: Path) -> dict[str, Any]:
    """Return the weights, the selection, the results and the rows that a run has left."""
    (folder,) = (path.parent for path in root.glob("runs/*/results.json"))
    assert not list(folder.glob("*.tmp"))
    found = {key: json.loads((folder / "results.json").read_text())[key] for key in ("noise", "stages")}
    with (folder / "metrics.csv").open() as file:
        found["rows"] = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    for path in folder.glob("*.ckpt"):
        saved = torch.load(path, weights_only=True)
        found |= {f"{path.name} {key}": saved[key] for key in ("state_dict", "optimizer_states", "ldmi_lightning")}
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """What a run leaves that nobody interrupts, and how many seconds it trains."""
    root = tmp_path_factory.mktemp("whole")
    command = Command(root)
    command.wait_for_folder()
    begun = time.monotonic()
    assert command.exit_code() == 0, command.printed()
    seconds, left = time.monotonic() - begun, left_by(root)
    assert len([key for key in left if key.endswith("state_dict")]) == 5
    for name in ("train/loss", "val/acc"):
        assert [row["epoch"] for row in left["rows"] if name in row] == [str(epoch) for epoch in range(8)]
    return left, seconds


@pytest.mark.parametrize(("seed", "most"), [(0, 2), *(pytest.param(seed, 5, marks=HUNDRED) for seed in range(21))])
def test_kills_at_random_moments_leave_no_trace(
    seed: int, most: int, whole: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    chance, kills = random.Random(seed), 0
    for root in (tmp_path / str(number) for number in range(30)):
        ended = False
        while not ended:
            command = Command(root)
            command.wait_for_folder()
            command.exit_code(chance.uniform(0, whole[1] / 2) if kills < most else None)
            command.send(chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
            ended = command.exit_code() == 0
            kills += not ended
            assert "Traceback" not in command.printed()
        assert same(left_by(root), whole[0])
        if kills == most:
            return
    pytest.fail(f"thirty runs ended before they could be killed {most} times")


@pytest.mark.parametrize("write", [pytest.param(write, marks=HUNDRED) for write in range(1, 70)])
def test_a_kill_before_any_write_leaves_no_trace(
    write: int, whole: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    killed = Command(tmp_path, kill_at_write=write)
    if killed.exit_code() == 0:
        pytest.skip("a run has no more writes")
    assert killed.exit_code() == -signal.SIGKILL
    resumed = Command(tmp_path)
    assert resumed.exit_code() == 0, resumed.printed()
    assert same(left_by(tmp_path), whole[0])


def test_an_interrupted_rewrite_of_the_rows_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    logger = RunCSVLogger(str(tmp_path))
    logger.log_metrics({"epoch": 0, "train/loss": 1.0})
    logger.save()
    rows = (tmp_path / "metrics.csv").read_text()
    logger.log_metrics({"epoch": 1, "test/acc": 0.5})
    monkeypatch.setattr("csv.DictWriter.writerows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        logger.save()
    assert (tmp_path / "metrics.csv").read_text() == rows


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_names_its_checkpoint_and_nobody_else_goes_on_from_it_meanwhile(
    stop: signal.Signals, tmp_path: Path
) -> None:
    command = Command(tmp_path)
    while command.is_running() and not command.checkpoint:
        time.sleep(0.005)
    command.send(signal.SIGSTOP)
    second = Command(tmp_path)
    assert second.exit_code() == 2, second.printed()
    assert "is still at work" in second.printed()
    command.send(signal.SIGCONT, stop)
    assert command.exit_code() not in (0, -stop), command.printed()
    assert re.search(rf"Go on with --ckpt_path.{command.checkpoint}", command.printed())
    assert "Traceback" not in command.printed()
