"""Which stage to keep: scores by hand, who wins under class noise, and how often an equal one replaces another."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ldmi_lightning.decisions import FOLD_SEED, Comparison, compare, decision_scores, is_better
from ldmi_lightning.errors import UserError

Labels = NDArray[np.int64]

FLIPS = {9: 1, 2: 0, 4: 7, 3: 5}


def noisy_labels(clean: Labels, rate: float, seed: int) -> Labels:
    """Return CIFAR-10's class-dependent noise: four classes turn into others at a rate."""
    flipped = np.random.RandomState(seed).random_sample(len(clean)) < rate
    target = np.array([FLIPS.get(k, k) for k in range(10)])
    return np.where(flipped, target[clean], clean)


def wrong_at(clean: Labels, rate: float, seed: int) -> Labels:
    """Return a classifier's decisions that are wrong at a rate, by any other class."""
    random = np.random.RandomState(seed)
    others = (clean + random.randint(1, 10, len(clean))) % 10
    return np.where(random.random_sample(len(clean)) < rate, others, clean)


def by_definition(predicted: list[int], y: list[int], num_classes: int) -> list[float]:
    """Return the scores sample by sample, from lists."""
    order = np.random.RandomState(FOLD_SEED).permutation(len(y)).tolist()
    part = {position: place % 5 for place, position in enumerate(order)}
    found = []
    for i, (k, j) in enumerate(zip(predicted, y, strict=True)):
        others = [n for n in range(len(y)) if part[n] != part[i]]
        share = (sum(y[n] == j for n in others) + 1 / num_classes) / (len(others) + 1)
        same = [n for n in others if predicted[n] == k]
        found.append(math.log((sum(y[n] == j for n in same) + share) / (len(same) + 1)))
    return found


@given(data=st.data(), num_classes=st.integers(2, 6), size=st.integers(0, 40))
@settings(deadline=None, max_examples=50, derandomize=True)
def test_scores_are_those_of_the_definition(data: st.DataObject, num_classes: int, size: int) -> None:
    labels = st.lists(st.integers(0, num_classes - 1), min_size=size, max_size=size)
    predicted, y = data.draw(labels), data.draw(labels)
    found = decision_scores(np.array(predicted, dtype=np.int64), np.array(y, dtype=np.int64), num_classes)
    np.testing.assert_allclose(found, by_definition(predicted, y, num_classes), rtol=1e-12)


def test_five_samples_of_one_class_by_hand() -> None:
    # Each is alone in its part. The other four: label 0 four times, of two classes, so that s_0 = 4.5 / 5.
    scores = decision_scores(np.zeros(5, dtype=np.int64), np.zeros(5, dtype=np.int64), num_classes=2)
    np.testing.assert_allclose(np.exp(scores), (4 + 4.5 / 5) / 5, rtol=1e-12)


def test_scores_do_not_depend_on_the_seed_of_the_run() -> None:
    clean = np.arange(100) % 10
    np.random.seed(1)
    first = decision_scores(clean, clean, 10)
    np.random.seed(2)
    assert np.array_equal(decision_scores(clean, clean, 10), first)


# -- who wins ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.6, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_the_truth_beats_a_classifier_that_merges_two_classes_under_class_noise(rate: float, seed: int) -> None:
    """At rate 0.6 the merging classifier agrees better with the noisy labels: accuracy would keep it."""
    clean = np.random.RandomState(seed).randint(10, size=2000)
    noisy = noisy_labels(clean, rate, seed)
    merging = np.where(clean == 9, 1, clean)
    assert (merging == noisy).mean() > (clean == noisy).mean()
    truth, merged = (decision_scores(each, noisy, 10) for each in (clean, merging))
    assert compare(truth, merged).z > (5 if rate == 0.6 else 2)
    assert is_better(compare(truth, merged))
    assert not is_better(compare(merged, truth))


