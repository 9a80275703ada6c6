"""Engines: processes of this machine, a Ray cluster and SLURM's jobs carry out a grid with the same tables, whoever dies."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from grids import LDMI, REPO, TINY, cells_of, finish, write_grid

from ldmi_lightning.benchmarking.cells import Cell
from ldmi_lightning.benchmarking.runner import DEATHS, Ended, Runner
from ldmi_lightning.commands import main, parse_fit
from ldmi_lightning.commands.engine_options import ENGINES
from ldmi_lightning.engines.local import LocalEngine
from ldmi_lightning.engines.work import Outcome, Work, left_in, put_into

pytestmark = pytest.mark.usefixtures("in_own_folder")


# -- what is decided in one place -------------------------------------------------------------------------------------


class Scripted:
    """An engine, and the one task that it has: ends runs as it is told to, in the order in which they are given out."""

    shares_disk = True

    def __init__(self, *ends: Outcome | str) -> None:
        self.ends = list(ends)
        self.given_out: list[Work] = []

    def submit(self, work: Work, /) -> "Scripted":
        self.given_out.append(work)
        return self

    def done(self) -> bool:
        return True

    def result(self) -> Outcome:
        end = self.ends.pop(0)
        if isinstance(end, str):
            raise RuntimeError(end)
        return end

    def cancel(self) -> None:
        """Nothing is at work."""

    def shutdown(self) -> None:
        """Nothing is held."""


@pytest.fixture
def cell() -> Cell:
    return cells_of(parse_fit, methods={"ce": TINY["methods"]["ce"]})[0]


def ends_of(cell: Cell, engine: Scripted) -> list[Ended]:
    return list(Runner(Path("out"), engine, 1, {}).run([cell], lambda: None))


def test_a_cell_whose_worker_dies_is_given_out_again_and_fails_after_the_third_time(cell: Cell) -> None:
    engine = Scripted("its worker has died (WorkerCrashedError)", Outcome(-signal.SIGKILL), Outcome(143))
    (cell.folder(Path("out"))).mkdir(parents=True)
    (cell.folder(Path("out")) / "fit.log").write_text("$ ldmi fit\nldmi: stopped by SIGTERM.\n")
    found = ends_of(cell, engine)
    assert [(ended.again, ended.fault) for ended in found] == [
        (True, "its worker has died (WorkerCrashedError)"),
        (True, "killed by SIGKILL"),
        (False, "ldmi: stopped by SIGTERM."),
    ]
    assert len(engine.given_out) == DEATHS == 3
    assert engine.given_out[0] == engine.given_out[2], "the same command begins a run and goes on with it"


def test_a_run_that_ends_with_a_fault_of_its_own_fails_at_once(cell: Cell) -> None:
    engine = Scripted(Outcome(2, {"fit.log": b"$ ldmi fit\nldmi: error: no such data.\n"}))
    (ended,) = ends_of(cell, engine)
    assert (ended.again, ended.results, ended.fault) == (False, None, "ldmi: error: no such data.")


def test_what_a_run_has_left_on_another_disk_finishes_its_cell(cell: Cell) -> None:
    there = Path("there").absolute()
    finish(cell, there, 0.9)
    (run,) = cell.folder(there).iterdir()
    left = left_in(cell.folder(there)) | {"fit.log": b"$ ldmi fit\n"}
    assert set(left) == {f"{run.name}/config.yaml", f"{run.name}/results.json", "fit.log"}
    (ended,) = ends_of(cell, Scripted(Outcome(0, left)))
    assert ended.results == cell.results(there)
    assert left_in(cell.folder(Path("out"))) == left


def test_no_file_of_another_machine_is_written_elsewhere() -> None:
    Path("cell").mkdir()
    with pytest.raises(ValueError, match="leads out of cell"):
        put_into(Path("cell"), {"../other": b""})
    assert not Path("other").exists()


def test_a_run_goes_on_where_its_checkpoint_can_be_read_and_begins_anew_where_it_cannot(tmp_path: Path) -> None:
    """The run is refused, so that it leaves what was there before it."""
    work = Work(tmp_path / "cell", yaml.safe_dump({"no": "such key"}), {"accelerator": "cpu"}, [])
    run = work.folder / "run"
    run.mkdir(parents=True)
    (run / "last.ckpt").write_bytes(b"cut short")
    assert work.carry_out().code == 2
    assert not run.exists()
    log = (work.folder / "fit.log").read_text()
    assert log.startswith(
        f"$ {sys.executable} -m ldmi_lightning fit --config {work.folder / 'config.yaml'} --run_folder {run}"
    )
    assert (work.folder / "device.txt").read_text().endswith("thread\n")


def test_a_local_run_is_told_to_end_and_then_killed() -> None:
    sleeper = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    engine = LocalEngine(2)
    task = engine.submit(Deaf(Path(), sleeper, {}, []))
    assert not task.done()
    task.cancel()
    time.sleep(0.1)
    assert not task.done()
    task.cancel()
    assert task.result() == Outcome(-signal.SIGKILL)
    engine.shutdown()


class Deaf(Work):
    """A run that does not listen; its configuration is its code."""

    def start(self) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen([sys.executable, "-c", self.config], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        return process


def test_a_command_on_ray_is_still_stopped_by_its_own_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    from ldmi_lightning.engines.ray import RayEngine

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ray, "init", lambda **_: signal.signal(signal.SIGTERM, lambda *_: os.abort()))
    RayEngine(1, 0)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_job_of_this_machine_that_is_cancelled_shows_no_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit")
    from ldmi_lightning.engines.slurm import CONTROLLERS, SlurmEngine

    task = SlurmEngine(tmp_path, 1, 0, None, 10).submit(Work(tmp_path / "cell", "", {"accelerator": "cpu"}, []))
    while not list(tmp_path.glob("*_log.out")):
        time.sleep(0.05)
    task.cancel()
    while not task.done():
        time.sleep(0.05)
    assert "KeyboardInterrupt" in (tmp_path / CONTROLLERS).read_text()
    assert capfd.readouterr().err == ""


# -- what is given ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--partition", "gpu"], "--partition is for --engine slurm: give it, or leave --partition out."),
        (["--engine", "ray", "--time", "10"], "--time is for --engine slurm"),
        (["--gpus", "1"], "--gpus is for --engine ray or --engine slurm"),
        (["--engine", "slurm", "--cpus", "0"], "--cpus must be at least 1, but got 0."),
        (["--engine", "ray", "--gpus", "-1"], "--gpus must be at least 0, but got -1."),
        (["--engine", "dask"], "invalid choice: 'dask' (choose from"),
        (["--jobs", "0"], "--jobs must be at least 1, but got 0."),
    ],
)
def test_a_wrong_engine_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", str(write_grid()), *words]) == 2
    assert said in capsys.readouterr().err
    assert main(["audit", "--config", "c.yaml", "--folds", "2", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("engine", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_package_is_named(
    engine: str, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, f"ldmi_lightning.engines.{engine}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["benchmark", str(write_grid()), "--engine", engine]) == 2
    assert f"--engine {engine} needs {package}: pip install 'ldmi-lightning[{engine}]'." in capsys.readouterr().err


# -- three engines, one table -----------------------------------------------------------------------------------------

TWELVE = {
    "seeds": [1, 2, 3],
    "rates": [0.4, 0.6],
    "options": {**TINY["options"], "trainer.logger": "CSVLogger", "model.warmup.epochs": 4},
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table of twelve cells of which none was disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        assert main(["benchmark", str(write_grid(**TWELVE)), "--jobs", "2"]) == 0
        return Path("results/grid/table.csv").read_bytes()


@pytest.fixture
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of the command: for Ray with a cluster of two nodes, whose home is the test's."""
    own = {"OMP_NUM_THREADS": "1", "HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    if request.param != "ray":
        yield own
        return
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.add_node(num_cpus=1)
        yield {**own, "RAY_ADDRESS": cluster.address}
        cluster.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
@pytest.mark.parametrize(("environment", "engine"), [(name, name) for name in ENGINES], indirect=["environment"])
def test_a_grid_has_one_table_on_all_engines_also_where_a_worker_is_killed(
    engine: str, environment: dict[str, str], table: bytes, tmp_path: Path
) -> None:
    grid = str(write_grid(**TWELVE))
    with subprocess.Popen(
        [*LDMI, "benchmark", grid, "--engine", engine, "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    ) as command:
        place = ".cache/ldmi_lightning/runs/*/run" if engine == "ray" else "results/grid/cells/*/run"
        while not (begun := list(tmp_path.glob(f"{place}/last.ckpt"))):
            assert command.poll() is None, command.communicate()[0]
            time.sleep(0.01)
        os.kill(worker_of(begun[0].parent.relative_to(tmp_path), engine), signal.SIGKILL)
        printed = command.communicate()[0]
    assert command.returncode == 0, printed
    assert len(re.findall("it is given out again, and goes on from its last whole epoch", printed)) == 1, printed
    assert "12 of 12 cells" in printed
    assert "2 nodes" in printed or engine != "ray"
    assert Path("results/grid/table.csv").read_bytes() == table
    logs = [path.read_text() for path in Path("results/grid/cells").glob("*/fit.log")]
    assert sorted(log.count("$ ") for log in logs) == [1] * 11 + [2]
    (again,) = (log for log in logs if log.count("$ ") == 2)
    assert again.count("warmup 1/4: ") == 1, "it goes on, and does not begin again"
    assert not list(tmp_path.glob(".cache/ldmi_lightning/runs/*")), "a node keeps nothing of what has ended"


AUDIT = [
    *("audit", "--config", str(REPO / "configs/quickstart.yaml"), "--folds", "2", "--output", "audit"),
    *("--trainer.logger", "CSVLogger", "--model.warmup.epochs", "1", "--model.robust.epochs", "1"),
]


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the folds say of the labels by processes of this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("audited"))
        assert main(AUDIT) == 0
        return Path("audit/audit/labels.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("environment", "engine"), [("slurm", "slurm"), ("ray", "ray")], indirect=["environment"])
def test_an_audit_says_the_same_of_the_labels_on_all_engines(
    engine: str, environment: dict[str, str], audited: bytes
) -> None:
    done = subprocess.run(
        [*LDMI, *AUDIT, "--engine", engine, "--jobs", "2"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert Path("audit/audit/labels.csv").read_bytes() == audited


def worker_of(run: Path, engine: str) -> int:
    """Return who carries out the run of a folder: its process itself, or the one that has begun it."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"fit" in words and any(word.endswith(bytes(run)) for word in words):
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                return int(process.name if engine == "local" else parent)
    raise AssertionError(f"nobody is at work in {run}")
