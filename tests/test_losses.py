"""The losses: L_DMI's theorem, gradient and memory, what it does where no determinant is, and exactness over ranks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.nn.parallel import DistributedDataParallel

from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import CELoss, DMILoss, Loss, Predictions
from ldmi_lightning.methods import DivideMix
from ldmi_lightning.metrics import JointMatrix
from ldmi_lightning.ranks import gather_over_ranks

CLASSES = [2, 10, 14, 100]


def batch_of(num_classes: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return random float64 logits, and labels among which every class occurs."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, num_classes, generator=rng, dtype=torch.float64)
    return logits, torch.randperm(size, generator=rng) % num_classes


def predictions(logits: Tensor, y: Tensor) -> Predictions:
    """Return what the module hands to `prepare`."""
    return Predictions(logits.detach().softmax(1).float(), y, torch.arange(len(y)))


def prepared(memory: float, logits: Tensor, y: Tensor) -> DMILoss:
    loss = DMILoss(memory)
    if loss.needs_predictions:
        loss.prepare(predictions(logits, y), predictions(logits, y))
    return loss


def numpy_joint(probs: Tensor, y: Tensor) -> NDArray[np.float64]:
    return np.eye(probs.shape[1])[y.numpy()].T @ probs.detach().double().numpy() / len(y)


def papers_gradient(joint: NDArray[np.float64], logits: Tensor, y: Tensor) -> NDArray[np.float64]:
    """Return -(1/N) U^-1[:, y_i] for each sample's probabilities, taken back through the softmax to its logits."""
    probs = logits.detach().softmax(1).numpy()
    by_probs = -np.linalg.inv(joint)[:, y].T / len(y)
    return probs * (by_probs - (probs * by_probs).sum(axis=1, keepdims=True))


# The theorem


@pytest.mark.parametrize("num_classes", CLASSES)
def test_label_noise_t_shifts_the_loss_by_exactly_minus_log_det_t(num_classes: int) -> None:
    logits, clean = batch_of(num_classes, size=3 * num_classes)
    # Each sample occurs 20 times; the copies of class i carry the labels of row i, so that T[i, j] is j's share of it.
    carried = np.random.RandomState(num_classes).randint(num_classes, size=(num_classes, 20))
    transition = np.stack([np.bincount(row, minlength=num_classes) / 20 for row in carried])
    noisy = torch.from_numpy(carried)[clean].flatten()
    copies = logits.repeat_interleave(20, dim=0)
    shift = np.linalg.slogdet(transition).logabsdet
    assert np.isfinite(shift)
    assert DMILoss()(copies, noisy, noisy).item() == pytest.approx(
        DMILoss()(logits, clean, clean).item() - shift, rel=1e-9
    )


@given(data=st.data(), num_classes=st.integers(2, 14))
@settings(deadline=None, max_examples=30, derandomize=True)
def test_the_loss_does_not_know_the_names_of_outputs_and_labels(data: st.DataObject, num_classes: int) -> None:
    outputs = data.draw(st.permutations(range(num_classes)))
    labels = torch.tensor(data.draw(st.permutations(range(num_classes))))
    logits, y = batch_of(num_classes, size=4 * num_classes)
    value = DMILoss()(logits, y, y)
    torch.testing.assert_close(DMILoss()(logits[:, outputs], y, y), value, rtol=1e-10, atol=0)
    torch.testing.assert_close(DMILoss()(logits, labels[y], y), value, rtol=1e-10, atol=0)


# Values and gradients


@pytest.mark.parametrize("num_classes", CLASSES)
def test_without_memory_it_is_the_papers_loss_with_the_papers_gradient(num_classes: int) -> None:
    logits, y = batch_of(num_classes, size=3 * num_classes)
    loss = DMILoss(memory=0)
    value = loss(logits.requires_grad_(), y, y)
    value.backward()
    joint = numpy_joint(logits.softmax(1), y)
    assert value.item() == pytest.approx(-np.linalg.slogdet(joint).logabsdet, rel=1e-10)
    expected = papers_gradient(joint, logits, y)
    np.testing.assert_allclose(logits.grad, expected, rtol=1e-8, atol=1e-8 * abs(expected).max())


