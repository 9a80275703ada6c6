"""The posterior of each true label, the audit that is made of it, and its comparison with the truth."""

import subprocess
import sys

import numpy as np
import pytest
from audit_data import class_dependent, known, symmetric
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from ldmi_lightning.audit import THRESHOLD, against_truth, audit, corrected, posterior
from ldmi_lightning.audit.posterior import VALUES_AT_ONCE, chunks, judge
from ldmi_lightning.audit.truth import auroc, average_precision
from ldmi_lightning.errors import UserError
from ldmi_lightning.likelihood import expected_counts, fit_transition, order_by_label


@given(seed=st.integers(0, 2**32 - 1), num_classes=st.integers(2, 6), size=st.integers(1, 30))
@settings(deadline=None, max_examples=50, derandomize=True)
def test_the_posterior_is_that_of_bayes_rule_sample_by_sample(seed: int, num_classes: int, size: int) -> None:
    random = np.random.RandomState(seed)
    q, y = random.dirichlet(np.ones(num_classes), size), random.randint(num_classes, size=size)
    transition = random.dirichlet(np.ones(num_classes), num_classes)
    found = posterior(q, y, transition)
    for i in range(size):
        likelihoods = [q[i, k] * transition[k, y[i]] for k in range(num_classes)]
        assert found[i].tolist() == pytest.approx([each / sum(likelihoods) for each in likelihoods], rel=1e-9)
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_the_posterior_of_exact_probabilities_is_a_share_of_right_labels() -> None:
    data = known(class_dependent(4, 0.6), size=50_000, seed=0, rarest=1 / 9, distance=1.5)
    quality = posterior(data.probs, data.given, data.transition)[np.arange(50_000), data.given]
    for low in np.arange(0, 1, 0.1):
        inside = (quality >= low) & (quality < low + 0.1)
        right = (data.given == data.true)[inside]
        assert right.mean() == pytest.approx(quality[inside].mean(), abs=4 / np.sqrt(len(right)) * 0.5)


def test_a_label_that_no_class_can_have_made_leaves_the_outputs_alone() -> None:
    transition = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert posterior(np.array([[0.3, 0.7]]), np.array([1]), transition).tolist() == [[0.3, 0.7]]


def test_samples_are_judged_in_parts_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = known(symmetric(5, 0.3), size=1000, seed=1)
    whole = judge(data.probs, data.given, data.transition)
    monkeypatch.setattr(sys.modules["ldmi_lightning.audit.posterior"], "VALUES_AT_ONCE", 37)
    parts = judge(data.probs, data.given, data.transition)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    np.testing.assert_allclose(whole.counts, expected_counts(data.probs, data.given, data.transition), rtol=1e-9)
    assert len(list(chunks(3, VALUES_AT_ONCE))) == 3


def test_labels_are_ordered_in_linear_time_as_in_any_other() -> None:
    y = np.random.RandomState(0).randint(70_000, size=5000)
    assert order_by_label(y).tolist() == np.argsort(y, kind="stable").tolist()
    assert order_by_label(y % 7).tolist() == np.argsort(y % 7, kind="stable").tolist()


# -- the audit --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_an_audit_finds_what_was_injected(dtype: type[np.floating]) -> None:
    data = known(class_dependent(6, 0.6), size=8000, seed=2)
    found = audit(data.probs.astype(dtype), data.given)
    assert found.temperature == pytest.approx(1, abs=0.15)
    np.testing.assert_allclose(found.transition.value, data.transition, atol=0.06)
    np.testing.assert_allclose(found.priors.value, np.full(6, 1 / 6), atol=0.02)
    assert found.wrong.value == pytest.approx((data.given != data.true).sum(), rel=0.02)
    assert found.wrong_by_class.value.sum() == pytest.approx(found.wrong.value)
    assert found.wrong.low < found.wrong.value < found.wrong.high
    truth = against_truth(found, data.true)
    assert truth["auroc"] > 0.98
    assert truth["corrected_accuracy"] > 0.95
    assert truth["precision_at"][100] == 1
    assert truth["wrong_in_interval"] is True
    best = np.where(found.quality >= found.confidence, data.given, found.suggested)
    assert (best == found.suggested).all()
    assert (found.quality <= found.confidence).all()


def test_the_temperature_is_found_between_those_of_the_grid() -> None:
    data = known(symmetric(4, 0.3), size=10_000, seed=3, distance=2.0)
    sure = data.probs**2.5
    found = audit(sure / sure.sum(axis=1, keepdims=True), data.given)
    assert found.temperature == pytest.approx(2.5, rel=0.06)
    assert found.wrong.value == pytest.approx((data.given != data.true).sum(), rel=0.03)


def test_the_order_is_that_of_quality_and_of_equal_ones_that_of_positions() -> None:
    found = audit(np.eye(3)[[0, 1, 2, 0, 1, 2, 0]], np.array([0, 1, 2, 1, 1, 2, 0]))
    assert found.order.tolist() == [3, 0, 1, 2, 4, 5, 6]
    assert found.is_issue.tolist() == [False, False, False, True, False, False, False]


def test_the_same_seed_gives_the_same_audit_and_another_one_other_intervals_only() -> None:
    data = known(symmetric(3, 0.3), size=500, seed=4)
    first, again, other = (audit(data.probs, data.given, seed=seed) for seed in (1, 1, 2))
    assert first.wrong == again.wrong
    assert first.transition.low.tolist() == again.transition.low.tolist()
    assert first.wrong.value == other.wrong.value
    assert first.wrong.low != other.wrong.low


