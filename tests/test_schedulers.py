"""Schedules by epoch and by step: the rate of each step in closed form, whatever a stage's length is made of."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from blobs import Blobs, ce, dmi, fit, foreign_loaders, ldmi, run_folder
from conftest import MakeTrainer
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from stops import StopAt, Stopped, same
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR, ReduceLROnPlateau

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import CELoss
from ldmi_lightning.schedulers import WarmupCosine, warmup_cosine

COSINE = partial(WarmupCosine, warmup=0.25)


class Steps(pl.Callback):
    """Notes the rate at which each step of the optimizer is taken, by stage."""

    def __init__(self) -> None:
        self.of: dict[str, list[float]] = {}
        self.last = -1

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        self.of.setdefault(pl_module.progress.stage, []).append(optimizer.param_groups[0]["lr"])


def rates(make_trainer: MakeTrainer, module: LDMIModule, data: Any = None, **flags: Any) -> dict[str, list[float]]:
    steps = Steps()
    fit(make_trainer, module, data, callbacks=[steps, *flags.pop("callbacks", [])], **flags)
    return steps.of


def expected(rate: float, steps: int, warmup: float = 0.25, floor: float = 0.0) -> list[float]:
    """Return the rates, by the formula in the docstring."""
    rising = round(warmup * steps)
    up = [rate * (k + 1) / (rising + 1) for k in range(rising)]
    angles = [math.pi * k / (steps - rising) for k in range(steps - rising)]
    return up + [rate * (floor + (1 - floor) * (1 + math.cos(angle)) / 2) for angle in angles]


# -- the curve, alone -------------------------------------------------------------------------------------------------


def test_the_curve_rises_in_a_line_and_falls_as_a_cosine_to_the_floor() -> None:
    assert [warmup_cosine(k, 8, 0.5, 0.2) for k in range(4)] == [0.2, 0.4, 0.6, 0.8]
    assert [round(warmup_cosine(k, 8, 0.5, 0.2), 6) for k in (4, 6, 8, 99)] == [1.0, 0.6, 0.2, 0.2]
    assert [warmup_cosine(0, 1, 0.99, 0.0), warmup_cosine(0, 9, 0.0, 0.0)] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"warmup": 1.0}, r"warmup is a share.*but got 1\.0"),
        ({"warmup": -0.1}, "warmup is a share"),
        ({"floor": 2.0}, r"floor is a share of the learning rate.*but got 2\.0"),
        ({"total_steps": 0}, "total_steps must be at least 1"),
    ],
)
def test_settings_that_are_no_shares_are_refused(settings: Any, said: str, make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match=rf"--model\.warmup\.scheduler cannot be made: {said}"):
        fit(make_trainer, ldmi(ce(1, scheduler=partial(WarmupCosine, **settings))))


# -- the steps of a stage ---------------------------------------------------------------------------------------------


def test_each_stage_has_its_own_curve_over_all_its_steps(make_trainer: MakeTrainer) -> None:
    module = ldmi(ce(2, scheduler=COSINE), dmi(3, scheduler=partial(WarmupCosine, warmup=0.1, floor=0.5)))
    seen = rates(make_trainer, module)
    assert seen["warmup"] == pytest.approx(expected(0.4, 8))
    assert seen["robust"] == pytest.approx(expected(0.05, 12, 0.1, 0.5))


@pytest.mark.parametrize(
    ("flags", "batch_size", "steps"),
    [
        ({"limit_train_batches": 3}, 30, 6),
        ({"limit_train_batches": 0.5}, 30, 4),
        ({"accumulate_grad_batches": 3}, 30, 4),  # 3 batches, then 1
        ({"fast_dev_run": 2}, 30, 2),
        ({}, 70, 2),  # the last incomplete batch is dropped
    ],
)
def test_the_steps_are_counted_as_they_are_taken(
    flags: dict[str, Any], batch_size: int, steps: int, make_trainer: MakeTrainer
) -> None:
    seen = rates(make_trainer, ldmi(ce(2, scheduler=COSINE)), Blobs(batch_size=batch_size), **flags)
    assert seen["warmup"] == pytest.approx(expected(0.4, steps))


def test_someone_elses_loader_is_counted_too(make_trainer: MakeTrainer) -> None:
    steps = Steps()
    make_trainer(callbacks=[steps]).fit(ldmi(ce(2, scheduler=COSINE)), *foreign_loaders(50))
    assert steps.of["warmup"] == pytest.approx(expected(0.4, 6))


def test_a_stage_that_ends_early_leaves_the_next_ones_curve_whole(make_trainer: MakeTrainer) -> None:
    waits = partial(torch.optim.SGD, lr=1e-9)
    module = ldmi(ce(9, optimizer=waits, scheduler=COSINE, patience=1), dmi(2, scheduler=COSINE))
    seen = rates(make_trainer, module)
    assert seen["warmup"] == pytest.approx(expected(1e-9, 36)[:8])
    assert seen["robust"] == pytest.approx(expected(0.05, 8))


def test_given_steps_count_and_the_rest_stays_at_the_floor(make_trainer: MakeTrainer) -> None:
    scheduler = partial(WarmupCosine, warmup=0.0, total_steps=4, floor=0.25)
    seen = rates(make_trainer, ldmi(ce(2, scheduler=scheduler)))
    assert seen["warmup"] == pytest.approx(expected(0.4, 4, 0.0, 0.25) + [0.1] * 4)


def test_a_stage_that_inherits_takes_the_rate_at_which_the_last_epoch_began(make_trainer: MakeTrainer) -> None:
    seen = rates(make_trainer, ldmi(ce(2, scheduler=COSINE), dmi(1, optimizer=None)))
    assert seen["robust"] == pytest.approx([expected(0.4, 8)[4]] * 4)


class Endless(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield from zip(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]), strict=True)


def test_lengths_that_cannot_be_known_are_refused(make_trainer: MakeTrainer) -> None:
    _, val = foreign_loaders()
    endless = torch.utils.data.DataLoader(Endless(), 2)
    with pytest.raises(UserError, match=r"training loader does not know its length: give the scheduler total_steps"):
        make_trainer().fit(ldmi(ce(1, scheduler=COSINE)), endless, val)
    changing = GradientAccumulationScheduler({0: 1, 1: 2})
    with pytest.raises(UserError, match=r"GradientAccumulationScheduler changes it.*total_steps"):
        fit(make_trainer, ldmi(ce(2, scheduler=COSINE)), callbacks=[changing])
    fit(make_trainer, ldmi(ce(2, scheduler=partial(COSINE, total_steps=6))), callbacks=[changing])


# -- the interval -----------------------------------------------------------------------------------------------------


def test_any_scheduler_is_stepped_as_the_interval_says(make_trainer: MakeTrainer) -> None:
    halve = partial(ExponentialLR, gamma=0.5)
    by_epoch = rates(make_trainer, ldmi(ce(2, scheduler=halve), dmi(1, scheduler=halve, interval="step")))
    assert by_epoch == {"warmup": [0.4] * 4 + [0.2] * 4, "robust": pytest.approx([0.05, 0.025, 0.0125, 0.00625])}
    one = partial(OneCycleLR, max_lr=0.4, total_steps=10)  # its length is the user's affair
    seen = rates(make_trainer, ldmi(ce(2, scheduler=one, interval="step")))["warmup"]
    assert seen[0] == pytest.approx(0.4 / 25)
    assert max(seen) == pytest.approx(0.4)


def test_the_logged_rate_is_that_at_which_the_epoch_began(make_trainer: MakeTrainer) -> None:
    watch = fit(make_trainer, ldmi(ce(2, scheduler=COSINE)))
    assert [epoch.lr for epoch in watch.epochs] == pytest.approx([expected(0.4, 8)[k] for k in (0, 4)])


def test_a_plateau_cannot_be_looked_for_after_each_step(make_trainer: MakeTrainer) -> None:
    plateau = partial(ReduceLROnPlateau, mode="max")
    with pytest.raises(UserError, match=r"waits for val/acc, .*once an epoch.*--model\.warmup\.interval epoch"):
        fit(make_trainer, ldmi(ce(1, scheduler=plateau, interval="step")))
    with pytest.raises(UserError, match=r"interval must be epoch or step, but got 'batch'"):
        Stage(CELoss(), 1, interval="batch")  # type: ignore[arg-type]


def test_a_scheduler_that_cannot_be_made_says_why(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match=r"--model\.warmup\.scheduler cannot be made: .*gamma"):
        fit(make_trainer, ldmi(ce(1, scheduler=ExponentialLR)))  # type: ignore[arg-type]


# -- resume -----------------------------------------------------------------------------------------------------------


def curves(epochs: int = 3, seed: int = 1) -> LDMIModule:
    pl.seed_everything(1, verbose=False)
    torch.manual_seed(seed)
    return LDMIModule(nn.Linear(3, 3), 3, ce(epochs, scheduler=COSINE), dmi(2, scheduler=COSINE))


@pytest.mark.parametrize("epoch", [1, 2, 3, 4])
def test_a_run_resumed_within_a_stage_follows_the_same_curve(
    epoch: int, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    whole, before, after = curves(), Steps(), Steps()
    through = rates(make_trainer, whole, default_root_dir=tmp_path / "whole")
    with pytest.raises(Stopped):
        fit(make_trainer, curves(), callbacks=[StopAt(epoch), before], default_root_dir=tmp_path / "parts")
    resumed, trainer = curves(seed=2), make_trainer(default_root_dir=tmp_path / "parts", callbacks=[after])
    trainer.fit(resumed, Blobs(), ckpt_path=run_folder(tmp_path / "parts") / "last.ckpt")
    for stage, rate in through.items():
        assert before.of.get(stage, []) + after.of.get(stage, []) == rate
    assert same(resumed.state_dict(), whole.state_dict())


def test_a_stage_that_is_resumed_with_more_epochs_has_the_longer_curve(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        fit(make_trainer, curves(3), callbacks=[StopAt(2)])
    after = Steps()
    make_trainer(callbacks=[after]).fit(curves(5), Blobs(), ckpt_path=run_folder(tmp_path) / "last.ckpt")
    assert after.of["warmup"] == pytest.approx(expected(0.4, 20)[8:])
