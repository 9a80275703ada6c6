"""U, log |det U| and normalised DMI: closed forms, invariances, and NumPy as an outside oracle."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import gradcheck

from ldmi_lightning.joint import dmi_normalised, is_singular, joint_matrix, joint_sum, log_dmi

CLASSES = [2, 10, 14, 100]
SHARE = st.floats(0.01, 0.99)


def sample(num_classes: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return random softmax outputs, and labels among which every class occurs."""
    rng = torch.Generator().manual_seed(seed)
    probs = torch.randn(size, num_classes, generator=rng, dtype=torch.float64).softmax(1)
    return probs, torch.randperm(size, generator=rng) % num_classes


# The matrix


@pytest.mark.parametrize("num_classes", CLASSES)
def test_u_is_the_mean_of_onehot_label_times_prediction(num_classes: int) -> None:
    probs, y = sample(num_classes, size=3 * num_classes)
    onehot = np.eye(num_classes)[y.numpy()]
    expected = onehot.T @ probs.numpy() / len(y)
    np.testing.assert_allclose(joint_matrix(probs, y), expected, rtol=1e-12)
    np.testing.assert_allclose(joint_sum(probs, y), expected * len(y), rtol=1e-12)


def test_u_is_float64_however_coarse_the_predictions() -> None:
    probs, y = sample(10, size=30)
    assert joint_matrix(probs.float(), y).dtype == torch.float64
    assert joint_matrix(probs.bfloat16(), y).dtype == torch.float64


# Its determinant


@pytest.mark.parametrize("num_classes", [*CLASSES, 1000])
def test_log_dmi_is_the_logarithm_of_the_absolute_determinant(num_classes: int) -> None:
    joint = joint_matrix(*sample(num_classes, size=3 * num_classes))
    assert log_dmi(joint).item() == pytest.approx(np.linalg.slogdet(joint.numpy()).logabsdet, rel=1e-10)


