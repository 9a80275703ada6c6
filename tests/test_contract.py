"""The contract of a method, proven by two of one's own (own_methods.py); each method on each kind of data, on one and two ranks.

Two ranks beside one process, digit for digit: test_ranks.py.
"""

import json
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from blobs import ADAM, SGD, Blobs, Foreign, Watch, ce, equal, weights
from conftest import MakeTrainer
from contract_cases import AFTER, PAIRS, SHIPPED, whole_and_resumed, write
from own_methods import MovingTargets, Turns, TwoOfTwo
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from stops import StopAt, Stopped, same
from test_ranks import REPO, load, run
from torch import nn

from ldmi_lightning import Batch, LDMIClassifier, LDMIModule, Method, Stage
from ldmi_lightning.batch import as_batch
from ldmi_lightning.commands import main
from ldmi_lightning.errors import UserError
from ldmi_lightning.estimator.classifier import LOSSES
from ldmi_lightning.losses import CELoss, DMILoss, ForwardLoss
from ldmi_lightning.methods import CrowdForward
from ldmi_lightning.noise import CrowdLabels

OF_VOTES = {"crowd-forward": CrowdForward, "crowd-forward, learnt": partial(CrowdForward, learn=True)}
METHODS: dict[str, Callable[[], Method]] = {
    "moving targets": partial(MovingTargets, 3),
    "two nets": TwoOfTwo,
    **{name: SHIPPED[name] for name in ("sce", "elr", "volminnet", "co-teaching", "dividemix")},
    **OF_VOTES,
}

OFTEN = [("elr", "features"), ("volminnet", "table"), ("co-teaching", "features"), ("dmi, dividemix", "table")]
"""Pairs of a method and a kind of data that the ordinary suite trains: one for each family; the others behind the marker."""


class TwoViews(Blobs):
    """Blobs of which a second view is the negative."""

    def train_transform(self) -> nn.Module:
        return Turns(self)


class Voted(TwoViews):
    """The same points, each with the votes of three people, of whom the third answers at random."""

    def __init__(self) -> None:
        super().__init__()
        votes = np.arange(120)[:, None] % 3 + np.array([0, 0, 1]) * np.random.RandomState(0).randint(3, size=(120, 1))
        self.noise = CrowdLabels(np.where(np.random.RandomState(1).rand(120, 3) < 0.3, -1, votes % 3), unvoted="drop")


def data_for(name: str) -> Blobs:
    """Return data of what a method learns from."""
    return Voted() if name in OF_VOTES else TwoViews()


