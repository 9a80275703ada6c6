"""An encoding that is killed at any moment: no finished shard is computed twice, and the features are those of one pass."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ldmi_lightning.datamodules import EncodedDataModule, TensorDataModule
from ldmi_lightning.datamodules.encoding.cache import SHARD

SHARDS = 12
N = 15 * SHARD
"""Of which twelve shards are the training set's."""
FORKS = multiprocessing.get_context("fork")


class Slow(nn.Module):
    """Takes its time for a batch, and writes down how many it has begun."""

    def __init__(self, log: Path | None, seconds: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(6, 4)
        self.__dict__["_log"], self.__dict__["_seconds"] = log, seconds  # no settings: the same encoder all the same

    def forward(self, x: Tensor) -> Tensor:
        if self.__dict__["_log"] is not None:
            with self.__dict__["_log"].open("a") as file:
                file.write(f"{int(x[0, 0])}\n")
        time.sleep(self.__dict__["_seconds"])
        features: Tensor = self.net(x)
        return features


def data(folder: Path, log: Path | None = None, seconds: float = 0.0) -> EncodedDataModule:
    x = np.random.RandomState(0).randn(N, 6).astype(np.float32)
    x[:, 0] = np.arange(N)
    inner = TensorDataModule(x, np.arange(N) % 2)
    made = EncodedDataModule(inner, Slow(log, seconds), cache=str(folder / "features"))
    made.setup("fit")
    return made


def _encode(folder: Path, log: Path, seconds: float) -> None:
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    data(folder, log, seconds).encode("train")
    os._exit(0)


def shards(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what tells a file that was written again from one that was not."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("features/*/*.npy")}


@pytest.mark.parametrize(
    ("kills", "seconds"),
    [(1, 0.004), pytest.param(10, 0.02, marks=[pytest.mark.kills, pytest.mark.slow])],
    ids=["one kill", "ten kills"],
)
def test_kills_at_random_moments_leave_no_trace(kills: int, seconds: float, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = data(tmp_path / "whole")
    whole.encode("train")
    chance, done, log = random.Random(kills), 0, tmp_path / "log"
    before: dict[str, tuple[int, int]] = {}
    while True:
        begun = len(log.read_text().splitlines()) if log.exists() else 0
        process = FORKS.Process(target=_encode, args=(tmp_path, log, seconds))
        process.start()
        if done < kills:
            # Some way into what is left: the moment is random, and there is something to kill.
            left = 4 * (SHARDS - len(before))
            until = begun + chance.randint(1, max(1, left // 2))
            while process.is_alive() and (not log.exists() or len(log.read_text().splitlines()) < until):
                time.sleep(0.001)
            time.sleep(chance.uniform(0, seconds))
            os.kill(process.pid or 0, signal.SIGKILL)
            done += 1
        process.join(60)
        after = shards(tmp_path)
        assert before.items() <= after.items(), "a finished shard was written again"
        seen = (log.read_text() if log.exists() else "").splitlines()[begun:]
        assert len(seen) <= 4 * (SHARDS - len(before)), "the encoder saw a finished shard again"
        before = after
        if process.exitcode == 0:
            break
    assert done == kills
    assert len(before) == SHARDS
    resumed = data(tmp_path)
    resumed.encode("train")
    assert torch.equal(resumed.splits["train"].x, whole.splits["train"].x)
