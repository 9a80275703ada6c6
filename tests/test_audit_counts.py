"""Decisions alone: the confident joint and what follows of it, for outputs of a model of the labels as given."""

import numpy as np
import pytest
from audit_data import class_dependent, known, noisy_posteriors, symmetric
from hypothesis import given, settings
from hypothesis import strategies as st

from ldmi_lightning.audit import against_truth, audit, confident_joint
from ldmi_lightning.audit.counts import calibrated, counted, thresholds


@given(seed=st.integers(0, 2**32 - 1), num_classes=st.integers(2, 5), size=st.integers(1, 40))
@settings(deadline=None, max_examples=50, derandomize=True)
def test_the_confident_joint_is_that_of_the_definition_sample_by_sample(seed: int, num_classes: int, size: int) -> None:
    random = np.random.RandomState(seed)
    probs, y = random.dirichlet(np.ones(num_classes), size), random.randint(num_classes, size=size)
    expected = np.zeros((num_classes, num_classes), dtype=int)
    own = [[probs[i, k] for i in range(size) if y[i] == k] for k in range(num_classes)]
    least = [sum(each) / len(each) - 1e-12 if each else np.inf for each in own]
    for i in range(size):
        sure = [k for k in range(num_classes) if probs[i, k] >= least[k]]
        if sure:
            expected[y[i], max(sure, key=lambda k: probs[i, k])] += 1
    assert confident_joint(probs, y).tolist() == expected.tolist()


def test_a_class_without_labels_is_never_confident() -> None:
    probs, y = np.array([[0.2, 0.3, 0.5], [0.4, 0.3, 0.3]]), np.array([1, 0])
    assert thresholds(probs, y).tolist() == [0.4, 0.3, np.inf]
    assert confident_joint(probs, y)[:, 2].sum() == 0


@given(seed=st.integers(0, 2**32 - 1), num_classes=st.integers(2, 6))
@settings(deadline=None, max_examples=50, derandomize=True)
def test_calibrated_counts_sum_to_the_labels_and_rows_of_t_to_1(seed: int, num_classes: int) -> None:
    random = np.random.RandomState(seed)
    joint = random.poisson(2, (num_classes, num_classes))
    labels = joint.sum(axis=1) + random.poisson(3, num_classes) + 1
    found = calibrated(joint, labels)
    np.testing.assert_allclose(found.transition.sum(axis=1), 1)
    assert found.priors.sum() == pytest.approx(1)
    assert found.wrong == pytest.approx(found.wrong_by_class.sum())
    assert ((found.wrong_by_class >= 0) & (found.wrong_by_class <= labels)).all()
    # What T makes of the true classes are the labels.
    np.testing.assert_allclose(found.priors @ found.transition * labels.sum(), labels, rtol=1e-9)


@pytest.mark.parametrize("transition", [symmetric(10, 0.4), class_dependent(10, 0.3), class_dependent(10, 0.6)])
def test_of_exact_noisy_posteriors_t_and_the_number_follow(transition: np.ndarray) -> None:
    data = known(transition, size=8000, seed=1)
    found = audit(noisy_posteriors(data), data.given, outputs="given")
    assert found.temperature is None
    np.testing.assert_allclose(found.transition.value, transition, atol=0.1)
    assert found.wrong.value == pytest.approx((data.given != data.true).sum(), rel=0.12)
    truth = against_truth(found, data.true)
    assert truth["auroc"] > 0.96
    assert truth["corrected_accuracy"] > truth["given_accuracy"] + 0.05


def test_where_a_class_loses_most_of_its_labels_the_rank_by_posterior_is_better_than_by_the_label_alone() -> None:
    data = known(class_dependent(10, 0.6), size=8000, seed=1)
    probs = noisy_posteriors(data)
    found = against_truth(audit(probs, data.given, outputs="given"), data.true)
    alone = np.argsort(probs[np.arange(8000), data.given])
    assert found["precision_at"][found["wrong"]] > 1.5 * (data.given != data.true)[alone][: found["wrong"]].mean()


def test_the_counts_of_likelihood_do_not_fit_outputs_of_the_labels_as_given() -> None:
    """T by likelihood is near the identity then: that is why decisions are counted."""
    data = known(symmetric(5, 0.4), size=5000, seed=2)
    probs = noisy_posteriors(data)
    wrong = (data.given != data.true).sum()
    assert audit(probs, data.given, outputs="true").wrong.value < 0.3 * wrong
    assert audit(probs, data.given, outputs="given").wrong.value == pytest.approx(wrong, rel=0.15)


def test_the_interval_is_as_wide_as_counts_vary_over_new_data() -> None:
    transition = class_dependent(4, 0.3)
    numbers = []
    for seed in range(40):
        data = known(transition, size=1000, seed=seed)
        numbers.append(audit(noisy_posteriors(data), data.given, outputs="given"))
    # Counts vary with the number of wrong labels in the data as well, which is some 150 with a deviation of 11.
    deviation = np.std([each.wrong.value for each in numbers])
    width = np.mean([(each.wrong.high - each.wrong.low) / 3.92 for each in numbers])
    assert width == pytest.approx(deviation, rel=0.35)


def test_counts_of_nothing_are_no_wrong_labels() -> None:
    transition, priors, wrong, _ = counted(np.zeros((2, 2), dtype=np.int64), np.array([3, 1]), np.random.RandomState(0))
    assert transition.value.tolist() == [[1, 0], [0, 1]]
    assert priors.value.tolist() == [0.75, 0.25]
    assert wrong == (0.0, 0.0, 0.0)
