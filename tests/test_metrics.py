"""DMI over a whole split: however it is cut into batches, it is the determinant of the sum."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ldmi_lightning.joint import dmi_normalised, joint_matrix
from ldmi_lightning.metrics import JointMatrix, NormalisedDMI


def split_of(size: int, num_classes: int = 3) -> tuple[Tensor, Tensor]:
    """Return softmax outputs that lean towards their labels."""
    rng = torch.Generator().manual_seed(size)
    y = torch.randperm(size, generator=rng) % num_classes
    return (torch.randn(size, num_classes, generator=rng) + 2 * torch.eye(num_classes)[y]).softmax(1), y


@given(st.lists(st.integers(1, 40), min_size=2, max_size=6))
@settings(deadline=None, max_examples=30, derandomize=True)
def test_uneven_batches_give_the_u_and_the_dmi_of_the_whole_split(sizes: list[int]) -> None:
    probs, y = split_of(sum(sizes))
    joint, normalised = JointMatrix(num_classes=3), NormalisedDMI(num_classes=3)
    for batch in zip(probs.split(sizes), y.split(sizes), strict=True):
        joint.update(*batch)
        normalised.update(*batch)
    whole = joint_matrix(probs, y)
    torch.testing.assert_close(joint.compute(), whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(normalised.compute(), dmi_normalised(whole), rtol=1e-10, atol=1e-12)


def test_the_determinant_of_the_mean_is_not_the_mean_of_the_determinants() -> None:
    metric, per_batch = NormalisedDMI(num_classes=2), NormalisedDMI(num_classes=2)
    for label in (0, 1):  # perfect predictions, but each batch holds one class only
        probs, y = torch.eye(2)[[label] * 5], torch.tensor([label] * 5)
        metric.update(probs, y)
        assert per_batch(probs, y) == 0
    assert metric.compute().item() == pytest.approx(1, rel=1e-12)


def test_the_sum_is_float64_for_float32_outputs() -> None:
    metric = JointMatrix(num_classes=2)
    for _ in range(100):
        metric.update(torch.tensor([[0.1, 0.9]]), torch.tensor([0]))
    exact = torch.tensor([[0.1, 0.9], [0.0, 0.0]]).double()  # the float32 numbers, widened
    torch.testing.assert_close(metric.compute(), exact / exact.sum(), rtol=1e-14, atol=0)


def test_reset_forgets_the_epoch_before() -> None:
    metric = NormalisedDMI(num_classes=3)
    metric.update(torch.full((3, 3), 1 / 3), torch.arange(3))
    assert metric.compute().item() == pytest.approx(0, abs=1e-5)
    metric.reset()
    metric.update(torch.eye(3), torch.arange(3))
    assert metric.compute().item() == pytest.approx(1)


def test_it_is_not_a_number_before_the_first_update() -> None:
    metric = JointMatrix(num_classes=3)
    with pytest.warns(UserWarning, match="compute"):
        found = metric.compute()
    assert found.dtype == torch.float64
    assert found.isnan().all()


def test_its_value_for_a_batch_is_that_of_the_batch_alone_and_the_sum_stays() -> None:
    metric = JointMatrix(num_classes=3)
    for size in (10, 20):
        probs, y = split_of(size)
        torch.testing.assert_close(metric(probs, y), joint_matrix(probs, y), rtol=1e-12, atol=0)
    both = torch.cat([split_of(10)[0], split_of(20)[0]]), torch.cat([split_of(10)[1], split_of(20)[1]])
    torch.testing.assert_close(metric.compute(), joint_matrix(*both), rtol=1e-12, atol=0)
