"""The contract of a method, proven by two of one's own: see own_methods.py; on two ranks: test_ranks.py."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from blobs import ADAM, SGD, Blobs, Foreign, Watch, ce, equal, weights
from conftest import MakeTrainer
from own_methods import MovingTargets, Turns, TwoOfTwo
from stops import StopAt, Stopped, same
from torch import nn

from ldmi_lightning import Batch, LDMIModule, Method, Stage
from ldmi_lightning.batch import as_batch
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import CELoss, DMILoss, ELRLoss, ForwardLoss, SCELoss, VolMinLoss
from ldmi_lightning.methods import CoTeaching, DivideMix

METHODS: dict[str, Callable[[], Method]] = {
    "moving targets": partial(MovingTargets, 3),
    "two nets": TwoOfTwo,
    "sce": SCELoss,
    "elr": ELRLoss,
    "volminnet": VolMinLoss,
    "co-teaching": CoTeaching,
    "dividemix": partial(DivideMix, warmup=1),
}

SHIPPED = ("sce", "elr", "volminnet", "co-teaching", "dividemix")
"""These are stopped in the middle of their stage alone; in each epoch behind the slow marker."""


class TwoViews(Blobs):
    """Blobs of which a second view is the negative."""

    def train_transform(self) -> nn.Module:
        return Turns(self)


def module(method: Method, seed: int = 1, **more: Any) -> LDMIModule:
    pl.seed_everything(seed, verbose=False)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3))
    return LDMIModule(net, 3, ce(2), Stage(method, 2, ADAM), **more)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_ones_own_trains_all_that_is_its(name: str, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trained = module(METHODS[name]())
    before = {key: value.clone() for key, value in trained.state_dict().items() if "targets" not in key}
    watch = Watch()
    make_trainer(callbacks=[watch]).fit(trained, TwoViews())
    assert watch.stages == ["warmup"] * 2 + ["robust"] * 2
    (last,) = tmp_path.glob("*/robust-last.ckpt")
    after = torch.load(last, weights_only=True)["state_dict"]
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    own = {"moving targets": {"losses.robust.matrix"}, "volminnet": {"losses.robust.weights"}}
    two = {"second_backbone.0.weight"} if METHODS[name]().networks == 2 else set()
    assert own.get(name, set()) | two | {"backbone.0.weight"} <= moved


@pytest.mark.parametrize(
    ("name", "epoch"),
    [
        pytest.param(name, epoch, marks=[pytest.mark.slow] if name in SHIPPED and epoch != 3 else [])
        for name in METHODS
        for epoch in range(1, 6)
    ],
)
def test_a_run_resumed_in_any_epoch_is_the_uninterrupted_one_bit_for_bit(
    name: str, epoch: int, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    make = partial(module, more_stages={"polish": Stage(CELoss(), 2, SGD)})
    whole, stopped, resumed = (make(METHODS[name](), seed) for seed in (1, 1, 1))
    make_trainer(default_root_dir=tmp_path / "whole").fit(whole, TwoViews())
    with pytest.raises(Stopped):
        make_trainer(default_root_dir=tmp_path / "parts", callbacks=[StopAt(epoch)]).fit(stopped, TwoViews())
    (last,) = tmp_path.glob("parts/*/last.ckpt")
    make_trainer(default_root_dir=tmp_path / "parts").fit(resumed, TwoViews(), ckpt_path=last)
    assert same(resumed.state_dict(), whole.state_dict())
    assert same(resumed.stage_summaries(), whole.stage_summaries())
    assert same(resumed.choice, whole.choice)
    assert list(whole.stage_summaries()) == ["warmup", "robust", "polish"]


def test_the_second_net_is_another_one_and_the_same_for_a_seed() -> None:
    one, same_seed, other = module(TwoOfTwo(), 1), module(TwoOfTwo(), 1), module(TwoOfTwo(), 2)
    second = [each.second_backbone.state_dict() for each in (one, same_seed, other)]  # type: ignore[union-attr]
    assert equal(second[0], second[1])
    assert not torch.equal(second[0]["0.weight"], second[2]["0.weight"])
    assert not torch.equal(second[0]["0.weight"], one.backbone.state_dict()["0.weight"])
    assert module(DMILoss(0.9)).second_backbone is None


def test_outputs_are_the_mean_of_both_nets(make_trainer: MakeTrainer) -> None:
    two = module(TwoOfTwo()).eval()
    two.holds = "robust"
    x = torch.randn(5, 3)
    nets = [two.backbone, two.second_backbone]
    expected = torch.stack([net(x).softmax(1) for net in nets]).mean(0)  # type: ignore[misc]
    torch.testing.assert_close(two.probabilities(x), expected)
    torch.testing.assert_close(two(x).softmax(1), expected)


def test_a_loss_with_parameters_is_optimised_and_its_best_epoch_kept(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trained = module(MovingTargets(3))
    make_trainer().fit(trained, TwoViews())
    (best,) = tmp_path.glob("*/robust-best.ckpt")
    saved = torch.load(best, weights_only=True)["state_dict"]
    for name in ("matrix", "targets"):
        assert torch.equal(trained.state_dict()[f"losses.robust.{name}"], saved[f"losses.robust.{name}"])


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_a_second_view_that_the_data_does_not_give_is_missed_in_one_line(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match=r"TwoOfTwo wants 2 views.*second_view"):
        make_trainer().fit(module(TwoOfTwo()), Foreign())


def test_a_net_whose_weights_cannot_be_drawn_anew_is_refused() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight

    with pytest.raises(UserError, match=r"Own.*no reset_parameters.*build_backbone"):
        LDMIModule(Own(), 3, Stage(TwoOfTwo(), 1))


@pytest.mark.parametrize("name", ["warmup", "two words", "keys", "1st", "a-b"])
def test_names_of_stages_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="more_stages has a stage called"):
        LDMIModule(nn.Linear(3, 3), 3, ce(), more_stages={name: ce()})


def test_a_model_without_a_stage_is_refused() -> None:
    with pytest.raises(UserError, match="needs a stage to train"):
        LDMIModule(nn.Linear(3, 3), 3)


def test_stages_can_have_any_names_and_number(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    stages = {"first": ce(1), "second": Stage(DMILoss(0.5), 1, ADAM), "third": ce(1), "fourth": ce(1)}
    trained = LDMIModule(nn.Linear(3, 3), 3, more_stages=stages)
    watch = Watch()
    make_trainer(callbacks=[watch]).fit(trained, Blobs())
    assert watch.stages == list(stages)
    assert [each["stage"] for each in trained.choice] == ["second", "third", "fourth"]
    assert trained.chosen in stages
    (folder,) = tmp_path.iterdir()
    assert equal(weights(trained), weights(folder / f"{trained.chosen}-best.ckpt"))


def test_weights_of_samples_are_refused_since_no_loss_takes_them() -> None:
    x, y = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    assert as_batch(Batch(x, y, y, y)).weights is None
    with pytest.raises(UserError, match="no loss takes them"):
        as_batch(Batch(x, y, y, y, weights=torch.ones(2)))


def test_losses_with_a_matrix_select_by_likelihood_under_it() -> None:
    assert (ForwardLoss().monitor, ForwardLoss().mode) == ("val/nll", "min")
