"""Nodes that this machine plays: a folder and an environment of its own for each, and the commands of docs/scale.md."""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import yaml
from processes import is_running
from torch import Tensor

REPO = Path(__file__).parents[1]
PAGE = (REPO / "docs/scale.md").read_text()
COMMANDS = Path(sys.executable).parent
SECONDS_TO_BEGIN = 120

Weights = dict[str, Tensor]


def example(word: str) -> str:
    """Return the page's one example in which a word stands."""
    (found,) = [each for each in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) if word in each]
    return found


def torchrun_lines(place: str) -> list[list[str]]:
    """Return the page's command for each node, in the order of the nodes."""
    address = {"head": "localhost", "29400": str(free_port()), "/shared/run": place}
    lines = example("torchrun").replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [[address.get(word, word) for word in each] for each in words if each]


def alone(place: str) -> list[str]:
    """Return the words after `ldmi` of a single process that trains the same."""
    (first, _) = torchrun_lines(place)
    return [*first[first.index("fit") :], "--trainer.num_nodes", "1"]


def free_port(least: int = 15000, most: int = 25000) -> int:
    """Return a free one, of those that Lightning makes of the numbers of SLURM's jobs."""
    for port in range(least + os.getpid() % 5000, most):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise AssertionError("no port is free")


def make_node(folder: Path, epochs: int) -> None:
    """Make a node's working directory, with the quickstart's configuration in 64 bits and of so many epochs a stage."""
    config = yaml.safe_load((REPO / "configs/quickstart.yaml").read_text())
    config["trainer"] |= {"precision": "64-true", "enable_progress_bar": False}
    for stage in ("warmup", "robust"):
        config["model"]["init_args"][stage]["epochs"] = epochs
    (folder / "configs").mkdir(parents=True)
    (folder / "configs/quickstart.yaml").write_text(yaml.safe_dump(config))


def environment(home: Path, **own: str) -> dict[str, str]:
    """Return an environment that has nothing in common with another node's but where commands are found."""
    home.mkdir(exist_ok=True)
    return {"PATH": f"{COMMANDS}:{os.defpath}", "HOME": str(home), "OMP_NUM_THREADS": "1", **own}


class Started:
    """A command at work in a node's folder, and what it prints."""

    def __init__(self, command: Sequence[str], node: Path, **own: str) -> None:
        self.log = node.with_name(f"{node.name}-{len(list(node.parent.glob('*.log')))}.log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=node,
                env=environment(node.with_name(f"{node.name}-home"), **own),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def printed(self) -> str:
        return self.log.read_text()

    @property
    def own_lines(self) -> list[str]:
        """What `ldmi` has said at its end; torchrun says more."""
        assert not re.search(r'File ".*/ldmi_lightning/', self.printed), self.printed
        return [line for line in self.printed.splitlines() if line.startswith("ldmi:")]


def start_two(root: Path, place: str, epochs: int) -> list[Started]:
    """Start the run of a place on two nodes, or go on with it."""
    nodes = [root / "head", root / "other"]
    for node in nodes:
        if not node.exists():
            make_node(node, epochs)
    return [Started(line, node) for line, node in zip(torchrun_lines(place), nodes, strict=True)]


def end_well(started: Sequence[Started]) -> None:
    """Wait for the end of commands that must not fail."""
    codes = [each.process.wait() for each in started]
    assert codes == [0] * len(started), "\n".join(each.printed for each in started)


def epochs_of(run: Path) -> int:
    """Return how many epochs a run has trained."""
    curves = run / "curves.csv"
    return len(curves.read_text().splitlines()) - 1 if curves.exists() else 0


def wait_until(true: Callable[[], bool], started: Sequence[Started], seconds: float = SECONDS_TO_BEGIN) -> None:
    """Wait for something that must come true while commands are at work."""
    end = time.monotonic() + seconds
    while not true():
        in_time = time.monotonic() < end and all(each.process.poll() is None for each in started)
        assert in_time, "\n".join(each.printed for each in started)
        time.sleep(0.02)


def all_end(started: Sequence[Started], pids: Sequence[int], seconds: float) -> None:
    """Wait until all of the processes have ended, which must be soon; none is left behind."""
    begun = time.monotonic()
    while (left := [pid for pid in pids if is_running(pid)]) and time.monotonic() < begun + seconds:
        for each in started:
            each.process.poll()
        time.sleep(0.02)
    print(f"{len(pids) - len(left)} of {len(pids)} processes have ended after {time.monotonic() - begun:.1f} s.")
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    for each in started:
        each.process.wait()
    assert not left, "\n".join(each.printed for each in started)


def weights(run: Path) -> Weights:
    """Return the newest weights of a run that is finished."""
    assert (run / "results.json").exists()
    found: Weights = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    return found