def module(method: Method, seed: int = 1, **more: Any) -> LDMIModule:
    pl.seed_everything(seed, verbose=False)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3))
    return LDMIModule(net, 3, ce(2), Stage(method, 2, ADAM), **more)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_ones_own_trains_all_that_is_its(name: str, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trained = module(METHODS[name]())
    before = {key: value.clone() for key, value in trained.state_dict().items() if "targets" not in key}
    watch = Watch()
    make_trainer(callbacks=[watch]).fit(trained, data_for(name))
    assert watch.stages == ["warmup"] * 2 + ["robust"] * 2
    (last,) = tmp_path.glob("*/robust-last.ckpt")
    after = torch.load(last, weights_only=True)["state_dict"]
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    learnt = {"losses.robust.weights"}
    own = {"moving targets": {"losses.robust.matrix"}, "volminnet": learnt, "crowd-forward, learnt": learnt}
    two = {"second_backbone.0.weight"} if METHODS[name]().networks == 2 else set()
    assert own.get(name, set()) | two | {"backbone.0.weight"} <= moved


@pytest.mark.parametrize(
    ("name", "epoch"),
    [
        pytest.param(name, epoch, marks=[pytest.mark.slow] if name in {*SHIPPED, *OF_VOTES} and epoch != 3 else [])
        for name in METHODS
        for epoch in range(1, 6)
    ],
)
def test_a_run_resumed_in_any_epoch_is_the_uninterrupted_one_bit_for_bit(
    name: str, epoch: int, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    make = partial(module, more_stages={"polish": Stage(CELoss(), 2, SGD)})
    whole, stopped, resumed = (make(METHODS[name](), seed) for seed in (1, 1, 1))
    make_trainer(default_root_dir=tmp_path / "whole").fit(whole, data_for(name))
    with pytest.raises(Stopped):
        make_trainer(default_root_dir=tmp_path / "parts", callbacks=[StopAt(epoch)]).fit(stopped, data_for(name))
    (last,) = tmp_path.glob("parts/*/last.ckpt")
    make_trainer(default_root_dir=tmp_path / "parts").fit(resumed, data_for(name), ckpt_path=last)
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


# -- each method on each kind of data ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, hub_of_its_own: None) -> Path:
    return write(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    ("method", "kind"), [pytest.param(*pair, marks=[] if pair in OFTEN else [pytest.mark.slow]) for pair in PAIRS]
)
def test_each_method_trains_on_each_kind_of_data_and_resumes_bit_for_bit(
    method: str, kind: str, written: Path, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    whole, resumed = whole_and_resumed(method, kind, written, tmp_path, make_trainer)
    assert same(whole, resumed)
    assert [said["epochs"] for said in whole["stages"].values()] == ([1, 2, 2] if method in AFTER else [1, 2])
    assert all(value.isfinite().all() for value in whole["best"].values())


@pytest.fixture(scope="module")
def on_ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Any]]:
    """Return a function that tells of a kind of data what one process saw of all methods, and what each of two ranks did."""

    @cache
    def seen(kind: str) -> list[Any]:
        folder = tmp_path_factory.mktemp("ranks")
        run([sys.executable, str(REPO / "tests/contract_cases.py"), str(folder), kind], folder)
        return [*load(folder, 1), *load(folder, 2)]

    return seen


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kind"), PAIRS)
def test_two_ranks_have_one_state_resume_bit_for_bit_and_train_as_one_process_does(
    method: str, kind: str, on_ranks: Callable[[str], list[Any]]
) -> None:
    (one, _), (first, resumed), (second, _) = (each[method] for each in on_ranks(kind))
    assert same(first, second)
    assert same(first, resumed)
    if "dividemix" in method or kind == "mr":  # each rank draws partners, or what its dropout leaves out
        assert all(value.isfinite().all() for value in first["best"].values())
        return
    for what in ("state", "best"):
        torch.testing.assert_close(first[what], one[what], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "loss", [pytest.param(name, marks=[] if name == "elr" else [pytest.mark.slow]) for name in LOSSES]
)
def test_each_method_learns_a_table_by_its_name(loss: str) -> None:
    random = np.random.RandomState(0)
    y = np.arange(400) % 2
    table = pd.DataFrame({"age": 40 + 12 * y + 5 * random.randn(400), "job": np.asarray(["clerk", "smith"])[y]})
    labels = np.where(random.rand(400) < 0.2, 1 - y, y)
    columns = make_column_transformer((StandardScaler(), ["age"]), (OneHotEncoder(sparse_output=False), ["job"]))
    epochs = 3 if loss == "dividemix" else 1  # of which two are its warm-up
    learner = LDMIClassifier(loss, warmup_epochs=1, epochs=epochs, lr=0.02, random_state=0)
    model = make_pipeline(columns, learner).fit(table, labels)
    assert model.score(table, y) > 0.95
    assert model[-1].stages_["robust"]["epochs"] == epochs
    assert set(SHIPPED) == {*LOSSES, *AFTER}


@pytest.mark.parametrize("views", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_dividemix_of_token_ids_is_refused_in_one_line(
    views: int, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    files = [REPO / "configs/mr.yaml", REPO / "configs/methods/dividemix.yaml"]
    flags = [word for file in files for word in ("--config", str(file))]
    flags += ["--data.root", str(written / "mr"), "--data.split", "hub", "--trainer.logger", "false"]
    flags += ["--model.warmup.epochs", "1", "--model.robust.epochs", "1", "--model.robust.loss.views", str(views)]
    assert main(["fit", *flags, "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "DivideMix mixes inputs with each other, which token ids" in line
    assert "EncodedDataModule" in line


@pytest.mark.slow
def test_dividemix_after_dmi_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    divide = ["--model.refine.loss", "DivideMix", "--model.refine.loss.views", "1", "--model.refine.loss.warmup", "1"]
    flags = ["--config", str(REPO / "configs/quickstart.yaml"), "--model.warmup.epochs", "1", *divide]
    flags += ["--model.robust.epochs", "1", "--model.refine.epochs", "2", "--trainer.limit_train_batches", "4"]
    assert main(["fit", *flags, "--trainer.enable_progress_bar", "false"]) == 0
    (results,) = tmp_path.glob("runs/*/results.json")
    stages = json.loads(results.read_text())["stages"]
    assert [said["loss"] for said in stages.values()] == ["CELoss", "DMILoss", "DivideMix"]
    assert 0 <= stages["refine"]["test_acc_last"] <= 1
