"""Intervals hold the truth as often as they say: the number of wrong labels, and accuracy on a noisy test set."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from audit_data import class_dependent, known, symmetric
from numpy.typing import NDArray

from ldmi_lightning.audit import accuracy_on_true_labels, audit
from ldmi_lightning.audit.intervals import (
    REPLICATES,
    Temperature,
    deviations,
    normal_interval,
    refined_temperature,
    sampled_rows,
    transitions,
)
from ldmi_lightning.errors import UserError
from ldmi_lightning.likelihood import expected_counts, fit_transition, maximise

SETTINGS = [
    (num_classes, rate, kind, rarest)
    for num_classes in (2, 3, 5, 7, 10)
    for rate in (0.1, 0.6)
    for kind in (symmetric, class_dependent)
    for rarest in (1.0, 1 / 9)
]


@pytest.mark.slow
def test_of_forty_settings_the_interval_holds_the_wrong_labels_of_these_data_in_36_at_least() -> None:
    """Asked is for the number in the data at hand. 37 seen, of a median width of 5.5 %, and 98 % of the classes' own."""
    held, widths, by_class = 0, [], []
    for seed, (num_classes, rate, kind, rarest) in enumerate(SETTINGS):
        data = known(kind(num_classes, rate), size=4000, seed=seed, rarest=rarest)
        found = audit(data.probs, data.given)
        is_wrong = data.given != data.true
        wrong = is_wrong.sum()
        held += found.wrong.low <= wrong <= found.wrong.high
        widths.append((found.wrong.high - found.wrong.low) / wrong)
        of_class, each = np.bincount(data.given[is_wrong], minlength=num_classes), found.wrong_by_class
        by_class += ((each.low <= of_class) & (of_class <= each.high)).tolist()
    assert held >= 36, f"{held} of {len(SETTINGS)}"
    assert np.median(widths) <= 0.2
    assert np.mean(by_class) > 0.9


def test_the_same_chance_that_moves_t_over_new_data_moves_it_over_bootstrap_samples() -> None:
    transition = class_dependent(3, 0.4)
    over_data = [
        maximise(data.probs, data.given)
        for data in (known(transition, size=1000, seed=seed, distance=4.0) for seed in range(60))
    ]
    data = known(transition, size=1000, seed=100, distance=4.0)
    fitted = maximise(data.probs, data.given)
    over_samples = list(transitions(data.probs, data.given, fitted, np.random.RandomState(0)))
    assert len(over_samples) == REPLICATES
    for k, j in ((0, 0), (0, 1), (2, 2)):
        expected = np.std([each[k, j] for each in over_data])
        assert np.std([each[k, j] for each in over_samples]) == pytest.approx(expected, rel=0.35)


