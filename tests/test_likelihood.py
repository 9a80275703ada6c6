"""T and a temperature by likelihood, against data whose T and posteriors are known."""

import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ldmi_lightning.errors import UserError
from ldmi_lightning.likelihood import (
    counted_transition,
    fit_transition,
    log_likelihood,
    maximise,
    tempered,
)

Floats, Labels = NDArray[np.float64], NDArray[np.int64]

FLIPS = {9: 1, 2: 0, 4: 7, 3: 5}


def true_transition(rate: float = 0.6) -> Floats:
    """Return CIFAR-10's class-dependent noise: truck to automobile, bird to airplane, deer to horse, cat to dog."""
    transition = np.eye(10)
    for i, j in FLIPS.items():
        transition[i, i], transition[i, j] = 1 - rate, rate
    return transition


def exact_data(size: int, seed: int) -> tuple[Floats, Labels]:
    """Return the posteriors of ten Gaussians three deviations from the origin, at right angles, and noisy labels.

    Their most probable class is the true one for 90 % of the samples, and no classifier does better.
    """
    random = np.random.RandomState(seed)
    clean = random.randint(10, size=size)
    logits = 3 * (3 * np.eye(10)[clean] + random.standard_normal((size, 10)))
    noisy = (np.cumsum(true_transition()[clean], axis=1) <= random.random_sample(size)[:, None]).sum(axis=1)
    probs = tempered(np.exp(logits - logits.max(axis=1, keepdims=True)), 1.0)
    assert (probs.argmax(axis=1) == clean).mean() == pytest.approx(0.9, abs=0.01 if size > 5000 else 0.05)
    return probs, noisy


def overconfident(probs: Floats, power: float = 3.0) -> Floats:
    raised = probs**power
    return raised / raised.sum(axis=1, keepdims=True)


def error(transition: Floats) -> float:
    """Return the greatest error of an entry."""
    return float(abs(transition - true_transition()).max())


def by_definition(q: list[list[float]], y: list[int], transition: list[list[float]]) -> list[list[float]]:
    """Return T after one step of expectation maximisation, sample by sample."""
    classes = range(len(q[0]))
    sums = [[0.0 for _ in classes] for _ in classes]
    for row, label in zip(q, y, strict=True):
        total = sum(row[k] * transition[k][label] for k in classes)
        for k in classes:
            sums[k][label] += row[k] * transition[k][label] / total
    return [[value / sum(row) for value in row] for row in sums]


# -- closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "counted", "fitted"), [(0, 0.110, 0.017), (1, 0.103, 0.017), (2, 0.098, 0.031)])
def test_of_exact_posteriors_the_greatest_error_is_a_third_of_the_counts_at_most(
    seed: int, counted: float, fitted: float
) -> None:
    """The figures are the greatest errors seen; 0.6 counted in 1,000 samples of a class has a deviation of 0.015."""
    probs, y = exact_data(10_000, seed)
    found = fit_transition(probs, y)
    assert found.temperature == 1
    assert error(counted_transition(probs, y)) == pytest.approx(counted, abs=0.001)
    assert error(found.transition) == pytest.approx(fitted, abs=0.001)
    assert 3 * error(found.transition) <= error(counted_transition(probs, y))


def test_with_ten_times_the_samples_the_error_is_below_0_02_where_the_counts_stay_at_0_1() -> None:
    probs, y = exact_data(100_000, seed=0)
    assert error(fit_transition(probs, y).transition) < 0.02
    assert error(counted_transition(probs, y)) > 0.095


@pytest.mark.parametrize("seed", range(3))
def test_the_temperature_undoes_outputs_that_are_too_sure(seed: int) -> None:
    """Posteriors raised to the third power: without a temperature the greatest error is 0.044 to 0.054."""
    probs, y = exact_data(10_000, seed)
    exact, found = fit_transition(probs, y), fit_transition(overconfident(probs), y)
    assert found.temperature == 3
    np.testing.assert_allclose(found.transition, exact.transition, atol=1e-9)
    assert found.log_likelihood == pytest.approx(exact.log_likelihood, rel=1e-9)
    assert error(maximise(overconfident(probs), y)) > 0.04
    single = fit_transition(overconfident(probs).astype(np.float32), y)
    np.testing.assert_allclose(single.transition, exact.transition, atol=1e-4)


def test_without_noise_t_is_the_identity() -> None:
    probs, _ = exact_data(10_000, seed=0)
    draws = np.random.RandomState(1).random_sample(10_000)
    clean = (np.cumsum(probs, axis=1) <= draws[:, None]).sum(axis=1).clip(max=9)
    np.testing.assert_allclose(fit_transition(probs, clean).transition, np.eye(10), atol=0.01)


# -- the steps --------------------------------------------------------------------------------------------------------


@given(data=st.data(), num_classes=st.integers(2, 5), size=st.integers(1, 20))
@settings(deadline=None, max_examples=50, derandomize=True)
def test_a_step_is_that_of_the_definition_and_never_lowers_the_likelihood(
    data: st.DataObject, num_classes: int, size: int
) -> None:
    random = np.random.RandomState(data.draw(st.integers(0, 2**32 - 1)))
    q, y = random.dirichlet(np.ones(num_classes), size), random.randint(num_classes, size=size)
    start = random.dirichlet(np.ones(num_classes), num_classes)
    after = maximise(q, y, start=start, steps=1)
    np.testing.assert_allclose(after, by_definition(q.tolist(), y.tolist(), start.tolist()), rtol=1e-9, atol=1e-15)
    assert log_likelihood(q, y, after) >= log_likelihood(q, y, start) - 1e-9
    np.testing.assert_allclose(maximise(q, y, start=after, steps=4), maximise(q, y, start=start, steps=5), rtol=1e-12)
    assert log_likelihood(q, y, start) == pytest.approx(np.log((q @ start)[np.arange(size), y]).sum())


