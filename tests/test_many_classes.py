"""Hundreds of classes: one factorisation for a step of L_DMI, and an estimate for the test of singularity."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from ldmi_lightning.errors import UserError
from ldmi_lightning.joint import (
    EXACT_CLASSES,
    SINGULAR_RCOND,
    factorise,
    inverse_columns,
    is_singular,
    joint_matrix,
    log_dmi,
)
from ldmi_lightning.losses import DMILoss, Predictions
from ldmi_lightning.transition import log_joint

MANY = EXACT_CLASSES + 44
"""More classes than are decided with the whole inverse."""


def learnt(num_classes: int, size: int, sure: float = 6.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return float64 logits of a model that has learnt something, and labels among which every class occurs."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.randperm(size, generator=rng) % num_classes
    logits = torch.randn(size, num_classes, generator=rng, dtype=torch.float64)
    logits[torch.arange(size), y] += sure
    return logits, y


def prepared(memory: float, logits: Tensor, y: Tensor) -> DMILoss:
    loss = DMILoss(memory)
    given = Predictions(logits.detach().softmax(1).float(), y, torch.arange(len(y)))
    loss.prepare(given, given)
    return loss


# -- a step -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_classes", "size"), [(3, 8), (100, 64), (MANY, 64), (MANY, MANY + 10), (1000, 64)])
def test_a_step_is_autograds_through_slogdet(num_classes: int, size: int) -> None:
    logits, y = learnt(num_classes, 3 * num_classes)
    loss = prepared(0.9, logits, y)
    before, batch, labels = loss.joint_memory, logits[:size].flip(1), y[:size]
    leaf, exact = batch.clone().requires_grad_(), batch.clone().requires_grad_()
    value = loss(leaf, labels, labels)
    value.backward()
    joint = 0.9 * before + 0.1 * joint_matrix(exact.softmax(1), labels)
    expected = -torch.linalg.slogdet(joint).logabsdet
    (expected / 0.1).backward()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    assert leaf.grad is not None
    assert exact.grad is not None
    assert exact.grad.any()
    torch.testing.assert_close(leaf.grad, exact.grad, rtol=1e-8, atol=1e-10 * exact.grad.abs().max().item())
    torch.testing.assert_close(loss.joint_memory, joint.detach(), rtol=1e-12, atol=1e-18)


def test_the_gradient_agrees_with_finite_differences_where_columns_are_solved_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ldmi_lightning.joint.EXACT_CLASSES", 2)
    logits, y = learnt(6, 60, sure=2)
    loss = prepared(0.5, logits, y).eval()
    scaled = lambda z: loss(z, y[:4], y[:4])  # noqa: E731
    # The gradient is the paper's: that of the value over 1 - m.
    leaf = logits[:4].clone().requires_grad_()
    (found,) = torch.autograd.grad(scaled(leaf), leaf)
    step = 1e-6 * torch.eye(24, dtype=torch.float64).reshape(24, 4, 6)
    slopes = torch.stack([(scaled(logits[:4] + each) - scaled(logits[:4] - each)) / 2e-6 for each in step])
    torch.testing.assert_close(found.flatten(), slopes / 0.5, rtol=1e-6, atol=1e-8)


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    logits, y = learnt(4, 40)
    leaf = logits.requires_grad_()
    with pytest.raises(UserError, match="no second derivative, which create_graph=True asks for"):
        torch.autograd.grad(DMILoss()(leaf, y, y), leaf, create_graph=True)


@pytest.mark.parametrize("num_classes", [5, MANY])
def test_the_columns_of_the_inverse_are_those_of_numpy(num_classes: int) -> None:
    joint = joint_matrix(*learnt(num_classes, 4 * num_classes))
    inverse = np.linalg.inv(joint.numpy())
    for y in (torch.tensor([1, 0, 1]), torch.arange(2 * num_classes) % num_classes):
        found = inverse_columns(factorise(joint), y)
        np.testing.assert_allclose(found, inverse[:, y].T, rtol=1e-9, atol=1e-12 * abs(inverse).max())
    assert log_dmi(joint, factorise(joint)).item() == pytest.approx(log_dmi(joint).item(), rel=1e-12)


def test_a_step_of_a_thousand_classes_costs_less_than_half_of_slogdet_inverse_and_gradient() -> None:
    logits, y = learnt(1000, 2000)
    loss = prepared(0.9, logits, y)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def step() -> None:
        loss(logits[:64].clone().requires_grad_(), y[:64], y[:64]).backward()

    def three_factorisations() -> None:
        joint = loss.joint_memory.clone().requires_grad_()
        torch.linalg.inv_ex(joint.detach())
        torch.linalg.slogdet(joint).logabsdet.backward()

    try:
        ours, theirs = (min(_seconds(each) for _ in range(3)) for each in (step, three_factorisations))
    finally:
        torch.set_num_threads(threads)
    assert ours < theirs / 2  # a quarter seen: 38 and 160 ms


def _seconds(call: Callable[[], None]) -> float:
    begun = time.process_time()
    call()
    return time.process_time() - begun


# -- what counts as singular ------------------------------------------------------------------------------------------


def exact_rcond(joint: Tensor) -> float:
    inverse = torch.linalg.inv_ex(joint).inverse
    return float(1 / (torch.linalg.matrix_norm(joint, 1) * torch.linalg.matrix_norm(inverse, 1)))


def awkward(num_classes: int, seed: int) -> Iterator[Tensor]:
    """Yield matrices from far above the threshold to singular, some of which hide it from the estimate's starts."""
    random = np.random.RandomState(seed)
    base = joint_matrix(*learnt(num_classes, 4 * num_classes, seed=seed)).numpy()
    eye, place = np.eye(num_classes), np.arange(num_classes)
    yield joint_matrix(*learnt(num_classes, 4 * num_classes, sure=0, seed=seed))
    yield torch.from_numpy(0.99 * base + 0.01 * np.outer(base.sum(1), base.sum(0)))
    constant = np.outer(base.sum(1), base.sum(0)).astype(np.float32).astype(float)
    yield torch.from_numpy(constant)
    yield torch.from_numpy(0.9 * constant + 0.1 * np.outer(base.sum(1), random.dirichlet(place + 1)))
    growing = (1 + place / (num_classes - 1)) * (1 - 2 * (place % 2))
    signs = [np.sign(np.cos(factor * place**2)) for factor in (1, 2)]
    starts = np.stack([np.ones(num_classes), growing, *signs], axis=1)
    for power in (2, 5, 6.5, 7.5, 9, 12, 15):
        small = 10.0**-power
        one, other = random.choice(num_classes, 2, replace=False)
        for alike in (base.copy(), base.T.copy().T):
            alike[one] = alike[other] + small * alike[one]
            yield torch.from_numpy(alike)
        rare = base.copy()
        rare[:, one] *= small
        yield torch.from_numpy(rare)
        left, right = random.standard_normal((2, num_classes, 3))
        left, right = (each - starts @ np.linalg.lstsq(starts, each, rcond=None)[0] for each in (left, right))
        yield torch.from_numpy(np.linalg.inv(eye + left @ right.T / small / num_classes) / num_classes)
    for where in (0, num_classes // 2, num_classes - 1):
        for missing in (base.copy(), base.T.copy()):
            missing[where] = 0
            yield torch.from_numpy(missing)
            yield torch.from_numpy(np.ascontiguousarray(missing.T))


@pytest.mark.parametrize(("num_classes", "seed"), [(6, 0), (40, 1), (40, 2), (MANY, 0)])
def test_the_estimate_decides_as_the_whole_inverse_does(
    monkeypatch: pytest.MonkeyPatch, num_classes: int, seed: int
) -> None:
    monkeypatch.setattr("ldmi_lightning.joint.EXACT_CLASSES", 2)
    decisions = []
    for number, joint in enumerate(awkward(num_classes, seed)):
        exact = exact_rcond(joint)
        assert factorise(joint).inverse is None
        decisions.append(is_singular(joint).item())
        assert decisions[-1] == (not exact >= SINGULAR_RCOND), f"matrix {number}: {exact}"
    assert 5 < sum(decisions) < len(decisions) - 5


def test_a_thousand_classes_stand_far_from_the_threshold_on_either_side() -> None:
    """Reciprocal condition numbers: 5e-3 with a memory, 6e-5 with a rare class, 3e-14 of outputs that differ by rounding."""
    logits, y = learnt(1000, 3000)
    whole = joint_matrix(logits.softmax(1), y)
    batch = joint_matrix(logits[:64].softmax(1), y[:64])
    good = 0.9 * whole + 0.1 * batch
    rare = whole.clone()
    rare[7] *= 1e-3  # one sample in a million
    rounding = 1e-7 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    constant = joint_matrix((logits[:1].float() + rounding).softmax(1), y)
    mixed = 0.9 * constant.float().double() + 0.1 * joint_matrix(logits[:1].expand(64, -1).softmax(1), y[:64])
    for joint, singular in ((good, False), (rare, False), (batch, True), (constant, True), (mixed, True)):
        assert is_singular(joint).item() is singular
    assert exact_rcond(good) > 1e-3
    assert exact_rcond(rare) > 1e-5
    assert exact_rcond(mixed) < 1e-12


@pytest.mark.parametrize("fault", ["constant outputs", "NaN", "a class is never predicted"])
def test_a_singular_step_of_many_classes_is_a_zero_leaves_the_memory_and_is_counted(fault: str) -> None:
    logits, y = learnt(MANY, 2 * MANY)
    if fault == "constant outputs":
        logits = torch.zeros_like(logits)
    elif fault == "a class is never predicted":
        logits[:, 3] = -torch.inf
    loss = prepared(0.9, logits, y)
    before = loss.joint_memory.clone()
    leaf = logits[:64].clone()
    if fault == "NaN":
        leaf[5, 3] = torch.nan
    value = loss(leaf.requires_grad_(), y[:64], y[:64])
    value.backward()
    assert value.item() == 0
    assert (int(loss.steps), int(loss.singular_steps)) == (1, 1)
    assert torch.equal(loss.joint_memory, before)
    assert leaf.grad is not None
    assert fault == "NaN" or not leaf.grad.any()


# -- what is said of an epoch without a direction ---------------------------------------------------------------------


def said(logits: Tensor, y: Tensor, memory: float, batch: Tensor | None = None) -> str:
    loss = prepared(memory, logits, y)
    loss(logits[:32] if batch is None else batch, y[:32], y[:32])
    with pytest.raises(UserError, match="All 1 steps of this epoch had a singular") as raised:
        loss.end_epoch()
    assert "memory" not in str(raised.value) or memory == 0
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("memory", [0.1, 0.5, 0.9, 0.99])
def test_with_a_memory_the_classes_are_named_that_the_warm_up_never_predicts(memory: float) -> None:
    logits, y = learnt(20, 400)
    logits[:, [3, 17]] = -torch.inf
    message = said(logits, y, memory)
    assert (
        "never predicts class 3, 17. Try a longer warm-up (--model.warmup.epochs) or a larger --data.batch_size"
        in message
    )


def test_with_a_memory_long_lists_are_cut() -> None:
    logits, y = learnt(20, 400)
    logits[:, 4:] = -torch.inf
    assert "never predicts class 4, 5, 6, 7, 8 and 11 more." in said(logits, y, 0.9)


def test_with_a_memory_other_reasons_are_not_guessed() -> None:
    logits, y = learnt(20, 400)
    for batch in (None, torch.full_like(logits[:32], torch.nan)):
        outputs = torch.zeros_like(logits) if batch is None else logits
        assert "the outputs do not tell some classes apart, or are constant or NaN. Try a longer" in said(
            outputs, y, 0.9, batch
        )


# -- forward correction -----------------------------------------------------------------------------------------------


def test_the_joint_probabilities_of_few_samples_are_those_of_many() -> None:
    logits, y = learnt(20, 60)
    transition = torch.rand(20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    transition[3] = 0
    for log_probs in (logits.log_softmax(1), logits.float().log_softmax(1)):
        many = log_joint(log_probs, y, transition)
        assert many.isfinite().all()
        assert torch.equal(torch.cat([log_joint(log_probs[:19], y[:19], transition), many[19:]]), many)
