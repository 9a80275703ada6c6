"""GCE against its definition, sample by sample, and its limits: cross-entropy and the absolute error."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import CELoss, GCELoss


def batch_of(num_classes: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(size, num_classes, generator=rng, dtype=torch.float64)
    return logits, torch.randint(num_classes, (size,), generator=rng)


def softmax(row: list[float]) -> list[float]:
    """Return the softmax of one sample's logits."""
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


def by_definition(logits: Tensor, y: Tensor, q: float, k: float | None) -> tuple[float, list[list[float]]]:
    """Return the mean of (1 - p_y^q) / q, with (1 - k^q) / q where p_y <= k, and its gradient for the logits."""
    value, gradient = 0.0, []
    for row, label in zip(logits.tolist(), y.tolist(), strict=True):
        p = softmax(row)
        truncated = k is not None and p[label] <= k
        value += (1 - (k if truncated else p[label]) ** q) / q / len(y)
        weight = 0.0 if truncated else p[label] ** q / len(y)
        gradient.append([weight * (p[j] - (j == label)) for j in range(len(row))])
    return value, gradient


@pytest.mark.parametrize("num_classes", [2, 10, 100])
@pytest.mark.parametrize(("q", "k"), [(0.7, None), (0.7, 0.5), (0.05, None), (1.0, None), (1.0, 0.2), (0.3, 0.01)])
def test_value_and_gradient_are_those_of_the_definition(num_classes: int, q: float, k: float | None) -> None:
    logits, y = batch_of(num_classes, size=64)
    logits[:16] += 4 * torch.nn.functional.one_hot(y[:16], num_classes)  # some are above any k
    value = GCELoss(q, k)(logits.requires_grad_(), y, y)
    value.backward()
    expected, gradient = by_definition(logits, y, q, k)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(logits.grad, torch.tensor(gradient, dtype=torch.float64), rtol=1e-10, atol=1e-15)
    assert logits.grad.any()


@pytest.mark.parametrize("k", [None, 0.3])
def test_the_gradient_agrees_with_finite_differences(k: float | None) -> None:
    logits, y = batch_of(5, size=8)
    assert gradcheck(lambda z: GCELoss(0.7, k)(z, y, y), (logits.requires_grad_(),))


batches = st.tuples(st.integers(2, 14), st.integers(1, 20), st.integers(0, 2**32))


@given(batch=batches)
@settings(deadline=None, max_examples=30, derandomize=True)
def test_it_goes_to_cross_entropy_as_q_goes_to_0(batch: tuple[int, int, int]) -> None:
    logits, y = batch_of(*batch)
    # (1 - p^q) / q = -log p - q log^2 p / 2 + ...
    torch.testing.assert_close(GCELoss(1e-9)(logits, y, y), CELoss()(logits, y, y), rtol=1e-7, atol=1e-9)


@given(batch=batches)
@settings(deadline=None, max_examples=30, derandomize=True)
def test_at_1_it_is_half_the_absolute_error(batch: tuple[int, int, int]) -> None:
    logits, y = batch_of(*batch)
    absolute = (logits.softmax(1) - torch.nn.functional.one_hot(y, logits.shape[1])).abs().sum(1).mean()
    torch.testing.assert_close(GCELoss(1.0)(logits, y, y), absolute / 2, rtol=1e-10, atol=1e-14)


@given(batch=batches, q=st.floats(0.01, 1), k=st.floats(0.01, 0.99))
@settings(deadline=None, max_examples=30, derandomize=True)
def test_no_loss_is_above_that_of_an_impossible_label(batch: tuple[int, int, int], q: float, k: float) -> None:
    logits, y = batch_of(*batch)
    full, truncated = GCELoss(q)(logits, y, y).item(), GCELoss(q, k)(logits, y, y).item()
    assert 0 <= truncated <= full <= 1 / q + 1e-12
    assert truncated <= (1 - k**q) / q + 1e-12


def test_where_all_samples_are_truncated_there_is_a_value_and_no_gradient() -> None:
    logits = torch.zeros(3, 4, requires_grad=True)
    value = GCELoss(0.7, 0.5)(logits, torch.tensor([0, 1, 2]), torch.arange(3))
    value.backward()
    assert value.item() == pytest.approx((1 - 0.5**0.7) / 0.7)
    assert not logits.grad.any()


@pytest.mark.parametrize("q", [0.0, -0.5, 1.1, float("nan")])
def test_a_q_outside_0_1_is_refused(q: float) -> None:
    with pytest.raises(UserError, match=rf"q must lie in \(0, 1\], but got {q}.*0\.7"):
        GCELoss(q)


@pytest.mark.parametrize("k", [0.0, 1.0, -1.0, float("nan")])
def test_a_truncation_outside_0_1_is_refused(k: float) -> None:
    with pytest.raises(UserError, match=rf"truncation must lie in \(0, 1\) or be null, but got {k}.*0\.5"):
        GCELoss(0.7, k)
