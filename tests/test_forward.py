"""FW and the estimates of T against their definitions, sample by sample, and what holds for any T."""

import math
from fractions import Fraction
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gce import batch_of, softmax
from torch import Tensor
from torch.autograd import gradcheck

from ldmi_lightning.errors import UserError
from ldmi_lightning.likelihood import counted_transition, fit_transition
from ldmi_lightning.losses import CELoss, ForwardLoss, Predictions
from ldmi_lightning.transition import (
    anchor_transition,
    held_out_transition,
    log_joint,
    noisy_probabilities,
    posterior_sums,
    renewed_transition,
    smoothed_transition,
)

Rows = list[list[float]]


def predictions(logits: Tensor, y: Tensor) -> Predictions:
    return Predictions(logits.detach().softmax(1).float(), y, torch.arange(len(y)))


def random_transition(num_classes: int, seed: int = 0) -> Rows:
    rng = torch.Generator().manual_seed(seed)
    rows = torch.rand(num_classes, num_classes, generator=rng, dtype=torch.float64) + torch.eye(num_classes)
    return (rows / rows.sum(1, keepdim=True)).tolist()


def by_definition(logits: Tensor, y: Tensor, transition: Rows) -> tuple[float, Rows, Rows]:
    """Return the mean of -log (p T)_y, its gradient for the logits, and the posteriors' sums per true and noisy label."""
    classes = range(logits.shape[1])
    value, gradient, sums = 0.0, [], [[0.0 for _ in classes] for _ in classes]
    for row, label in zip(logits.tolist(), y.tolist(), strict=True):
        p = softmax(row)
        noisy = sum(p[k] * transition[k][label] for k in classes)
        posterior = [p[k] * transition[k][label] / noisy for k in classes]
        value -= math.log(noisy) / len(y)
        gradient.append([(p[k] - posterior[k]) / len(y) for k in classes])
        for k in classes:
            sums[k][label] += posterior[k]
    return value, gradient, sums


def anchors_by_definition(probs: Rows) -> Rows:
    """Return for each class the output of the sample with the highest probability of it, the first of several."""
    found = []
    for k in range(len(probs[0])):
        best = 0
        for i, row in enumerate(probs):
            if row[k] > probs[best][k]:
                best = i
        found.append([value / sum(probs[best]) for value in probs[best]])
    return found


def held_out_by_definition(probs: Rows, y: list[int]) -> list[list[Fraction]]:
    """Return the share of each label among the samples predicted as each class."""
    classes = range(len(probs[0]))
    counts = [[0 for _ in classes] for _ in classes]
    for row, label in zip(probs, y, strict=True):
        counts[row.index(max(row))][label] += 1
    return [[Fraction(count, sum(row)) for count in row] for row in counts]


def close(found: Tensor, expected: Rows) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-14)


# -- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_value_and_gradient_are_those_of_the_definition(num_classes: int) -> None:
    logits, y = batch_of(num_classes, size=64)
    transition = random_transition(num_classes)
    value = ForwardLoss(transition)(logits.requires_grad_(), y, y)
    value.backward()
    expected, gradient, _ = by_definition(logits, y, transition)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    assert logits.grad is not None
    close(logits.grad, gradient)


def test_the_gradient_agrees_with_finite_differences() -> None:
    logits, y = batch_of(4, size=8)
    loss = ForwardLoss(random_transition(4))
    assert gradcheck(lambda z: loss(z, y, y), (logits.requires_grad_(),))


@given(num_classes=st.integers(2, 14), size=st.integers(1, 20), seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=30, derandomize=True)
def test_with_the_identity_it_is_cross_entropy(num_classes: int, size: int, seed: int) -> None:
    logits, y = batch_of(num_classes, size, seed)
    loss = ForwardLoss(torch.eye(num_classes).tolist())
    torch.testing.assert_close(loss(logits, y, y), CELoss()(logits, y, y), rtol=1e-12, atol=1e-15)