def test_a_warm_start_is_not_written_to_and_no_step_returns_it() -> None:
    probs, y = exact_data(500, seed=0)
    start = np.asfortranarray(true_transition())
    found = maximise(probs, y, start=start, steps=0)
    assert np.array_equal(found, start)
    assert found.flags.c_contiguous
    maximise(probs, y, start=start, steps=3)
    assert np.array_equal(start, true_transition())


def test_the_counts_of_a_class_that_is_never_predicted_are_weighted_by_the_outputs() -> None:
    probs = np.array([[0.7, 0.1, 0.2], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
    expected = [[0.5, 0.5, 0.0], [0.2, 0.6, 0.2], [0.0, 0.0, 1.0]]
    np.testing.assert_allclose(counted_transition(probs, np.array([0, 1, 2])), expected)


# -- properties -------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32 - 1), num_classes=st.integers(2, 8), size=st.integers(20, 200))
@settings(deadline=None, max_examples=30, derandomize=True)
def test_rows_sum_to_1_and_neither_the_order_of_samples_nor_the_names_of_classes_matter(
    seed: int, num_classes: int, size: int
) -> None:
    random = np.random.RandomState(seed)
    probs, y = random.dirichlet(np.full(num_classes, 0.3), size), random.randint(num_classes, size=size)
    found = fit_transition(probs, y)
    assert found.transition.dtype == np.float64
    assert found.transition.flags.c_contiguous
    assert ((found.transition >= 0) & (found.transition <= 1)).all()
    np.testing.assert_allclose(found.transition.sum(axis=1), 1, rtol=1e-12)

    order, names = random.permutation(size), random.permutation(num_classes)
    shuffled = fit_transition(probs[order], y[order])
    assert shuffled.temperature == found.temperature
    np.testing.assert_allclose(shuffled.transition, found.transition, atol=1e-9)
    assert shuffled.log_likelihood == pytest.approx(found.log_likelihood, rel=1e-10)

    renamed = fit_transition(probs[:, np.argsort(names)], names[y])  # column names[k] holds class k
    assert renamed.temperature == found.temperature
    np.testing.assert_allclose(renamed.transition[names][:, names], found.transition, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_outputs_of_exactly_0_and_1_give_finite_numbers(dtype: type[np.floating]) -> None:
    probs = np.eye(4, dtype=dtype)[np.arange(40) % 3]  # class 3 is never predicted
    y = np.where(np.arange(40) % 7 == 0, 3, np.arange(40) % 3)
    found = fit_transition(probs, y)
    assert np.isfinite(found.transition).all()
    assert np.isfinite(found.log_likelihood)
    np.testing.assert_allclose(found.transition.sum(axis=1), 1)
    np.testing.assert_allclose(found.transition[:3], counted_transition(probs.astype(float), y)[:3], atol=1e-6)


def test_a_label_that_the_start_rules_out_gives_finite_numbers() -> None:
    probs, y = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1])
    start = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert np.isfinite(maximise(tempered(probs, 1.0), y, start=start)).all()
    assert np.isfinite(log_likelihood(probs, y, start))


def test_more_samples_than_choose_the_temperature_all_estimate_t(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldmi_lightning.likelihood.TEMPERATURE_ROWS", 2000)
    probs, y = exact_data(10_000, seed=0)
    found = fit_transition(overconfident(probs), y)
    assert found.temperature == 3
    assert np.array_equal(found.transition, maximise(tempered(overconfident(probs), 3.0), y))


def test_ten_thousand_samples_of_ten_classes_take_less_than_a_second_of_one_core() -> None:
    probs, y = exact_data(10_000, seed=0)
    begun = time.process_time()
    fit_transition(probs, y)
    assert time.process_time() - begun < 1  # 0.13 s seen; by all threads together


def test_no_torch_is_needed() -> None:
    code = (
        "import sys, types; root = types.ModuleType('ldmi_lightning'); root.__path__ = [sys.argv[1]]; "
        "sys.modules['ldmi_lightning'] = root; import ldmi_lightning.likelihood, ldmi_lightning.decisions; "
        "sys.exit('torch' in sys.modules)"
    )
    folder = sys.modules["ldmi_lightning"].__path__[0]
    assert subprocess.run([sys.executable, "-c", code, folder], check=False).returncode == 0


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probs", "y", "message"),
    [
        (np.empty((0, 2)), np.empty(0, dtype=np.int64), r"N at least 1, but got shapes \(0, 2\) and \(0,\)"),
        (np.full((3, 2), 0.5), np.zeros(2, dtype=np.int64), r"shapes \(3, 2\) and \(2,\)"),
        (np.full((2, 2), 0.5), np.array([0, 2]), r"labels must lie in 0\.\.1, but go from 0 to 2"),
        (np.array([[0.5, 0.5], [np.nan, 0.5]]), np.array([0, 1]), r"row 1 is \[nan, 0\.5\]"),
        (np.array([[1.5, -0.5]]), np.array([0]), r"row 0 is \[1\.5, -0\.5\]"),
    ],
)
def test_what_cannot_be_fitted_is_refused(probs: Floats, y: Labels, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_transition(probs, y)