@given(prior=SHARE, sensitivity=SHARE, specificity=SHARE, flip_0=SHARE, flip_1=SHARE)
@settings(deadline=None, max_examples=50, derandomize=True)
def test_two_classes_give_prior_times_noise_times_youdens_index(
    prior: float, sensitivity: float, specificity: float, flip_0: float, flip_1: float
) -> None:
    transition = np.array([[1 - flip_0, flip_0], [flip_1, 1 - flip_1]])
    clean = np.diag([1 - prior, prior]) @ [[specificity, 1 - specificity], [1 - sensitivity, sensitivity]]
    dmi = log_dmi(torch.from_numpy(transition.T @ clean)).exp().item()
    youden = sensitivity + specificity - 1
    assert dmi == pytest.approx(abs(prior * (1 - prior) * (1 - flip_0 - flip_1) * youden), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("num_classes", CLASSES)
@pytest.mark.parametrize("kind", ["random", "nothing stays on the diagonal", "negative entries"])
def test_label_noise_t_shifts_log_dmi_by_exactly_log_det_t(kind: str, num_classes: int) -> None:
    rng = np.random.RandomState(num_classes)
    transition = {
        "random": rng.dirichlet(np.ones(num_classes), size=num_classes),
        "nothing stays on the diagonal": np.roll(np.eye(num_classes), 1, axis=1),
        "negative entries": rng.normal(1 / num_classes, size=(num_classes, num_classes)),
    }[kind]
    transition /= transition.sum(axis=1, keepdims=True)
    probs, y = sample(num_classes, size=5 * num_classes)
    # The noisy label of sample i is j with probability T[y_i, j]: this is U in expectation over the noise.
    noisy = torch.from_numpy(transition[y.numpy()].T @ probs.numpy() / len(y))
    shift = np.linalg.slogdet(transition).logabsdet
    assert log_dmi(noisy).item() == pytest.approx(log_dmi(joint_matrix(probs, y)).item() + shift, rel=1e-9)


@given(data=st.data(), num_classes=st.integers(2, 14))
@settings(deadline=None, max_examples=50, derandomize=True)
def test_names_of_outputs_and_labels_do_not_matter(data: st.DataObject, num_classes: int) -> None:
    outputs = data.draw(st.permutations(range(num_classes)))
    labels = torch.tensor(data.draw(st.permutations(range(num_classes))))
    probs, y = sample(num_classes, size=4 * num_classes)
    renamed = joint_matrix(probs[:, outputs], labels[y])
    torch.testing.assert_close(log_dmi(renamed), log_dmi(joint_matrix(probs, y)), rtol=1e-10, atol=0)
    torch.testing.assert_close(dmi_normalised(renamed), dmi_normalised(joint_matrix(probs, y)), rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    "joint",
    [
        torch.zeros(3, 3),
        torch.full((3, 3), 1 / 9),
        torch.diag(torch.tensor([0.5, 0.5, 0.0])),
        torch.full((3, 3), torch.nan),
    ],
    ids=["zero", "rank one", "missing class", "NaN"],
)
def test_log_dmi_of_a_singular_u_is_c_times_the_log_of_the_smallest_normal_double(joint: Tensor) -> None:
    assert log_dmi(joint.double()).item() == pytest.approx(3 * np.log(sys.float_info.min), rel=1e-12)


# Gradients


@pytest.mark.parametrize("num_classes", CLASSES)
def test_gradient_of_log_dmi_is_the_labels_column_of_the_inverse_over_n(num_classes: int) -> None:
    probs, y = sample(num_classes, size=3 * num_classes)
    probs.requires_grad_()
    joint = joint_matrix(probs, y)
    log_dmi(joint).backward()
    inverse = np.linalg.inv(joint.detach().numpy())
    scale = np.abs(inverse).max() / len(y)
    np.testing.assert_allclose(probs.grad, inverse[:, y].T / len(y), rtol=1e-9, atol=1e-9 * scale)


def test_gradients_agree_with_finite_differences() -> None:
    probs, y = sample(4, size=12)
    logits = probs.log().requires_grad_()
    joint = joint_matrix(probs, y).requires_grad_()
    assert gradcheck(lambda z: joint_sum(z, y), (logits,))
    assert gradcheck(lambda z: joint_matrix(z.softmax(1), y), (logits,))
    assert gradcheck(log_dmi, (joint,))
    assert gradcheck(dmi_normalised, (joint,))


# What counts as singular


@pytest.mark.parametrize("num_classes", [2, 3, 5, 10, 14, 50, 100, 300, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_constant_outputs_are_singular(num_classes: int, seed: int) -> None:
    probs, y = sample(num_classes, size=8192, seed=seed)
    assert is_singular(joint_matrix(probs[:1].expand_as(probs), y))


@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_a_missing_class_is_singular_whichever_it_is(num_classes: int) -> None:
    probs, y = sample(num_classes, size=8 * num_classes)
    for missing in range(num_classes):
        assert is_singular(joint_matrix(probs[y != missing], y[y != missing]))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_single_entry_that_is_no_number_is_singular(value: float) -> None:
    joint = torch.eye(10).double() / 10
    joint[3, 7] = value
    assert is_singular(joint)


def test_a_hundred_classes_in_batches_of_64_are_not_singular_with_a_memory() -> None:
    probs, y = sample(100, size=10_000)
    learnt = (probs.log() + 5 * torch.eye(100)[y]).softmax(1)
    batch = joint_matrix(learnt[:64], y[:64])
    assert is_singular(batch)
    assert not is_singular(0.99 * joint_matrix(learnt, y) + 0.01 * batch)


@pytest.mark.parametrize("num_classes", CLASSES)
def test_a_class_with_one_sample_in_a_million_is_not_singular(num_classes: int) -> None:
    confusion = torch.full((num_classes, num_classes), 0.2 / num_classes).double() + 0.8 * torch.eye(num_classes)
    shares = torch.full((num_classes, 1), 1 / (num_classes - 1)).double()
    shares[-1] = 1e-6
    assert not is_singular(shares * confusion)


# Normalised DMI


@given(st.integers(2, 6).flatmap(lambda c: arrays(np.float64, (c, c), elements=st.floats(0.01, 1))))
@settings(deadline=None, max_examples=100, derandomize=True)
def test_normalised_dmi_is_the_det_over_the_class_shares_and_lies_in_0_1(joint: NDArray[np.float64]) -> None:
    joint = joint / joint.sum()
    assume(np.linalg.cond(joint) < 1e6)
    expected = (abs(np.linalg.det(joint)) / joint.sum(axis=1).prod()) ** (1 / len(joint))
    assert 0 <= expected <= 1 + 1e-12
    assert dmi_normalised(torch.from_numpy(joint)).item() == pytest.approx(expected, rel=1e-8)


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=100))
@settings(deadline=None, max_examples=50, derandomize=True)
def test_perfect_predictions_have_normalised_dmi_one_whatever_the_class_balance(counts: list[int]) -> None:
    joint = torch.diag(torch.tensor(counts).double() / sum(counts))
    assert dmi_normalised(joint).item() == pytest.approx(1, rel=1e-10)
    assert dmi_normalised(joint.flip(1)).item() == pytest.approx(1, rel=1e-10)


def test_normalised_dmi_is_zero_for_constant_outputs_and_exactly_so_for_a_missing_class() -> None:
    constant = torch.tensor([0.5, 0.3, 0.2]).double().outer(torch.tensor([0.1, 0.2, 0.7]).double())
    assert dmi_normalised(constant).item() == pytest.approx(0, abs=1e-5)
    assert dmi_normalised(torch.diag(torch.tensor([0.5, 0.5, 0.0]).double())).item() == 0