@given(num_classes=st.integers(2, 14), size=st.integers(1, 20), seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=30, derandomize=True)
def test_it_is_the_likelihood_of_the_noisy_labels(num_classes: int, size: int, seed: int) -> None:
    logits, y = batch_of(num_classes, size, seed)
    loss = ForwardLoss(random_transition(num_classes, seed))
    noisy = loss.noisy_probs(logits.softmax(1))
    torch.testing.assert_close(noisy.sum(1), torch.ones(size, dtype=torch.float64))
    torch.testing.assert_close(loss(logits, y, y), -noisy[torch.arange(size), y].log().mean(), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noisy_probabilities_stay_in_their_precision_whatever_autocast_says(dtype: torch.dtype) -> None:
    probs, loss = batch_of(10, size=8)[0].softmax(1).to(dtype), ForwardLoss(random_transition(10))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        noisy = loss.noisy_probs(probs)
    assert noisy.dtype == dtype
    assert torch.equal(noisy, loss.noisy_probs(probs))


@pytest.mark.parametrize("far", [80.0, 3000.0])
def test_a_label_that_the_likely_class_never_carries_has_a_finite_gradient(far: float) -> None:
    # The net is sure of class 0, which never carries label 1: all of its mass should go to class 1.
    logits = torch.tensor([[far, -far]], requires_grad=True)
    y = torch.tensor([1])
    value = ForwardLoss([[1.0, 0.0], [0.5, 0.5]])(logits, y, y)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()
    if far == 80:
        assert value.item() == pytest.approx(160 + math.log(2), rel=1e-6)
        assert logits.grad.tolist() == [[1.0, -1.0]]


def test_a_label_that_no_class_carries_teaches_nothing() -> None:
    logits = torch.tensor([[1.0, -1.0]], requires_grad=True)
    value = ForwardLoss([[1.0, 0.0], [1.0, 0.0]])(logits, torch.tensor([1]), torch.tensor([0]))
    value.backward()
    assert value.isfinite()
    torch.testing.assert_close(logits.grad, torch.zeros(1, 2), rtol=0, atol=1e-4)  # next to a value of 708


# -- estimates of T ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [2, 10, 14])
def test_the_estimates_are_those_of_their_definitions(num_classes: int) -> None:
    logits, y = batch_of(num_classes, size=40 * num_classes)
    train, held_out = predictions(logits, y), predictions(logits.flip(0), y)
    probs = held_out.probs.double().tolist()
    anchor, found = ForwardLoss("anchor"), ForwardLoss("held_out")
    anchor.prepare(train, held_out)
    found.prepare(train, held_out)
    close(anchor.transition, anchors_by_definition(train.probs.double().tolist()))
    counted = held_out_transition(held_out.probs, y)
    close(counted, [[float(share) for share in row] for row in held_out_by_definition(probs, y.tolist())])
    np.testing.assert_array_equal(counted, counted_transition(held_out.probs.double().numpy(), y.numpy()))
    np.testing.assert_array_equal(found.transition, fit_transition(held_out.probs.numpy(), y.numpy()).transition)
    for loss in (anchor, found):
        assert loss.transition.dtype == torch.float64
        torch.testing.assert_close(loss.transition.sum(1), torch.ones(num_classes, dtype=torch.float64))
        value = loss(logits, y, y)
        assert value.item() == pytest.approx(by_definition(logits, y, loss.transition.tolist())[0], rel=1e-12)


def test_several_anchors_give_the_first() -> None:
    probs = torch.tensor([[0.5, 0.5], [0.75, 0.25], [0.75, 0.25], [0.5, 0.5]])
    assert anchor_transition(probs).tolist() == [[0.75, 0.25], [0.5, 0.5]]


def test_anchors_of_the_true_outputs_give_the_true_matrix() -> None:
    truth = random_transition(5)
    clean = torch.cat([batch_of(5, size=50)[0].softmax(1), torch.eye(5, dtype=torch.float64)])
    close(anchor_transition(clean @ torch.tensor(truth, dtype=torch.float64)), truth)


@given(data=st.data(), num_classes=st.integers(2, 6), size=st.integers(1, 30))
@settings(deadline=None, max_examples=30, derandomize=True)
def test_every_estimate_has_rows_that_sum_to_1(data: st.DataObject, num_classes: int, size: int) -> None:
    logits, y = batch_of(num_classes, size, data.draw(st.integers(0, 2**32)))
    probs, before = logits.softmax(1), torch.tensor(random_transition(num_classes), dtype=torch.float64)
    sums = posterior_sums(log_joint(probs.log(), y, before), y)
    counts = torch.randint(5, (num_classes, num_classes))
    estimates = [anchor_transition(probs), renewed_transition(before, sums), smoothed_transition(counts, 0.5)]
    estimates.append(held_out_transition(probs, y))
    for each in estimates:
        assert each.dtype == torch.float64
        assert each.is_contiguous()
        assert ((each >= 0) & (each <= 1)).all()
        torch.testing.assert_close(each.sum(1), torch.ones(len(each), dtype=torch.float64))


def test_row_of_a_class_that_is_never_predicted_is_weighted_by_the_outputs() -> None:
    probs = torch.tensor([[0.7, 0.1, 0.2], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]], dtype=torch.float64)
    estimate = held_out_transition(probs, torch.tensor([0, 1, 2]))
    expected = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.6, 0.2], [0.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(estimate, expected)


def test_row_of_a_class_to_which_the_outputs_give_nothing_is_the_shares_of_the_labels() -> None:
    probs = torch.eye(3)[[0, 0, 1, 1]]
    estimate = held_out_transition(probs, torch.tensor([0, 1, 1, 2]))
    assert estimate.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.25, 0.5, 0.25]]


