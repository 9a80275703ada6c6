"""`ldmi fit --run_folder PLACE`: the same command begins a run, and goes on with it, however often a scheduler ends it."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from blobs import equal
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from torch import Tensor

from ldmi_lightning import files
from ldmi_lightning.commands import main
from ldmi_lightning.commands.begin_together import BeginTogether
from ldmi_lightning.commands.lightning import without_requeue
from ldmi_lightning.errors import UserError
from ldmi_lightning.runs.folder import to_go_on_from

pytestmark = pytest.mark.usefixtures("in_own_folder")

REPO = Path(__file__).parents[1]
FIT = [
    *("fit", "--config", str(REPO / "configs/quickstart.yaml"), "--run_folder", "mine/run"),
    *("--trainer.logger", "CSVLogger", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
]
SHORT = ["--model.warmup.epochs", "2", "--model.robust.epochs", "1"]
SECONDS_TO_END = 15


def weights(folder: Path) -> dict[str, Tensor]:
    saved: dict[str, Tensor] = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    return saved


def test_the_same_command_begins_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FIT, *SHORT]) == 0
    run = Path("mine/run")
    assert "Run folder: mine/run" in capsys.readouterr().out
    expected, results = weights(run), json.loads((run / "results.json").read_text())
    assert not Path("runs").exists()
    assert "run_folder" not in (run / "config.yaml").read_text()

    # As a run leaves it that is ended in its robust stage.
    (run / "results.json").unlink()
    (run / "last.ckpt").write_bytes((run / "warmup-last.ckpt").read_bytes())
    assert main([*FIT, *SHORT]) == 0
    assert equal(weights(run), expected)
    assert json.loads((run / "results.json").read_text())["stages"] == results["stages"]

    assert main([*FIT, *SHORT, "--seed_everything", "2"]) == 2
    assert "data.noise (seed) is 2, but was 1" in capsys.readouterr().err


def test_a_run_that_was_killed_while_it_wrote_its_first_file_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / f"config.yaml.{'0' * files.TAG}{files.UNFINISHED}").touch()
    assert to_go_on_from(tmp_path) is None


def test_what_is_no_run_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    Path("mine/run").write_text("a file")
    assert main(FIT) == 2
    assert "--run_folder mine/run is a file" in capsys.readouterr().err
    Path("mine/run").unlink()
    Path("mine/run").mkdir()
    Path("mine/run/thesis.tex").touch()
    assert main(FIT) == 2
    assert "--run_folder mine/run holds no run, but thesis.tex" in capsys.readouterr().err
    assert [path.name for path in Path("mine/run").iterdir()] == ["thesis.tex"]
    assert main([*FIT, "--ckpt_path", "a.ckpt"]) == 2
    assert "give one of the two" in capsys.readouterr().err
    assert main([*FIT[:4], "mine/run/thesis.tex/run"]) == 2
    assert "--run_folder mine/run/thesis.tex/run cannot be made: Not a directory" in capsys.readouterr().err


def test_a_refused_run_leaves_a_given_folder_there_and_none_that_was_not(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = [*FIT, "--model.robust.loss.memory", "0", "--data.batch_size", "4"]
    assert main(wrong) == 2
    assert "memory" in capsys.readouterr().err
    assert not Path("mine/run").exists()
    Path("mine/run").mkdir(parents=True)
    assert main(wrong) == 2
    assert Path("mine/run/config.yaml").exists(), "by which the next command knows that it is a run's"


class Told:
    """What :class:`BeginTogether` asks of a Trainer, on the second of two ranks."""

    world_size, global_rank = 2, 1

    def __init__(self, said: tuple[int, str]) -> None:
        self.said = said
        self.strategy = self

    def broadcast(self, own: tuple[int, str]) -> tuple[int, str]:
        return self.said


def test_ranks_that_see_other_files_are_refused() -> None:
    same = Told((3, "shared/last.ckpt"))
    BeginTogether(3, "shared/last.ckpt").setup(same, None, "fit")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"Rank 0 goes on after epoch 3 of .*rank 1 finds nothing to go on from in own"):
        BeginTogether(0, "own").setup(same, None, "fit")  # type: ignore[arg-type]
    BeginTogether(0, "own").setup(same, None, "test")  # type: ignore[arg-type]


def test_under_slurm_a_run_is_put_in_the_queue_again_by_the_job_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert without_requeue(None) is None
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    (made,) = without_requeue(None)
    assert isinstance(made, SLURMEnvironment)
    assert made.auto_requeue is False
    own = SLURMEnvironment(auto_requeue=True)
    assert without_requeue(own) is own


# -- preemption -------------------------------------------------------------------------------------------------------

LONG = ["--model.warmup.epochs", "6", "--model.robust.epochs", "9"]


def start(root: Path, ranks: int) -> subprocess.Popen[bytes]:
    root.mkdir(exist_ok=True)
    with (root / "log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ldmi_lightning", *FIT, *LONG, "--trainer.devices", str(ranks)],
            cwd=root,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[dict[str, Tensor], float]]:
    """The weights of a run that nobody ends, and how long it took, by its number of ranks."""
    found = {}
    for ranks in (1, 2):
        root, begun = tmp_path_factory.mktemp("whole"), time.monotonic()
        assert start(root, ranks).wait() == 0, (root / "log").read_text()
        found[ranks] = weights(root / "mine/run"), time.monotonic() - begun
    return found


@pytest.mark.kills
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGUSR1")
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_a_run_that_is_preempted_thrice_ends_with_the_weights_of_one_that_is_not(
    seed: int, ranks: int, whole: dict[int, tuple[dict[str, Tensor], float]], tmp_path: Path
) -> None:
    """Thirty preemptions in all; every other one reaches all processes of the job, as SLURM's do."""
    chance, (expected, seconds) = random.Random(f"{seed} {ranks}"), whole[ranks]
    told = 0
    while told < 3:
        number, of_all = chance.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]), told % 2 == 0
        run = start(tmp_path, ranks)
        wait = chance.uniform(0.1, 0.9) * seconds
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(wait)
        begun = time.monotonic()
        was_told = run.poll() is None
        if was_told:
            (os.killpg if of_all else os.kill)(run.pid, number)
        code = run.wait(SECONDS_TO_END)
        printed = (tmp_path / "log").read_text()
        assert time.monotonic() - begun < SECONDS_TO_END
        assert "Traceback" not in printed
        if (tmp_path / "mine/run/results.json").exists():
            assert code == 0 or (was_told and code in (128 + number, -number)), printed
            shutil.rmtree(tmp_path / "mine/run")  # it had ended before: this machine is faster now
            seconds *= 0.7
            continue
        assert code == 128 + number, printed
        assert printed.endswith(f"ldmi: stopped by {signal.Signals(number).name}.\n"), printed
        told += 1
    assert start(tmp_path, ranks).wait() == 0, (tmp_path / "log").read_text()
    assert equal(weights(tmp_path / "mine/run"), expected)
