"""A run on two ranks, one of which is told to end, or killed: all its processes end soon, and the run can be resumed."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import children_of, is_running
from torch import Tensor

from ldmi_lightning.commands.mistakes import line_of
from ldmi_lightning.commands.signals import ENDING, LOST, Ending, Stopped

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")

CONFIG = Path(__file__).parents[1] / "configs/quickstart.yaml"
FIT = [
    *("--config", str(CONFIG), "--trainer.accelerator", "cpu", "--trainer.devices", "2"),
    *("--model.warmup.epochs", "5", "--model.robust.epochs", "5", "--trainer.enable_progress_bar", "false"),
]
SECONDS_TO_END = 15
TWENTY = [pytest.mark.kills, pytest.mark.slow]


class TwoRanks:
    """`ldmi fit` on two ranks in a folder: the beginning of a run, or, where there is a ``last.ckpt``, the rest of it."""

    def __init__(self, root: Path) -> None:
        root.mkdir(exist_ok=True)
        self.root = root
        self.log = root / f"log-{len(list(root.glob('log-*')))}"
        found = self.checkpoint
        options = FIT if found is None else ["--ckpt_path", str(found.relative_to(root))]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ldmi_lightning", "fit", *options],
                cwd=root,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    @property
    def checkpoint(self) -> Path | None:
        return next(self.root.glob("runs/*/last.ckpt"), None)

    @property
    def second(self) -> int | None:
        """Process id of rank 1, once it has been launched."""
        with contextlib.suppress(OSError):
            for child in children_of(self.process.pid):
                if "LOCAL_RANK=1\0" in Path(f"/proc/{child}/environ").read_text():
                    return child
        return None

    def wait_for_second(self) -> None:
        while self.process.poll() is None and self.second is None:
            time.sleep(0.05)

    def wait_for_training(self) -> None:
        while self.process.poll() is None and self.checkpoint is None:
            time.sleep(0.05)

    def send(self, number: signal.Signals, rank: int) -> None:
        """Send a signal to one rank alone; both must have ended 15 seconds later."""
        second = self.second
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(self.process.pid if rank == 0 or second is None else second, number)
        end = time.monotonic() + SECONDS_TO_END
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(SECONDS_TO_END)
        while second is not None and is_running(second) and time.monotonic() < end:
            time.sleep(0.05)
        waiting = [pid for pid in (self.process.pid, second) if pid is not None and is_running(pid)]
        self.end()
        assert not waiting, f"{len(waiting)} processes have not ended: {self.printed()}"

    def end(self) -> None:
        if (second := self.second) is not None:
            os.kill(second, signal.SIGKILL)
        self.process.kill()
        self.process.wait()

    def printed(self) -> str:
        return self.log.read_text()


Whole = tuple[dict[str, Tensor], float, float]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The last weights of a run that nobody interrupts, how long it took, and how much of that it trained."""
    command, begun = TwoRanks(tmp_path_factory.mktemp("whole")), time.monotonic()
    command.wait_for_training()
    trains = time.monotonic()
    assert command.process.wait() == 0, command.printed()
    return weights(command.root), time.monotonic() - begun, time.monotonic() - trains


def weights(root: Path) -> dict[str, Tensor]:
    (path,) = root.glob("runs/*/results.json")
    saved: dict[str, Tensor] = torch.load(path.with_name("last.ckpt"), weights_only=True)["state_dict"]
    return saved


def resumes_to(expected: dict[str, Tensor], root: Path) -> None:
    """Resume the run of a folder to its end; where nothing was kept, there is nothing to resume."""
    if not any(root.glob("runs/*/last.ckpt")):
        return
    resumed = TwoRanks(root)
    assert resumed.process.wait() == 0, resumed.printed()
    found = weights(root)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.kills
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(22))
def test_sigterm_to_either_rank_at_any_moment_ends_both(seed: int, whole: Whole, tmp_path: Path) -> None:
    chance, (expected, seconds, training_seconds) = random.Random(seed), whole
    rank, trains = seed % 2, seed % 4 < 2  # half of them while it trains, which is the smaller part of so short a run
    wait = chance.uniform(0, 0.5 * training_seconds if trains else 0.95 * seconds)
    for attempt in range(5):
        root = tmp_path / str(attempt)
        command = TwoRanks(root)
        if trains:
            command.wait_for_training()
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.process.wait(wait)
        command.send(signal.SIGTERM, rank)
        if command.process.returncode != 0:
            assert "Traceback" not in command.printed()
            resumes_to(expected, root)
            return
        wait *= 0.7  # it had ended before: this machine is faster now
    pytest.fail("five runs ended before they could be told to")


@pytest.mark.kills
@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_leaves_no_other_waiting(rank: int, whole: Whole, tmp_path: Path) -> None:
    command = TwoRanks(tmp_path)
    command.wait_for_training()
    command.send(signal.SIGKILL, rank)
    assert command.process.returncode != 0
    assert "Traceback" not in command.printed()
    assert rank == 0 or command.printed().endswith(f"ldmi: error: {LOST}\n")
    resumes_to(whole[0], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=TWENTY)])
