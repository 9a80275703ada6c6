"""One run on two nodes, by the commands of docs/scale.md: it learns what one process learns, and survives the loss of a rank."""

import json
import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from blobs import drift, equal
from processes import children_of
from two_nodes import (
    SECONDS_TO_BEGIN,
    Started,
    Weights,
    all_end,
    alone,
    end_well,
    epochs_of,
    example,
    free_port,
    make_node,
    start_two,
    wait_until,
    weights,
)

from ldmi_lightning.commands import main
from ldmi_lightning.commands.signals import LOST

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")

ROUNDING = 1e-12
"""How far weights may drift apart in 64 bits when sums are taken in another order."""
SECONDS_TO_END = 30
EPOCHS = 6
"""Epochs of each stage of the runs that are killed."""
KILLS = [pytest.mark.kills, pytest.mark.slow]


@pytest.mark.slow
@pytest.mark.usefixtures("in_own_folder")
def test_two_nodes_learn_what_one_process_learns_and_node_0_alone_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = start_two(tmp_path, "run", epochs=1)
    make_node(tmp_path / "single", epochs=1)
    monkeypatch.chdir(tmp_path / "single")
    assert main(alone("run")) == 0
    end_well(nodes)
    two, one = tmp_path / "head/run", tmp_path / "single/run"
    assert drift(weights(two), weights(one)) < ROUNDING
    found, expected = (json.loads((run / "results.json").read_text()) for run in (two, one))
    assert found["noise"] == expected["noise"], "the labels' digest among them"
    for stage in ("warmup", "robust"):
        theirs = expected["stages"][stage]
        assert found["stages"][stage]["confusion"] == theirs["confusion"]
        assert found["stages"][stage]["test_acc"] == theirs["test_acc"] > 0.2
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    kept = [path.name for path in (tmp_path / "other").iterdir()]
    assert kept == ["configs"], "what was put there, and nothing else"


# -- a rank that is killed --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on two nodes that nobody disturbs."""
    root = tmp_path_factory.mktemp("whole")
    end_well(start_two(root, "run", EPOCHS))
    return root / "head/run"


@pytest.fixture(scope="module")
def whole(undisturbed: Path) -> Weights:
    return weights(undisturbed)


def run_alone(node: Path, run: Path) -> Started:
    if not node.exists():
        make_node(node, EPOCHS)
    return Started([sys.executable, "-m", "ldmi_lightning", *alone(str(run))], node)


def wait_for_a_random_step(chance: random.Random, run: Path, started: list[Started]) -> None:
    epochs = chance.randint(1, 2 * EPOCHS - 3)
    wait_until(lambda: epochs_of(run) >= epochs, started)
    time.sleep(chance.uniform(0, 0.2))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=KILLS) for seed in range(1, 8))])
def test_a_killed_rank_ends_all_and_the_run_goes_on_on_two_ranks_and_on_one(
    seed: int, whole: Weights, tmp_path: Path
) -> None:
    run, killed = tmp_path / "shared", seed % 2
    nodes = start_two(tmp_path, str(run), EPOCHS)
    wait_for_a_random_step(random.Random(seed), run, nodes)
    ranks = [pid for node in nodes for pid in children_of(node.process.pid)]
    assert len(ranks) == 2
    os.kill(ranks[killed], signal.SIGKILL)
    everyone = [*ranks, *(node.process.pid for node in nodes)]
    all_end(nodes, everyone, SECONDS_TO_END)
    assert nodes[killed].own_lines == []
    assert nodes[1 - killed].own_lines == [f"ldmi: error: {LOST}"]
    assert all(node.process.returncode for node in nodes)
    assert 0 < epochs_of(run) < 2 * EPOCHS

    shutil.copytree(run, tmp_path / "copy")
    end_well([run_alone(tmp_path / "single", tmp_path / "copy")])
    assert drift(weights(tmp_path / "copy"), whole) < ROUNDING
    end_well(start_two(tmp_path, str(run), EPOCHS))
    assert equal(weights(run), whole)


@pytest.mark.slow
def test_a_run_that_was_killed_on_one_rank_goes_on_on_two(whole: Weights, tmp_path: Path) -> None:
    run = tmp_path / "shared"
    single = run_alone(tmp_path / "single", run)
    wait_for_a_random_step(random.Random(0), run, [single])
    single.process.kill()
    single.process.wait()
    assert 0 < epochs_of(run) < 2 * EPOCHS
    end_well(start_two(tmp_path, str(run), EPOCHS))
    assert drift(weights(run), whole) < ROUNDING


@pytest.mark.slow
def test_nodes_that_see_different_checkpoints_are_refused_and_a_copy_on_each_will_do(
    undisturbed: Path, whole: Weights, tmp_path: Path
) -> None:
    head, other = (tmp_path / node / "run" for node in ("head", "other"))
    for run in (head, other):
        make_node(run.parent, EPOCHS)
    shutil.copytree(undisturbed, head)
    shutil.copy(head / "warmup-last.ckpt", head / "last.ckpt")  # as a run leaves it that is ended in its robust stage
    (head / "results.json").unlink()
    nodes = start_two(tmp_path, "run", EPOCHS)
    assert [node.process.wait(SECONDS_TO_BEGIN) for node in nodes] == [1, 1]
    assert nodes[0].own_lines == [f"ldmi: error: {LOST}"]
    assert "Rank 0 goes on after epoch 6 of run/last.ckpt, but rank 1 finds nothing" in nodes[1].own_lines[0]
    assert not other.exists()

    other.mkdir()
    shutil.copy(head / "last.ckpt", other)
    end_well(start_two(tmp_path, "run", EPOCHS))
    assert equal(weights(head), whole)
    assert [path.name for path in other.iterdir()] == ["last.ckpt"]


