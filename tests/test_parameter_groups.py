"""Learning rates by part, and weight decay without norms and biases: in each stage, under schedulers, after a resume."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from blobs import ADAM, SGD, Blobs, ce, dmi, fit, weights
from conftest import MakeTrainer
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import CSVLogger
from stops import assert_resumes_bit_for_bit
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.commands.configuration import parse_fit
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import CELoss
from ldmi_lightning.schedulers import WarmupCosine

FACTORS = {"0.*": 0.1, "*.bias": 0.5}
HALVE = partial(StepLR, step_size=1, gamma=0.5)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 3))


def module(*stages: Any, seed: int = 1, lr_factors: Any = FACTORS, **more: Any) -> LDMIModule:
    pl.seed_everything(seed, verbose=False)
    return LDMIModule(net(), 3, *(stages or (ce(2), dmi(2))), lr_factors=lr_factors, **more)


class Rates(pl.Callback):
    """Notes the rate, the decay and the number of tensors of each group, in each epoch."""

    def __init__(self) -> None:
        self.seen: list[list[tuple[float, float, int]]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        groups = trainer.optimizers[0].param_groups
        self.seen.append([(each["lr"], each["weight_decay"], len(each["params"])) for each in groups])

    @property
    def rates(self) -> list[list[float]]:
        return [[rate for rate, _, _ in groups] for groups in self.seen]


def test_the_first_pattern_that_matches_gives_the_share_of_each_stages_rate(make_trainer: MakeTrainer) -> None:
    rates = Rates()
    fit(make_trainer, module(), callbacks=[rates])
    assert [[number for _, _, number in groups] for groups in rates.seen] == [[2, 2, 2]] * 4
    for seen, base in zip(rates.rates, [0.4, 0.4, 0.05, 0.05], strict=True):
        assert seen == pytest.approx([0.1 * base, base, 0.5 * base])


def test_a_step_is_that_of_each_rate(make_trainer: MakeTrainer) -> None:
    """Plain SGD: a parameter moves by its gradient times its rate."""
    moved = {}
    for factors in (None, FACTORS):
        model = module(Stage(CELoss(), 1, partial(torch.optim.SGD, lr=0.1)), None, lr_factors=factors)
        before = weights(model)
        fit(make_trainer, model, limit_train_batches=1)
        moved[factors is None] = {name: value - before[name] for name, value in weights(model).items()}
    for name, plain in moved[True].items():
        share = {"0.weight": 0.1, "0.bias": 0.1, "1.bias": 0.5, "3.bias": 0.5}.get(name, 1.0)
        torch.testing.assert_close(moved[False][name], share * plain)


def test_decay_leaves_norms_and_biases_alone_where_that_is_asked_for(make_trainer: MakeTrainer) -> None:
    adam = partial(torch.optim.AdamW, lr=0.1, weight_decay=0.3)
    stages = ce(1, optimizer=adam), dmi(1, optimizer=adam)
    for plain in (True, False):
        rates = Rates()
        fit(make_trainer, module(*stages, lr_factors=None, decay_norms_and_biases=plain), callbacks=[rates])
        decays = [{(decay, number) for _, decay, number in groups} for groups in rates.seen]
        assert decays == [{(0.3, 6)} if plain else {(0.3, 2), (0.0, 4)}] * 2


def test_a_stage_that_inherits_the_rate_keeps_the_shares(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    rates, logger = Rates(), CSVLogger(tmp_path / "logs")
    model = module(ce(2, scheduler=HALVE), dmi(1, optimizer=None))
    fit(make_trainer, model, callbacks=[rates], logger=logger, log_every_n_steps=1)
    for seen, base in zip(rates.rates, [0.4, 0.2, 0.2], strict=True):
        assert seen == pytest.approx([0.1 * base, base, 0.5 * base])
    rows = np.genfromtxt(Path(logger.log_dir) / "metrics.csv", delimiter=",", names=True)
    assert rows["lr"][~np.isnan(rows["lr"])].tolist() == [0.4, 0.2, 0.2]
    assert model.stage_summaries()["warmup"]["lr"] == 0.2


def test_the_logged_rate_is_the_stages_own_also_where_every_group_has_a_share(make_trainer: MakeTrainer) -> None:
    model = module(ce(2), None, lr_factors={"*": 0.25})
    fit(make_trainer, model)
    assert model.progress.lr == pytest.approx(0.4)


SCHEDULERS = {
    "StepLR": (HALVE, "epoch"),
    "cosine, stepwise": (partial(CosineAnnealingLR, T_max=9), "step"),
    "plateau": (partial(ReduceLROnPlateau, mode="max", patience=0, threshold=9, threshold_mode="abs"), "epoch"),
    "WarmupCosine": (WarmupCosine, "epoch"),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_schedulers_scale_all_groups(kind: str, make_trainer: MakeTrainer) -> None:
    rates, (scheduler, interval) = Rates(), SCHEDULERS[kind]
    fit(make_trainer, module(ce(4, scheduler=scheduler, interval=interval), None), callbacks=[rates])
    bases = [seen[1] for seen in rates.rates]
    assert len(set(bases)) > 1
    for seen, base in zip(rates.rates, bases, strict=True):
        assert seen == pytest.approx([0.1 * base, base, 0.5 * base])


def test_a_scheduler_with_one_rate_for_all_is_refused(make_trainer: MakeTrainer) -> None:
    one = partial(OneCycleLR, max_lr=0.1, total_steps=99)
    fit(make_trainer, module(ce(1, scheduler=one, interval="step"), None, lr_factors=None))
    with pytest.raises(UserError, match=r"--model\.warmup\.scheduler sets one learning rate.*OneCycleLR.*WarmupCosine"):
        fit(make_trainer, module(ce(1, scheduler=one, interval="step"), None))


def test_learning_rate_monitor_shows_each_group(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path / "logs")
    monitor = LearningRateMonitor(logging_interval="epoch")
    fit(make_trainer, module(ce(1), dmi(1)), callbacks=[monitor], logger=logger, log_every_n_steps=1)
    logger.save()
    rows = np.genfromtxt(Path(logger.log_dir) / "metrics.csv", delimiter=",", names=True)
    seen = {name: [x for x in rows[name].tolist() if x == x] for name in rows.dtype.names if name.startswith("lr")}
    assert {name: seen[name] for name in ("lrSGDpg1", "lrSGDpg2", "lrAdampg1", "lrAdampg2")} == {
        "lrSGDpg1": pytest.approx([0.04]),
        "lrSGDpg2": [0.4],
        "lrAdampg1": pytest.approx([0.005]),
        "lrAdampg2": [0.05],
    }


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_run_with_groups_is_resumed_bit_for_bit(epoch: int, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    def make(seed: int = 1, **more: Any) -> LDMIModule:
        momentum = partial(torch.optim.SGD, lr=0.2, momentum=0.9, weight_decay=0.01)
        stages = ce(2, optimizer=momentum, scheduler=WarmupCosine), dmi(2, scheduler=HALVE)
        return module(*stages, seed=seed, **{"decay_norms_and_biases": False, **more})

    last = assert_resumes_bit_for_bit(make, epoch, make_trainer, tmp_path)
    for change, said in (
        ({"lr_factors": {"0.*": 0.2, "*.bias": 0.5}}, r"model\.lr_factors\.0\.\* is 0\.2, but was 0\.1"),
        ({"decay_norms_and_biases": True}, r"model\.decay_norms_and_biases is (True|None), but was False"),
    ):
        with pytest.raises(UserError, match=said):
            make_trainer().fit(make(**change), Blobs(), ckpt_path=last)


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        ({"body.*": 0.1}, r"--model\.lr_factors has the pattern 'body\.\*', which no parameter.*0\.weight"),
        ({"0.*": 0}, r"has 0 for '0\.\*', but a factor must be more than 0.*--model\.freeze"),
        ({"0.*": -0.1}, r"must be more than 0"),
    ],
)
def test_factors_that_say_nothing_are_refused(factors: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        module(lr_factors=factors)


def test_an_optimizer_that_takes_no_groups_says_so(make_trainer: MakeTrainer) -> None:
    stage = Stage(CELoss(), 1, partial(torch.optim.LBFGS, lr=0.1))
    with pytest.raises(
        UserError, match=r"--model\.warmup\.optimizer cannot be made: LBFGS doesn't support per-parameter"
    ):
        fit(make_trainer, module(stage, None))


def test_without_factors_an_optimizer_gets_what_it_always_got(make_trainer: MakeTrainer) -> None:
    watch = fit(make_trainer, module(ce(1), None, lr_factors=None))
    (group,) = watch.epochs[0].optimizer.param_groups
    assert group.keys() == SGD([nn.Parameter(torch.zeros(1))]).param_groups[0].keys()
    assert ADAM.keywords == {"lr": 0.05}


def test_the_command_line_takes_factors_and_keeps_them() -> None:
    words = ["fit", "--model.lr_factors", '{"0.*": 0.1, "*.bias": 2}', "--model.decay_norms_and_biases", "false"]
    model = parse_fit([*words, "--model.warmup.interval", "step"])["model"]["init_args"]
    assert (model["lr_factors"], model["decay_norms_and_biases"]) == ({"0.*": 0.1, "*.bias": 2.0}, False)
    assert (model["warmup"]["interval"], model["robust"]["interval"]) == ("step", "epoch")