def test_a_rank_that_ends_before_the_ranks_have_met_leaves_no_other_waiting(
    number: signal.Signals, tmp_path: Path
) -> None:
    command = TwoRanks(tmp_path)
    command.wait_for_second()
    command.send(number, rank=1)
    assert command.process.returncode != 0
    assert command.printed().endswith(f"ldmi: error: {LOST}\n")


# -- the parts --------------------------------------------------------------------------------------------------------


def test_a_command_in_one_process_stops_with_one_line_before_it_trains(tmp_path: Path) -> None:
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from ldmi_lightning.commands import main; import sys; sys.exit(main())",
            "fit",
            *FIT[:2],
        ],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        while "torch" not in Path(f"/proc/{run.pid}/maps").read_text():  # in the midst of its imports
            time.sleep(0.05)
        run.terminate()
        assert run.stderr is not None
        assert run.stderr.read() == "ldmi: stopped by SIGTERM.\n"
    assert run.returncode == 128 + signal.SIGTERM


def test_the_handler_raises_once_and_leaves_the_former_one_behind() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ENDING:
        ENDING.at_work = True
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert ENDING.begun
    assert signal.getsignal(signal.SIGTERM) is before
    assert "LDMI_LAUNCHER" not in os.environ


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_what_a_scheduler_announces_ends_a_command_and_its_exit_code_says_what_it_was(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with ENDING:
        ENDING.at_work = True
        with pytest.raises(Stopped, match=f"stopped by {number.name}") as stopped:
            signal.raise_signal(number)  # and it is passed on as SIGTERM
        assert stopped.value.code == 128 + number
        if (reader := os.fork()) == 0:  # as a loader's worker is
            os._exit(0 if signal.getsignal(number) == signal.SIG_IGN else 1)
        assert os.waitpid(reader, 0)[1] == 0, "what is announced to a whole job must not kill its workers"
    assert signal.getsignal(number) is before


def test_a_handler_that_calls_ours_is_left_to_stop_the_process_its_own_way() -> None:
    with Ending() as ending:
        signal.signal(signal.SIGTERM, lambda number, frame: ending(number, frame))  # as Lightning does while it trains
        signal.raise_signal(signal.SIGTERM)
        assert not ending.begun


def test_a_process_that_cannot_end_by_itself_is_ended() -> None:
    waits = (
        "import signal, threading, time; from ldmi_lightning.commands import signals\n"
        "signals.GRACE_SECONDS = 0.5\n"
        "with signals.ENDING as ending:\n"
        "    ending.at_work = True\n"
        "    threading.Timer(0.2, signal.raise_signal, [signal.SIGTERM]).start()\n"
        "    while True:\n"
        "        try:\n"
        "            time.sleep(9)\n"
        "        except BaseException:\n"
        "            pass\n"
    )
    ended = subprocess.run([sys.executable, "-c", waits], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGTERM, "ldmi: stopped by SIGTERM.\n")


def test_a_rank_does_not_outlive_the_process_that_launched_it() -> None:
    rank = "from ldmi_lightning.commands.signals import ENDING; import time\nwith ENDING: print(1, flush=True); time.sleep(60)"
    launcher = (
        "import os, subprocess, sys\n"
        "own = {**os.environ, 'LOCAL_RANK': '1', 'LDMI_LAUNCHER': str(os.getpid())}\n"
        f"child = subprocess.Popen([sys.executable, '-c', {rank!r}], env=own, stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    run = subprocess.run([sys.executable, "-c", launcher], capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL
    end = time.monotonic() + 5
    while is_running(int(run.stdout)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_running(int(run.stdout))


def test_a_broken_connection_is_told_as_one() -> None:
    assert "its own line says why" in line_of(
        RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]")
    )
    assert "its own line says why" in line_of(RuntimeError("Read error [127.0.0.1]:3: Connection reset by peer"))
    assert line_of(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) == ""


def test_a_failed_rank_that_was_waited_for_is_left_to_nobody_who_would_kill_this_process() -> None:
    launched = [subprocess.Popen([sys.executable, "-c", "raise SystemExit(2)"])]
    (rank,) = launched
    ending = Ending()
    ending.watch(lambda: launched)
    ending.close_ranks(failed=True)
    assert rank.returncode == 2
    assert launched == [], "Lightning's own observer kills all processes of a run in whose list a failed one stands"


def test_ranks_leave_the_launchers_list_while_they_work_since_one_may_fail_as_lightning_looks_at_it() -> None:
    with Ending() as ending:
        launched = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)]
        (rank,) = launched
        ending.watch(lambda: launched)
        end = time.monotonic() + 5
        while launched and time.monotonic() < end:
            time.sleep(0.05)
        assert launched == []
        rank.communicate(b"\n")
        ending.close_ranks(failed=False)
        assert rank.returncode == 0