def test_weights_count_a_sample_as_often_as_it_is_repeated() -> None:
    data = known(symmetric(4, 0.3), size=300, seed=1)
    weights = np.random.RandomState(0).poisson(1.0, size=300)
    weighted = maximise(data.probs, data.given, start=data.transition, steps=5, weights=weights.astype(float))
    repeated = np.repeat(np.arange(300), weights)
    expected = maximise(data.probs[repeated], data.given[repeated], start=data.transition, steps=5)
    np.testing.assert_allclose(weighted, expected, rtol=1e-9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ldmi_lightning.likelihood.SPARSE", 0)
        sparse = maximise(data.probs, data.given, start=data.transition, steps=5, weights=weights.astype(float))
    np.testing.assert_allclose(sparse, expected, rtol=1e-9)


def test_expected_counts_are_the_sums_of_posteriors() -> None:
    data = known(symmetric(3, 0.3), size=50, seed=2)
    joint = data.probs * data.transition.T[data.given]
    joint /= joint.sum(axis=1, keepdims=True)
    expected = np.array([joint[data.given == label].sum(axis=0) for label in range(3)]).T
    np.testing.assert_allclose(expected_counts(data.probs, data.given, data.transition), expected, rtol=1e-9)


def test_of_a_part_of_the_samples_the_deviations_of_all_follow() -> None:
    data = known(symmetric(3, 0.3), size=8000, seed=3, distance=2.0)
    fitted, warm = maximise(data.probs, data.given), Temperature(1.0, 0.02)
    whole = deviations(data.probs, data.given, fitted, warm, 8000, np.random.RandomState(0))
    half = deviations(data.probs[::2], data.given[::2], fitted, warm, 8000, np.random.RandomState(0))
    np.testing.assert_allclose(half.transition, whole.transition, rtol=0.4, atol=1e-3)
    assert half.all_right == pytest.approx(whole.all_right, rel=0.35)


def test_a_temperature_that_is_not_known_widens_the_interval() -> None:
    data = known(symmetric(3, 0.3), size=2000, seed=3, distance=2.0)
    fitted = maximise(data.probs, data.given)
    sharp, vague = (
        deviations(data.probs, data.given, fitted, Temperature(1.0, each), 2000, np.random.RandomState(0))
        for each in (0.0, 0.1)
    )
    assert vague.all_right > 2 * sharp.all_right


def test_the_likelihoods_curvature_shrinks_with_the_samples() -> None:
    few, many = (known(symmetric(3, 0.3), size=size, seed=4, distance=2.0) for size in (2000, 8000))
    found = [
        refined_temperature(data.probs, data.given, maximise(data.probs, data.given), 1.0, len(data.given))
        for data in (few, many)
    ]
    assert found[1].value == pytest.approx(1, abs=0.1)
    assert found[0].deviation == pytest.approx(2 * found[1].deviation, rel=0.3)


def test_intervals_stay_within_what_is_possible() -> None:
    found = normal_interval(np.array([0.01, 0.5, 0.99]), np.array([0.1, 0.0, 0.1]))
    assert found.low.tolist() == [0, 0.5, pytest.approx(0.794, abs=1e-3)]
    assert found.high.tolist() == [pytest.approx(0.206, abs=1e-3), 0.5, 1]
    assert sampled_rows(10, 1000, np.random.RandomState(0)).tolist() == list(range(10))
    rows = sampled_rows(10**5, 1000, np.random.RandomState(0))
    assert len(np.unique(rows)) == len(rows) == 5000


# -- a noisy test set -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_of_ten_noisy_test_sets_the_interval_holds_the_hidden_accuracy_in_8_at_least() -> None:
    """T and the temperature are those of other samples; outputs are too sure, by different powers. 9 of 10 seen.

    The one that is missed has two classes and labels of which 60 % are wrong: they hardly tell a temperature.
    """
    held = 0
    for seed, (num_classes, rate, kind, rarest) in enumerate(SETTINGS[4 * each + each % 4] for each in range(10)):
        transition = kind(num_classes, rate)
        sets = [known(transition, size=4000, seed=100 + 2 * seed + each, rarest=rarest) for each in (0, 1)]
        power = 1 + seed % 3
        outputs = [sure(each.probs, power) for each in sets]
        fitted = audit(outputs[0], sets[0].given)
        assert fitted.temperature is not None
        found = accuracy_on_true_labels(outputs[1], sets[1].given, fitted.transition.value, fitted.temperature)
        true = (outputs[1].argmax(axis=1) == sets[1].true).mean()
        held += found.low <= true <= found.high
        as_labelled = (outputs[1].argmax(axis=1) == sets[1].given).mean()
        assert abs(found.value - true) < abs(as_labelled - true)
        assert found.high - found.low < 0.06
    assert held >= 8, f"{held} of 10"


def sure(probs: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    raised = probs**power
    found: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return found


def test_on_true_labels_accuracy_is_what_is_counted() -> None:
    data = known(np.eye(3), size=500, seed=1)
    found = accuracy_on_true_labels(data.probs, data.given, np.eye(3), 1.0)
    assert found.value == pytest.approx((data.probs.argmax(axis=1) == data.true).mean())
    assert found.high - found.low < 1e-9


def test_a_test_set_may_lack_a_class_but_t_must_have_all() -> None:
    data = known(symmetric(3, 0.2), size=500, seed=1)
    rows = data.given < 2
    transition = fit_transition(data.probs, data.given).transition
    assert 0 < accuracy_on_true_labels(data.probs[rows], data.given[rows], transition, 1.0).value < 1
    with pytest.raises(UserError, match=r"T must have 3 rows and columns, but has shape \(2, 2\)"):
        accuracy_on_true_labels(data.probs, data.given, np.eye(2), 1.0)


# -- time and memory --------------------------------------------------------------------------------------------------


def many_samples(size: int, num_classes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.RandomState(0)
    true = random.randint(num_classes, size=size)
    probs = np.empty((size, num_classes), dtype=np.float32)
    for start in range(0, size, 10_000):
        part = true[start : start + 10_000]
        logits = random.standard_normal((len(part), num_classes)).astype(np.float32)
        logits[np.arange(len(part)), part] += 4 + np.log(num_classes)
        np.exp(logits, out=logits)
        probs[start : start + 10_000] = logits / logits.sum(axis=1, keepdims=True)
    return probs, np.where(random.random_sample(size) < 0.4, random.randint(num_classes, size=size), true)


MEASURE = """
import resource, sys, time
from test_audit_intervals import many_samples, audit
probs, y = many_samples(int(sys.argv[1]), int(sys.argv[2]))
before = time.process_time()
audit(probs, y, outputs=sys.argv[3])
print(time.process_time() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "num_classes", "seconds", "gigabytes"), [(1_000_000, 10, 10, 1), (50_000, 1000, 20, 2)]
)
@pytest.mark.parametrize("outputs", ["true", "given"])
def test_a_million_labels_and_a_thousand_classes_on_one_thread(
    size: int, num_classes: int, seconds: float, gigabytes: float, outputs: str
) -> None:
    """Seen: 3.9 s and 0.27 GB, 10.2 s and 1.05 GB; decisions alone 0.9 and 7.9 s."""
    command = [sys.executable, "-c", MEASURE, str(size), str(num_classes), outputs]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    said = subprocess.run(command, env=threads, check=True, capture_output=True, text=True).stdout.split()
    assert float(said[0]) < seconds
    assert float(said[1]) < gigabytes


def test_fifty_thousand_labels_of_ten_classes_take_seconds() -> None:
    probs, y = many_samples(50_000, 10)
    begun = time.process_time()
    audit(probs, y)
    assert time.process_time() - begun < 8  # 1.5 s seen