# -- renewing T -------------------------------------------------------------------------------------------------------


def test_t_is_renewed_from_the_posteriors_of_each_epoch() -> None:
    transition = random_transition(5)
    loss = ForwardLoss(transition, renew=True)
    for epoch in range(3):
        total = [[0.0] * 5 for _ in range(5)]
        for step in range(4):
            logits, y = batch_of(5, size=32, seed=10 * epoch + step)
            assert loss(logits, y, y).item() == pytest.approx(by_definition(logits, y, transition)[0], rel=1e-10)
            close(loss.transition, transition)
            for mine, row in zip(total, by_definition(logits, y, transition)[2], strict=True):
                mine[:] = [a + b for a, b in zip(mine, row, strict=True)]
        loss.end_epoch()
        transition = [[value / sum(row) for value in row] for row in total]
        close(loss.transition, transition)
    loss.end_epoch()  # of an epoch without a step
    close(loss.transition, transition)


def test_without_renewing_t_stays() -> None:
    loss, (logits, y) = ForwardLoss(random_transition(5)), batch_of(5, size=32)
    loss(logits, y, y)
    loss.end_epoch()
    close(loss.transition, random_transition(5))


eighths = st.lists(st.integers(0, 8), min_size=1, max_size=1).map(lambda cut: [cut[0], 8 - cut[0]])


@given(outputs=st.lists(eighths, min_size=1, max_size=6), rows=st.tuples(eighths, eighths))
@settings(deadline=None, max_examples=50, derandomize=True)
def test_the_true_matrix_is_a_fixed_point_on_exact_data(outputs: list[list[int]], rows: tuple[list[int], ...]) -> None:
    # Outputs and T in eighths: each sample occurs 64 times, (p T)_y of them with label y.
    labels, probs = [], []
    for p in outputs:
        for label in (0, 1):
            times = sum(p[k] * rows[k][label] for k in (0, 1))
            labels += [label] * times
            probs += [[value / 8 for value in p]] * times
    transition = torch.tensor(rows, dtype=torch.float64) / 8
    y = torch.tensor(labels)
    log_probs = torch.tensor(probs, dtype=torch.float64).clamp(min=1e-300).log()
    renewed = renewed_transition(transition, posterior_sums(log_joint(log_probs, y, transition), y))
    torch.testing.assert_close(renewed, transition, rtol=1e-10, atol=1e-12)