@pytest.mark.parametrize("num_classes", [2, 10])
def test_the_gradient_agrees_with_finite_differences(num_classes: int) -> None:
    logits, y = batch_of(num_classes, size=3 * num_classes)
    assert gradcheck(lambda z: DMILoss()(z, y, y), (logits.requires_grad_(),))


def test_a_thousand_classes_have_a_finite_loss_where_det_u_itself_underflows() -> None:
    logits, y = batch_of(1000, size=2000)
    logits = (logits + 8 * torch.eye(1000)[y]).requires_grad_()
    value = DMILoss()(logits, y, y)
    value.backward()
    assert np.linalg.det(numpy_joint(logits.softmax(1), y)) == 0
    assert value.item() == pytest.approx(-np.linalg.slogdet(numpy_joint(logits.softmax(1), y)).logabsdet)
    assert logits.grad.isfinite().all()
    assert logits.grad.any()


@pytest.mark.parametrize("memory", [0.5, 0.99])
@pytest.mark.parametrize("num_classes", CLASSES)
def test_memory_mixes_u_before_the_determinant_and_keeps_the_papers_gradient(num_classes: int, memory: float) -> None:
    logits, y = batch_of(num_classes, size=6 * num_classes)
    loss = prepared(memory, logits, y)
    joint = numpy_joint(logits.softmax(1).float(), y)
    np.testing.assert_allclose(loss.joint_memory, joint, rtol=1e-12)
    for seed in range(3):
        logits, y = batch_of(num_classes, size=64, seed=seed + 1)
        value = loss(logits.requires_grad_(), y, y)
        value.backward()
        joint = memory * joint + (1 - memory) * numpy_joint(logits.softmax(1), y)
        assert value.item() == pytest.approx(-np.linalg.slogdet(joint).logabsdet, rel=1e-10)
        expected = papers_gradient(joint, logits, y)
        np.testing.assert_allclose(logits.grad, expected, rtol=1e-8, atol=1e-8 * abs(expected).max())
        np.testing.assert_allclose(loss.joint_memory, joint, rtol=1e-12)


def test_bf16_autocast_does_not_reach_the_determinant() -> None:
    x, y = batch_of(10, size=64)
    net, x = nn.Linear(10, 10), x.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(x)
        value = DMILoss()(logits, y, y)
    assert logits.dtype == torch.bfloat16
    assert value.item() == DMILoss()(logits.double(), y, y).item()
    value.backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


# Where there is no determinant


@pytest.mark.parametrize("num_classes", CLASSES)
def test_a_missing_class_costs_a_step_without_memory_but_not_with_it(num_classes: int) -> None:
    logits, y = batch_of(num_classes, size=6 * num_classes)
    there = y != num_classes // 2
    for memory in (0.0, 0.9):
        loss, leaf = prepared(memory, logits, y), logits[there].requires_grad_()
        value = loss(leaf, y[there], y[there])
        value.backward()
        assert loss.singular_steps == (memory == 0)
        assert value.isfinite()
        assert leaf.grad.isfinite().all()
        assert leaf.grad.any() == (memory > 0)


@pytest.mark.parametrize("memory", [0.0, 0.9, 0.99])
@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_from_constant_outputs_no_step_moves_a_parameter(
    optimizer: type[torch.optim.Optimizer], num_classes: int, memory: float
) -> None:
    for seed in range(50):
        torch.manual_seed(seed)
        net, x, y = nn.Linear(4, num_classes), torch.randn(500, 4), torch.randint(num_classes, (500,))
        nn.init.zeros_(net.weight)
        before = [p.clone() for p in net.parameters()]
        loss = prepared(memory, net(x), y)
        value = loss(net(x[:64]), y[:64], torch.arange(64))
        value.backward()
        optimizer(net.parameters(), lr=1.0).step()
        assert value.item() == 0
        assert loss.singular_steps == 1
        assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_nan_logits_count_as_singular_and_leave_the_memory_alone(memory: float) -> None:
    logits, y = batch_of(10, size=64)
    loss = prepared(memory, logits, y)
    before = loss.joint_memory.clone()
    logits[5, 3] = torch.nan
    assert loss(logits, y, y).item() == 0
    assert loss.singular_steps == 1
    assert torch.equal(loss.joint_memory, before)