# -- a job of SLURM ---------------------------------------------------------------------------------------------------

SRUN = f"""#!{sys.executable}
# Starts a command once for each task, as SLURM would on its nodes, and exits as `man srun` says.
import os, subprocess, sys
from pathlib import Path

nodes, tasks = int(os.environ["SLURM_NNODES"]), int(os.environ["SLURM_NTASKS_PER_NODE"])
os.environ |= {{"SLURM_NTASKS": str(nodes * tasks), "SLURM_STEP_ID": "0"}}
started = []
for rank in range(nodes * tasks):
    place = {{"SLURM_PROCID": rank, "SLURM_NODEID": rank // tasks, "SLURM_LOCALID": rank % tasks}}
    own = {{**os.environ, **{{name: str(value) for name, value in place.items()}}}}
    started.append(subprocess.Popen(sys.argv[1:], env=own, start_new_session=True))
Path("tasks").write_text(" ".join(str(task.pid) for task in started))
codes = [task.wait() for task in started]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
SCONTROL = '#!/bin/sh\necho "$@" >>asked\n'
GEOMETRIES = ["--nodes=2 --ntasks-per-node=1", "--nodes=1 --ntasks-per-node=2"]


class Job:
    """The page's script, given to a scheduler that runs it at once; with the first geometry as it stands."""

    def __init__(self, folder: Path, geometry: str) -> None:
        make_node(folder, EPOCHS)
        self.folder, self.number = folder, str(4_710_000 + free_port() - 15000)
        self.script = example("#SBATCH").replace(GEOMETRIES[0], geometry)
        assert geometry in self.script
        self.commands = folder.with_name("commands")
        self.commands.mkdir()
        for name, content in (("srun", SRUN), ("scontrol", SCONTROL)):
            (self.commands / name).write_text(content)
            (self.commands / name).chmod(0o755)

    def start(self) -> Started:
        """Run it as sbatch would."""
        (self.folder / "tasks").unlink(missing_ok=True)
        asked = dict(
            re.findall(r"--([a-z-]+)=(\S+)", "\n".join(re.findall(r"^#SBATCH (.*)", self.script, re.MULTILINE)))
        )
        nodes, tasks = asked["nodes"], asked["ntasks-per-node"]
        names = "127.0.0.1" if nodes == "1" else f"127.0.0.[1-{nodes}]"
        own = {"JOB_ID": self.number, "JOB_NAME": asked["job-name"], "NNODES": nodes, "JOB_NUM_NODES": nodes}
        own |= {"NODELIST": names, "JOB_NODELIST": names, "NTASKS_PER_NODE": tasks, "PROCID": "0", "LOCALID": "0"}
        environment = {f"SLURM_{name}": value for name, value in own.items()}
        path = f"{self.commands}:{Path(sys.executable).parent}:{os.defpath}"
        return Started(["bash", "-c", self.script], self.folder, **environment, PATH=path)

    @property
    def run(self) -> Path:
        return self.folder / "runs" / self.number

    @property
    def tasks(self) -> list[int]:
        return [int(pid) for pid in (self.folder / "tasks").read_text().split()]

    @property
    def asked(self) -> list[str]:
        """What scontrol was asked for."""
        asked = self.folder / "asked"
        return asked.read_text().splitlines() if asked.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_job_is_put_in_the_queue_again_once_where_its_time_is_over_and_never_at_its_end(
    geometry: str, whole: Weights, tmp_path: Path
) -> None:
    job = Job(tmp_path / "job", geometry)
    first = job.start()
    wait_until(lambda: epochs_of(job.run) >= EPOCHS // 2, [first])
    assert len(job.tasks) == 2
    for task in job.tasks:
        os.killpg(task, signal.SIGUSR1)
    assert first.process.wait(SECONDS_TO_END) == 128 + signal.SIGUSR1, first.printed
    assert first.own_lines == ["ldmi: stopped by SIGUSR1."] * 2
    assert job.asked == [f"requeue {job.number}"]
    assert 0 < epochs_of(job.run) < 2 * EPOCHS

    end_well([job.start()])
    assert job.asked == [f"requeue {job.number}"]
    assert equal(weights(job.run), whole)


@pytest.mark.slow
def test_a_job_that_nobody_ends_and_one_of_which_a_rank_is_killed_are_not_put_in_the_queue_again(
    whole: Weights, tmp_path: Path
) -> None:
    job = Job(tmp_path / "job", GEOMETRIES[0])
    end_well([job.start()])
    assert equal(weights(job.run), whole)
    shutil.rmtree(job.run)
    killed = job.start()
    wait_until(lambda: epochs_of(job.run) >= 1, [killed])
    os.kill(job.tasks[1], signal.SIGKILL)
    assert killed.process.wait(SECONDS_TO_END) == 128 + signal.SIGKILL, killed.printed
    assert killed.own_lines == [f"ldmi: error: {LOST}"]
    assert job.asked == []