def test_a_row_without_mass_stays_as_it_is() -> None:
    before = torch.tensor([[0.75, 0.25], [0.5, 0.5]], dtype=torch.float64)
    sums = torch.tensor([[0.0, 0.0], [1.0, 3.0]], dtype=torch.float64)
    assert renewed_transition(before, sums).tolist() == [[0.75, 0.25], [0.25, 0.75]]


@pytest.mark.parametrize("source", ["anchor", "held_out"])
def test_t_and_its_outputs_are_bit_for_bit_the_same_after_a_state_dict(source: Literal["anchor", "held_out"]) -> None:
    """Neither a state dict nor a buffer keeps strides, and p T with other strides differs in the last digits."""
    logits, y = batch_of(10, size=400)
    loss, fresh = ForwardLoss(source, renew=True), ForwardLoss(source, renew=True)
    loss.prepare(predictions(logits, y), predictions(logits, y))
    for _ in range(2):  # as estimated, and renewed
        assert loss.transition.is_contiguous()
        fresh.load_state_dict(loss.state_dict())
        probs = logits.float().softmax(1)
        assert torch.equal(fresh.noisy_probs(probs), loss.noisy_probs(probs))
        loss(logits, y, y)
        loss.end_epoch()


def test_it_is_selected_by_the_likelihood_of_the_noisy_labels() -> None:
    assert (ForwardLoss().monitor, ForwardLoss().mode) == ("val/nll", "min")


# -- state and settings -----------------------------------------------------------------------------------------------


def test_only_what_is_estimated_needs_predictions() -> None:
    assert [ForwardLoss(each).needs_predictions for each in ("anchor", "held_out", [[1.0, 0.0], [0.5, 0.5]])] == [
        True,
        True,
        False,
    ]


def test_before_it_is_prepared_it_has_no_loss_and_the_outputs_stand_for_themselves() -> None:
    logits, y = batch_of(3, size=8)
    loss, probs = ForwardLoss(), logits.softmax(1)
    assert loss.noisy_probs(probs) is probs
    with pytest.raises(UserError, match=r"no transition matrix for 3 classes: call prepare"):
        loss(logits, y, y)


def test_noisy_probabilities_are_p_t() -> None:
    assert noisy_probabilities(torch.tensor([[0.25, 0.75]]), torch.tensor([[1.0, 0.0], [0.5, 0.5]])).tolist() == [
        [0.625, 0.375]
    ]


def test_a_class_without_training_labels_is_refused() -> None:
    logits, y = batch_of(4, size=40)
    for source in ("anchor", "held_out"):
        with pytest.raises(UserError, match=r"labelled 2\. .*limit_train_batches.*--model\.STAGE\.loss\.transition"):
            ForwardLoss(source).prepare(predictions(logits, y.where(y != 2, 1)), predictions(logits, y))  # type: ignore[arg-type]


def test_held_out_needs_a_validation_set() -> None:
    logits, y = batch_of(4, size=40)
    nothing = Predictions(torch.empty(0, 0), torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    ForwardLoss("anchor").prepare(predictions(logits, y), nothing)
    with pytest.raises(UserError, match=r"validation set, but there is none.*transition anchor"):
        ForwardLoss("held_out").prepare(predictions(logits, y), nothing)


def test_a_matrix_must_have_a_row_for_each_class() -> None:
    ForwardLoss().check_setting(num_classes=10, batch_size=8)
    ForwardLoss([[1.0, 0.0], [0.5, 0.5]]).check_setting(num_classes=2, batch_size=8)
    with pytest.raises(UserError, match=r"matrix of 2 classes, but the data has 10"):
        ForwardLoss([[1.0, 0.0], [0.5, 0.5]]).check_setting(num_classes=10, batch_size=8)


def test_what_is_no_matrix_is_refused() -> None:
    with pytest.raises(UserError, match=r"row 0.*sums to 0\.9"):
        ForwardLoss([[0.5, 0.4], [0.0, 1.0]])
    with pytest.raises(UserError, match=r"'anchor', 'held_out' or a matrix, but got 'anker'"):
        ForwardLoss("anker")  # type: ignore[arg-type]