def test_an_epoch_of_singular_steps_alone_stops_the_run_and_names_the_flags() -> None:
    logits, y = batch_of(10, size=64)
    loss = DMILoss()
    for _ in range(3):
        loss(logits, torch.zeros_like(y), y)
    with pytest.raises(UserError, match=r"All 3 steps.*--model\.robust\.loss\.memory 0\.99.*--data\.batch_size"):
        loss.end_epoch()
    assert (loss.steps, loss.singular_steps) == (0, 0)
    loss.end_epoch()


@pytest.mark.parametrize("memory", [0.9, 0.99])
def test_where_a_memory_is_set_already_it_is_not_advised(memory: float) -> None:
    logits, y = batch_of(10, size=64)
    loss = prepared(memory, torch.zeros_like(logits), y)
    loss(torch.zeros_like(logits), y, y)
    with pytest.raises(UserError, match=r"All 1 steps.*--data\.batch_size.*warm-up learns all classes") as raised:
        loss.end_epoch()
    assert "memory" not in str(raised.value)


def test_one_good_step_is_enough_for_an_epoch() -> None:
    logits, y = batch_of(10, size=64)
    loss = DMILoss()
    loss(logits, torch.zeros_like(y), y)
    loss(logits, y, y)
    assert (loss.steps, loss.singular_steps) == (2, 1)
    loss.end_epoch()
    assert (loss.steps, loss.singular_steps) == (0, 0)


# State and settings


def test_evaluation_touches_neither_memory_nor_counts() -> None:
    logits, y = batch_of(10, size=64)
    loss = prepared(0.9, logits, y).eval()
    before = loss.joint_memory.clone()
    loss(logits.flip(0), y, y)
    assert torch.equal(loss.joint_memory, before)
    assert (loss.steps, loss.singular_steps) == (0, 0)


def test_a_memory_travels_in_the_state_dict_into_a_fresh_loss() -> None:
    logits, y = batch_of(10, size=64)
    old, fresh = prepared(0.9, logits, y), DMILoss(0.9)
    assert list(old.state_dict()) == ["joint_memory"]
    fresh.load_state_dict(old.state_dict())
    assert torch.equal(fresh(logits.flip(0), y, y), old(logits.flip(0), y, y))
    assert torch.equal(fresh.joint_memory, old.joint_memory)


def test_a_memory_must_be_prepared_before_it_is_used() -> None:
    logits, y = batch_of(10, size=64)
    assert not DMILoss(0).needs_predictions
    with pytest.raises(UserError, match=r"no memory for 10 classes: call prepare"):
        DMILoss(0.9)(logits, y, y)


@pytest.mark.parametrize("memory", [-0.1, 1.0, float("nan")])
def test_a_memory_outside_0_1_is_refused(memory: float) -> None:
    with pytest.raises(UserError, match=f"but got {memory}"):
        DMILoss(memory)


def test_a_batch_smaller_than_the_number_of_classes_needs_a_memory() -> None:
    DMILoss(0).check_setting(num_classes=100, batch_size=100)
    DMILoss(0.5).check_setting(num_classes=100, batch_size=64)
    CELoss().check_setting(num_classes=100, batch_size=64)
    with pytest.raises(UserError, match=r"100 classes.*--data\.batch_size is 99.*--model\.robust\.loss\.memory 0\.99"):
        DMILoss(0).check_setting(num_classes=100, batch_size=99)


def test_cross_entropy_is_the_mean_of_minus_log_p_of_the_label() -> None:
    logits, y = batch_of(10, size=64)
    chosen = logits.softmax(1).numpy()[np.arange(64), y]
    assert CELoss()(logits, y, y).item() == pytest.approx(-np.log(chosen).mean(), rel=1e-12)


