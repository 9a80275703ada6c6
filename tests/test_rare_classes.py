"""Classes that a warm-up never predicts, that no training sample is labelled, or that no validation sample is."""

import importlib.util
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from blobs import NO_WORKERS, Watch
from conftest import MakeTrainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.datamodules import TensorDataModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.joint import dmi_normalised, joint_matrix, judged, log_dmi
from ldmi_lightning.losses import CELoss, DMILoss, Predictions
from ldmi_lightning.losses import dmi as room
from ldmi_lightning.training.evaluation import HeldOutSums


def _load_benchmark() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks/many_classes.py"
    spec = importlib.util.spec_from_file_location("many_classes", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bench = _load_benchmark()

# -- what is learnt ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_classes", "epochs"), [(100, 2), pytest.param(1000, 2, marks=pytest.mark.slow, id="1000-slow")]
)
@pytest.mark.parametrize(("flipped", "unseen"), [("all", 0.0), ("half", 0.0), ("all", 0.1)])
def test_with_a_memory_many_classes_are_learnt_better_than_by_cross_entropy(
    num_classes: int, epochs: int, flipped: str, unseen: float
) -> None:
    batch = 64 if num_classes == 100 else 256
    toy = bench.make_toy(num_classes, flipped, per_class=30 if num_classes == 100 else 50)
    net = bench.warm_up(toy, 4, batch, range(int(unseen * num_classes)))
    ce, dmi = (bench.go_on(toy, net, loss, epochs, batch) for loss in (CELoss(), DMILoss(0.99)))
    assert dmi.accuracy > ce.accuracy + 0.03  # 0.05 to 0.2 seen
    assert dmi.finite
    assert dmi.singular == 0


def test_without_another_start_classes_that_the_warm_up_never_predicts_spoil_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    toy = bench.make_toy(100, "all", per_class=30)
    net = bench.warm_up(toy, 2, 64, range(50))
    loss = DMILoss(0.99)
    started = bench.go_on(toy, net, loss, 2, 64)
    assert set(loss.never_predicted) <= set(range(50))
    assert len(loss.never_predicted) > 40
    monkeypatch.setattr(room, "NEVER_PREDICTED", 0.0)
    plain = bench.go_on(toy, net, DMILoss(0.99), 2, 64)
    assert started.accuracy > plain.accuracy + 0.2
    assert started.singular == 0


# -- how the memory begins --------------------------------------------------------------------------------------------


def start(probs: Tensor, y: Tensor) -> DMILoss:
    loss = DMILoss(0.9)
    given = Predictions(probs, y, torch.arange(len(y)))
    loss.prepare(given, given)
    return loss


def test_the_memory_begins_as_if_more_samples_were_predicted_as_labelled() -> None:
    probs = torch.tensor([[0.5, 0.48, 0.02], [0.25, 0.7, 0.05], [0.5, 0.49, 0.01]]).repeat_interleave(10, dim=0)
    loss = start(probs, torch.arange(3).repeat_interleave(10))
    expected = 10 * np.array([[0.5, 0.48, 0.02], [0.25, 0.7, 0.05], [0.5, 0.49, 0.01 + 0.3]]) / (30 + 3)
    np.testing.assert_allclose(loss.joint_memory, expected, rtol=1e-6)
    assert loss.joint_memory.sum().item() == pytest.approx(1)
    assert loss.never_predicted == [2]
    assert loss.remark() == (
        "the stage before never predicts class 2: the memory begins as if 0.3 of their labels more had been predicted."
    )


@pytest.mark.parametrize("kind", ["all are predicted", "rarely, but once", "outputs of 0"])
def test_else_the_memory_begins_with_u_itself_bit_for_bit(kind: str) -> None:
    rng = torch.Generator().manual_seed(0)
    y = torch.randint(4, (200,), generator=rng)
    logits = torch.randn(200, 4, generator=rng)
    if kind == "rarely, but once":
        logits[:, 3] -= 20
        logits[5, 3] = 20
    elif kind == "outputs of 0":
        logits[:, 3] = -torch.inf
    probs = logits.softmax(dim=1)
    loss = start(probs, y)
    assert torch.equal(loss.joint_memory, torch.zeros(4, 4).double().index_add_(0, y, probs.double()) / 200)
    assert loss.never_predicted == []
    assert loss.remark() == ""


# -- no training sample -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [4, 301])
def test_a_class_that_no_training_sample_is_labelled_is_left_out_rows_and_columns(num_classes: int) -> None:
    rng = torch.Generator().manual_seed(0)
    here = [label for label in range(num_classes) if label not in (0, 2)]
    y = torch.tensor(here)[torch.arange(6 * num_classes) % len(here)]
    logits = torch.randn(len(y), num_classes, generator=rng, dtype=torch.float64)
    logits[torch.arange(len(y)), y] += 4
    loss = start(logits.softmax(dim=1).float(), y)
    leaf, exact = (logits[:40].clone().requires_grad_() for _ in range(2))
    before, labels = loss.joint_memory, y[:40]
    value = loss(leaf, labels, labels)
    value.backward()
    joint = 0.9 * before + 0.1 * joint_matrix(exact.softmax(dim=1), labels)
    expected = -torch.linalg.slogdet(joint[here][:, here]).logabsdet
    (expected / 0.1).backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    assert leaf.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(leaf.grad, exact.grad, rtol=1e-7, atol=1e-10 * exact.grad.abs().max().item())
    torch.testing.assert_close(loss.joint_memory, joint.detach(), rtol=1e-12, atol=1e-18)
    assert int(loss.singular_steps) == 0
    # What is predicted as such a class is lost: all outputs move away from it.
    assert (leaf.grad[:, [0, 2]].sum(dim=0) > 0).all()