def test_of_two_classifiers_the_more_accurate_wins() -> None:
    clean = np.random.RandomState(0).randint(10, size=2000)
    noisy = noisy_labels(clean, 0.6, seed=0)
    scores = [decision_scores(wrong_at(clean, rate, seed=1), noisy, 10) for rate in (0.3, 0.2, 0.1, 0.0)]
    for worse, better in pairwise(scores):
        assert is_better(compare(better, worse))


def test_permuted_outputs_score_the_same() -> None:
    clean = np.random.RandomState(0).randint(10, size=500)
    noisy, predicted = noisy_labels(clean, 0.6, seed=0), wrong_at(clean, 0.2, seed=1)
    permuted = np.random.RandomState(2).permutation(10)[predicted]
    assert np.array_equal(decision_scores(permuted, noisy, 10), decision_scores(predicted, noisy, 10))


def test_identical_predictions_are_not_better() -> None:
    clean = np.random.RandomState(0).randint(10, size=500)
    scores = decision_scores(clean, noisy_labels(clean, 0.6, seed=0), 10)
    assert compare(scores, scores) == Comparison(0.0, 0.0, 0.0)
    assert not is_better(compare(scores, scores))


def test_an_equally_good_later_stage_replaces_the_kept_one_as_often_as_one_standard_error_says() -> None:
    """Two classifiers, each wrong on 20 % of the samples, others each time: 16 % of 500 is 80, with a deviation of 8."""
    replaced = 0
    for seed in range(500):
        clean = np.random.RandomState(seed).randint(10, size=1000)
        noisy = noisy_labels(clean, 0.6, seed + 1000)
        later, kept = (decision_scores(wrong_at(clean, 0.2, 2 * seed + k), noisy, 10) for k in (5000, 5001))
        replaced += is_better(compare(later, kept))
    assert abs(replaced - 80) < 3 * 8, replaced


# -- edges ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", range(7))
@pytest.mark.parametrize("num_classes", [2, 1000])
def test_few_samples_and_many_classes_give_finite_scores(size: int, num_classes: int) -> None:
    y = np.arange(size) % num_classes
    scores = decision_scores(np.zeros(size, dtype=np.int64), y, num_classes)
    assert scores.shape == (size,)
    assert np.isfinite(scores).all()
    assert (scores <= 0).all()
    found = compare(scores, np.zeros(size))
    assert not math.isnan(found.z)
    if size < 2:
        assert found.standard_error == math.inf
        assert not is_better(found)


def test_the_scores_of_a_table_with_a_row_for_each_label_sum_to_1() -> None:
    """Four samples are always in the same parts, so the chances of the fifth's labels must sum to 1."""
    y = np.array([0, 1, 1, 0, 0, 2, 1, 0])
    chances = []
    for label in range(3):
        labels = y.copy()
        labels[3] = label
        chances.append(math.exp(decision_scores(np.array([0, 1, 1, 0, 0, 2, 1, 0]), labels, 3)[3]))
    assert sum(chances) == pytest.approx(1, rel=1e-12)


def test_a_constant_difference_is_certain() -> None:
    assert compare(np.ones(3), np.zeros(3)) == Comparison(1.0, 0.0, math.inf)
    assert is_better(compare(np.ones(3), np.zeros(3)))
    assert compare(np.zeros(3), np.ones(3)).z == -math.inf


def test_what_cannot_be_compared_is_refused() -> None:
    two, three = np.zeros(2, dtype=np.int64), np.zeros(3, dtype=np.int64)
    with pytest.raises(UserError, match=r"2 predictions .* 3 labels"):
        decision_scores(two, three, 2)
    with pytest.raises(UserError, match=r"2 scores .* 3"):
        compare(two.astype(float), three.astype(float))
    with pytest.raises(UserError, match=r"predicted must lie in 0\.\.1, but goes from 0 to 2"):
        decision_scores(np.array([0, 2]), two, 2)
    with pytest.raises(UserError, match=r"y must lie in 0\.\.1, but goes from -1 to 0"):
        decision_scores(two, np.array([0, -1]), 2)