def test_each_loss_names_what_selects_its_best_epoch() -> None:
    assert (CELoss().monitor, CELoss().mode) == ("val/acc", "max")
    assert (DMILoss().monitor, DMILoss().mode) == ("val/log_dmi", "max")
    assert (DivideMix().monitor, DivideMix().mode) == ("val/decision_score", "max")


# Two ranks with 5 and 11 samples of 7 classes, so that neither holds them all, against one process with all 16

SHARDS = [slice(0, 5), slice(5, 16)]
LOSSES: dict[str, Callable[[Tensor, Tensor], Loss]] = {
    "CE": lambda logits, y: CELoss(),
    "DMI": lambda logits, y: prepared(0.0, logits, y),
    "DMI with memory": lambda logits, y: prepared(0.9, logits, y),
}


def whole_batch() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    return nn.Linear(6, 7).double(), torch.randn(16, 6).double(), torch.arange(16) % 7


def three_steps(net: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Train three times on the same batch; return the values, the gradients and the loss's state at the end."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    values, gradients = [], []
    for _ in range(3):
        optimizer.zero_grad()
        value = loss(net(x), y, torch.arange(len(y)))
        value.backward()
        optimizer.step()
        values.append(value.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    return {"values": torch.stack(values), "gradients": torch.stack(gradients), **loss.state_dict()}


def one_rank(rank: int, folder: Path) -> None:
    """Run everything below in a process of its own, and leave what came of it in a file."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = {}
    for name, loss in LOSSES.items():
        net, x, y = whole_batch()
        results[name] = three_steps(DistributedDataParallel(net), loss(net(x), y), x[SHARDS[rank]], y[SHARDS[rank]])
    net, x, y = whole_batch()
    metric = JointMatrix(num_classes=7)
    metric.update(net(x[SHARDS[rank]]).softmax(1).detach(), y[SHARDS[rank]])
    results["gathered"] = {"x": gather_over_ranks(x[SHARDS[rank]]), "y": gather_over_ranks(y[SHARDS[rank]])}
    results["gathered"]["from rank 1"] = gather_over_ranks(y[: 3 * rank])
    results["metric"] = {"joint": metric.compute()}
    metric.reset()
    if rank == 1:
        metric.update(net(x).softmax(1).detach(), y)
    results["metric"]["of rank 1 alone"] = metric.compute()
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(one_rank, args=(folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", LOSSES)
def test_two_uneven_ranks_train_exactly_like_one_process(ranks: list[dict[str, dict[str, Tensor]]], name: str) -> None:
    net, x, y = whole_batch()
    alone = three_steps(net, LOSSES[name](net(x), y), x, y)
    first, second = (rank[name] for rank in ranks)
    exactly = {"rtol": 0, "atol": 1e-10}
    torch.testing.assert_close((first["values"] + second["values"]) / 2, alone["values"], **exactly)
    torch.testing.assert_close(first["gradients"], alone["gradients"], **exactly)
    assert alone["gradients"].any(dim=1).all()
    if name == "DMI with memory":
        torch.testing.assert_close(first["joint_memory"], alone["joint_memory"], **exactly)
        assert torch.equal(first["joint_memory"], second["joint_memory"])
    if name != "CE":
        assert torch.equal(first["values"], second["values"])


def test_ranks_gather_tensors_of_uneven_length_in_their_order(ranks: list[dict[str, dict[str, Tensor]]]) -> None:
    _, x, y = whole_batch()
    for rank in ranks:
        assert torch.equal(rank["gathered"]["x"], x)
        assert torch.equal(rank["gathered"]["y"], y)
        assert torch.equal(rank["gathered"]["from rank 1"], y[:3])


def test_the_u_of_a_split_is_summed_over_uneven_ranks(ranks: list[dict[str, dict[str, Tensor]]]) -> None:
    net, x, y = whole_batch()
    for rank in ranks:
        np.testing.assert_allclose(rank["metric"]["joint"], numpy_joint(net(x).softmax(1), y), rtol=1e-12)
        np.testing.assert_allclose(rank["metric"]["of rank 1 alone"], numpy_joint(net(x).softmax(1), y), rtol=1e-12)
