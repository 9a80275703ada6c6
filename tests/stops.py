"""Runs that are interrupted and resumed, and what is left of them compared bit for bit: shared by many tests."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from blobs import Blobs, fit, run_folder
from conftest import MakeTrainer

from ldmi_lightning import LDMIModule


class Stopped(Exception):
    """What interrupts a run in these tests."""


class StopAt(pl.Callback):
    """Interrupts the run in an epoch (from 0), at a hook of that name."""

    def __init__(self, epoch: int, hook: str = "on_train_epoch_start") -> None:
        setattr(self, hook, self._stop)
        self.epoch = epoch

    def _stop(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == self.epoch and not trainer.sanity_checking:
            raise Stopped


def same(one: Any, other: Any) -> bool:
    """Whether two nests of plain values and tensors are equal, bit for bit."""
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def assert_resumes_bit_for_bit(
    make: Callable[..., LDMIModule], epoch: int, make_trainer: MakeTrainer, root: Path
) -> Path:
    """Interrupt a run on the blobs, resume it in a module of other weights, and compare it with one left alone.

    Returns the checkpoint from which it was resumed.
    """
    whole = make()
    fit(make_trainer, whole, default_root_dir=root / "whole")
    with pytest.raises(Stopped):
        fit(make_trainer, make(), callbacks=[StopAt(epoch)], default_root_dir=root / "parts")
    last, resumed = run_folder(root / "parts") / "last.ckpt", make(seed=2)
    pl.seed_everything(1, verbose=False)
    make_trainer(default_root_dir=root / "parts").fit(resumed, Blobs(), ckpt_path=last)
    assert same(resumed.state_dict(), whole.state_dict())
    return last
