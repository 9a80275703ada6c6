"""Frozen parts of a backbone: neither weights nor statistics move, in each stage, after a resume, in a second net."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from blobs import SGD, Blobs, ce, dmi, equal, fit, weights
from conftest import MakeTrainer
from own_methods import Turns, TwoOfTwo
from stops import assert_resumes_bit_for_bit
from torch import nn

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.commands import main
from ldmi_lightning.commands.configuration import parse_fit
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import CELoss
from ldmi_lightning.training.frozen import frozen_parts
from ldmi_lightning.training.patterns import shortened


def net() -> nn.Sequential:
    """Return a body with statistics and dropout, and a head."""
    body = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.ReLU())
    return nn.Sequential(body, nn.Dropout(0.1), nn.Linear(6, 3))


def module(freeze: Any = "0.*", seed: int = 1, stages: Any = None, **more: Any) -> LDMIModule:
    pl.seed_everything(seed, verbose=False)
    return LDMIModule(net(), 3, *(stages or (ce(2), dmi(2))), freeze=freeze, **more)


class Modes(pl.Callback):
    """Notes which parts of the backbone are in training mode, in each batch."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, ...]] = set()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.add(tuple(name for name, part in pl_module.backbone.named_modules() if part.training))


def test_neither_weights_nor_statistics_of_a_frozen_part_move(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    model, modes = module(), Modes()
    before = weights(model)
    fit(make_trainer, model, callbacks=[modes])
    after = weights(model)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"2.weight", "2.bias"}
    assert modes.seen == {("", "1", "2")}
    assert capsys.readouterr().out.count("freeze: 4 of 6 parameters of the backbone (36 of 57 numbers)") == 1
    fit(make_trainer, model)  # again, without Lightning's warning of parts in eval mode


def test_the_optimizer_holds_what_is_trained_alone(make_trainer: MakeTrainer) -> None:
    watch = fit(make_trainer, module(["0.0.*", "*.bias"]))
    for epoch in watch.epochs:
        shapes = [tuple(each.shape) for group in epoch.optimizer.param_groups for each in group["params"]]
        assert shapes == [(6,), (3, 6)]  # BatchNorm's weight, the head's weight


def test_statistics_that_are_frozen_are_none_of_the_batch() -> None:
    assert module(None).normalises_by_batch()
    assert not module("0.*").normalises_by_batch()


def test_a_part_that_is_trained_in_part_works_as_in_training() -> None:
    model = module(["0.0.*", "0.1.weight"])
    assert [type(part).__name__ for part in frozen_parts(model.backbone)] == ["Linear"]


@pytest.mark.parametrize(
    ("freeze", "said"),
    [
        (
            "body.*",
            r"--model\.freeze has the pattern 'body\.\*', which no parameter.*0\.0\.weight, 0\.0\.bias, .*2\.bias\.",
        ),
        (["0.*", "nothing"], "'nothing', which no parameter"),
        ("*", r"--model\.freeze \* leaves nothing of the backbone to train"),
        (["0.*", "2.*"], r"--model\.freeze 0\.\*, 2\.\* leaves nothing"),
    ],
)
def test_patterns_that_freeze_nothing_or_all_are_refused(freeze: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        module(freeze)


def test_the_names_of_a_large_net_are_shortened_to_patterns() -> None:
    names = [f"body.layer.{i}.{name}" for i in range(30) for name in ("weight", "bias")] + ["head.weight"]
    assert shortened(names) == ["body.layer.*", "head.weight"]
    assert shortened(names[:4]) == names[:4]


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_run_with_frozen_parts_is_resumed_bit_for_bit(epoch: int, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    last = assert_resumes_bit_for_bit(module, epoch, make_trainer, tmp_path)
    other = module(["0.0.*"])
    with pytest.raises(UserError, match=r"model\.freeze is \['0\.0\.\*'\], but was \['0\.\*'\]"):
        make_trainer().fit(other, Blobs(), ckpt_path=last)


class Views(Blobs):
    """Two views of each sample, where they are asked for."""

    def train_transform(self) -> nn.Module:
        return Turns(self)


@pytest.mark.parametrize("first", [True, False])
def test_the_second_net_has_the_same_frozen_parts(first: bool, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    two = Stage(TwoOfTwo(), 1, SGD)
    given = net()
    torch.save(given.state_dict(), tmp_path / "given.pt")
    more = {} if first else {"warm_start": str(tmp_path / "given.pt")}
    model = module(stages=(two, None) if first else (ce(1), two), **more)
    body = {**(model.backbone if first else given)[0].state_dict()}  # type: ignore[index]
    fit(make_trainer, model, Views(), default_root_dir=tmp_path / "runs")
    assert model.second_backbone is not None
    for trained in (model.backbone, model.second_backbone):
        assert equal(trained[0].state_dict(), body)  # type: ignore[index]
    assert not torch.equal(model.backbone[2].weight, model.second_backbone[2].weight)  # type: ignore[index]


def test_patterns_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    given = {"*.bias": "*.bias", "[body.*]": ["body.*"], '["*.bias", "0.*"]': ["*.bias", "0.*"]}
    for word, patterns in given.items():
        assert parse_fit(["fit", "--model.freeze", word])["model"]["init_args"]["freeze"] == patterns
    short = [
        "--trainer.limit_train_batches",
        "2",
        "--trainer.limit_val_batches",
        "1",
        "--trainer.limit_test_batches",
        "1",
    ]
    short += ["--model.robust", "null", "--model.warmup.epochs", "1", "--trainer.logger", "false"]
    assert main(["fit", *short, "--model.freeze", "*.bias", "--trainer.enable_progress_bar", "false"]) == 0
    assert "freeze: 4 of 8 parameters" in capsys.readouterr().out


def test_what_a_user_froze_by_hand_works_as_before(make_trainer: MakeTrainer) -> None:
    given = net()
    given[0].requires_grad_(False)
    pl.seed_everything(1, verbose=False)
    model, modes = LDMIModule(given, 3, Stage(CELoss(), 1, partial(torch.optim.SGD, lr=0.1))), Modes()
    fit(make_trainer, model, callbacks=[modes])
    assert modes.seen == {("", "0", "0.0", "0.1", "0.2", "0.3", "1", "2")}