# -- no validation sample ---------------------------------------------------------------------------------------------


def test_the_figures_of_the_validation_judge_the_classes_that_it_has() -> None:
    rng = torch.Generator().manual_seed(0)
    y = torch.tensor([0, 1, 3]).repeat(20)
    probs = (torch.randn(60, 4, generator=rng) + 3 * torch.eye(4)[y]).double().softmax(dim=1)
    sums = HeldOutSums()
    sums.add(probs, probs, y, y, torch.arange(60))
    held_out = sums.compute(4, torch.device("cpu"))
    whole = np.eye(4)[y.numpy()].T @ probs.double().numpy() / 60
    part = whole[[0, 1, 3]][:, [0, 1, 3]]
    expected = np.linalg.slogdet(part).logabsdet
    assert held_out.figures["val/log_dmi"] == pytest.approx(expected, rel=1e-10)
    assert held_out.figures["val/dmi"] == pytest.approx(np.exp(expected), rel=1e-10)
    # All three classes have a third of the labels; outputs for the fourth are lost.
    assert held_out.figures["val/dmi_normalised"] == pytest.approx(3 * np.exp(expected / 3), rel=1e-10)
    np.testing.assert_allclose(held_out.joint, whole, rtol=1e-10)


def test_where_no_class_is_missing_nothing_is_left_out_and_nan_is_not_hidden() -> None:
    joint = torch.tensor([[0.5, 0.25], [0.0, 0.25]]).double()
    part, shares = judged(joint)
    assert part is joint
    assert dmi_normalised(part, shares) == dmi_normalised(joint)
    assert log_dmi(judged(torch.full((2, 2), torch.nan))[0]).isfinite()
    assert judged(torch.full((2, 2), torch.nan))[0].isnan().all()


def crowd(num_classes: int, single: list[int], each: int = 40) -> TensorDataModule:
    """Return points of one class each, of which ``single`` ones have one sample."""
    random = np.random.RandomState(0)
    labels = np.concatenate([np.full(1 if label in single else each, label) for label in range(num_classes)])
    x = (3 * np.eye(num_classes)[labels] + random.standard_normal((len(labels), num_classes))).astype(np.float32)
    names = [f"class {label}" for label in range(num_classes)]
    return TensorDataModule(x, labels, class_names=names, batch_size=8, val_share=0.2, test_share=0.2)


def staged(num_classes: int) -> LDMIModule:
    torch.manual_seed(0)
    adam = partial(torch.optim.Adam, lr=0.03)
    stages = {"warmup": Stage(CELoss(), 2, adam), "robust": Stage(DMILoss(0.9), 2)}
    return LDMIModule(nn.Linear(num_classes, num_classes), num_classes, **stages)  # type: ignore[arg-type]


def test_a_class_with_one_sample_is_named_and_does_not_refuse_the_run(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = Watch()
    make_trainer(callbacks=[watch]).fit(module := staged(12), crowd(12, single=[4, 9]))
    assert watch.stages == ["warmup"] * 2 + ["robust"] * 2
    line = (
        "No validation sample is labelled class 4, class 9 (2 of 12 classes): val/log_dmi, which selects robust's best epoch, "
        "judges the others alone."
    )
    assert capsys.readouterr().out.count(line) == 1
    scores = [epoch.metrics["val/log_dmi"] for epoch in watch.of("robust")]
    assert all(-12 * np.log(12) - 12 < score < -10 * np.log(10) for score in scores)  # of ten classes, and no floor
    assert module.stage_summaries()["robust"]["best_score"] == pytest.approx(max(scores), rel=1e-6)


def test_too_many_classes_that_cannot_be_judged_are_refused_and_few_of_them_named(make_trainer: MakeTrainer) -> None:
    watch = Watch()
    names = "class 0, class 1, class 2, class 3, class 4 and 2 more"
    with pytest.raises(UserError, match=f"no sample labelled {names}, so val/log_dmi.*robust.monitor val/acc"):
        make_trainer(callbacks=[watch]).fit(staged(12), crowd(12, single=list(range(7))))
    assert not watch.epochs


def test_a_class_that_noise_took_away_is_named(make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    data = crowd(12, single=[])
    data.setup("fit")
    for split in ("train", "val"):
        labels = data.splits[split].y
        labels[labels == 4] = 5
    make_trainer().fit(staged(12), data)
    said = capsys.readouterr().out
    assert "No validation sample is labelled class 4 (1 of 12 classes)" in said
    assert (
        "No training sample is labelled class 4 (1 of 12 classes): nothing can be learnt of what is never shown" in said
    )


@pytest.mark.filterwarnings(NO_WORKERS)
def test_of_someone_elses_data_it_is_said_at_the_first_validation(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    data = crowd(12, single=[4, 9])
    data.setup("fit")
    train, val = (DataLoader(TensorDataset(data.splits[name].x, data.splits[name].y), 8) for name in ("train", "val"))
    make_trainer().fit(staged(12), train, val)
    assert capsys.readouterr().out.count("No validation sample is labelled 4, 9 (2 of 12 classes): val/log_dmi") == 1