def test_t_is_that_of_the_fit_by_likelihood_where_the_grid_has_the_temperature() -> None:
    data = known(class_dependent(5, 0.4), size=5_000, seed=5)
    np.testing.assert_allclose(
        audit(data.probs, data.given).transition.value, fit_transition(data.probs, data.given).transition, atol=0.02
    )


def test_labels_are_corrected_from_a_threshold_on() -> None:
    data = known(symmetric(4, 0.3), size=1000, seed=6, distance=2.0)
    found = audit(data.probs, data.given)
    changed = [int((corrected(found, threshold) != data.given).sum()) for threshold in (0, 0.5, 0.8, 1)]
    assert changed == sorted(changed, reverse=True)
    assert changed[0] == found.is_issue.sum()
    labels = corrected(found)
    assert (labels == found.suggested)[found.confidence >= THRESHOLD].all()
    assert (labels == data.given)[found.confidence < THRESHOLD].all()
    with pytest.raises(UserError, match=r"must lie in 0\.\.1, but got 50"):
        corrected(found, 50)


# -- against the truth ------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 60), ties=st.integers(1, 20))
@settings(deadline=None, max_examples=50, derandomize=True)
def test_auroc_and_average_precision_are_those_of_scikit_learn(seed: int, size: int, ties: int) -> None:
    random = np.random.RandomState(seed)
    scores, is_wrong = random.randint(ties, size=size) / ties, random.random_sample(size) < 0.4
    is_wrong[:2] = True, False
    assert auroc(scores, is_wrong) == pytest.approx(roc_auc_score(is_wrong, scores))
    assert average_precision(scores, is_wrong) == pytest.approx(average_precision_score(is_wrong, scores))


def test_where_only_some_true_labels_are_known_the_others_count_for_nothing() -> None:
    data = known(symmetric(3, 0.3), size=2000, seed=7)
    found = audit(data.probs, data.given)
    unknown = np.arange(2000) % 2 == 0
    said = against_truth(found, np.where(unknown, -1, data.true))
    wrong = (data.given != data.true)[~unknown]
    assert (said["known"], said["wrong"]) == (1000, wrong.sum())
    assert said["auroc"] == pytest.approx(roc_auc_score(wrong, -found.quality[~unknown]))
    assert said["wrong_in_interval"] is None
    assert said["precision_at"][int(wrong.sum())] > 0.8


def test_where_no_label_is_wrong_there_is_nothing_to_rank() -> None:
    found = audit(np.eye(2)[[0, 1, 0]], np.array([0, 1, 0]))
    said = against_truth(found, np.array([0, 1, 0]))
    assert (said["auroc"], said["average_precision"], said["wrong"]) == (None, None, 0)
    assert said["wrong_in_interval"] is True


@pytest.mark.parametrize(
    ("true", "message"),
    [
        ([0, 1], r"There are 3 labels, but true ones of shape \(2,\)"),
        ([0, 1, 2], r"must lie in 0\.\.1, or be -1 where unknown, but go from 0 to 2"),
        ([-1, -1, -1], "No true label is known"),
    ],
)
def test_true_labels_that_cannot_be_are_refused(true: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        against_truth(audit(np.eye(2)[[0, 1, 0]], np.array([0, 1, 0])), np.array(true))


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probs", "y", "message"),
    [
        ([0.5, 0.5], [0], r"of shape \(2,\)"),
        ([[1.0], [1.0]], [0, 0], r"of shape \(2, 1\)"),
        (np.eye(2, dtype=np.int64), [0, 1], "are int64 of shape"),
        (np.empty((0, 2)), [], r"of shape \(0, 2\)"),
        ([[0.5, 0.5], [0.5, 0.5]], [0], r"2 rows of probabilities, but labels of shape \(1,\)"),
        ([[0.5, 0.5]], [0.0], "Labels must be integers from 0 on, but are float64"),
        ([[0.5, 0.5], [0.5, 0.5]], [0, 2], r"Labels must lie in 0\.\.1, .* but go from 0 to 2"),
        ([[0.5, 0.5], [0.5, 0.5]], [-1, 1], r"Labels must lie in 0\.\.1, .* but go from -1 to 1"),
        ([[0.5, 0.5], [np.nan, 0.5]], [0, 1], "row 1 holds nan"),
        ([[0.5, 0.5], [np.inf, 0.5]], [0, 1], "row 1 holds inf"),
        ([[1.5, -0.5], [0.5, 0.5]], [0, 1], "row 0 holds -0.5"),
        ([[2.0, -3.0], [0.5, 0.5]], [0, 1], "row 0 holds -3"),
        ([[0.5, 0.5], [0.5, 0.3]], [0, 1], "those of row 1 sum to 0.8"),
        (np.eye(3), [0, 1, 1], "No label is class 2, of 3 columns"),
    ],
)
@pytest.mark.parametrize("outputs", ["true", "given"])
def test_what_are_no_probabilities_of_these_labels_is_refused(
    probs: list[list[float]], y: list[int], message: str, outputs: str
) -> None:
    with pytest.raises(UserError, match=message):
        audit(np.array(probs), np.array(y), outputs=outputs)  # type: ignore[arg-type]


def test_outputs_of_nobody_are_refused() -> None:
    with pytest.raises(UserError, match="outputs must be 'true' or 'given', but got 'noisy'"):
        audit(np.eye(2), np.array([0, 1]), outputs="noisy")  # type: ignore[arg-type]


def test_neither_torch_nor_matplotlib_nor_jinja2_is_needed() -> None:
    code = (
        "import sys, ldmi_lightning.audit as a, numpy as np; a.audit(np.eye(2), np.array([0, 1])); "
        "sys.exit(bool({'torch', 'matplotlib', 'jinja2', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
