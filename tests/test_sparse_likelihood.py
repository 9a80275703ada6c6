"""T by likelihood where most of its entries are 0, as with a thousand classes: steps over what can have made each label."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ldmi_lightning.likelihood import fit_transition, log_likelihood, maximise, tempered


@given(seed=st.integers(0, 2**32 - 1), num_classes=st.integers(2, 6), size=st.integers(1, 30))
@settings(deadline=None, max_examples=50, derandomize=True)
def test_steps_over_what_can_have_made_a_label_are_those_over_everything(
    seed: int, num_classes: int, size: int
) -> None:
    random = np.random.RandomState(seed)
    q, y = random.dirichlet(np.ones(num_classes), size), random.randint(num_classes, size=size)
    start = random.dirichlet(np.ones(num_classes), num_classes) * (
        random.random_sample((num_classes, num_classes)) < 0.4
    )
    with pytest.MonkeyPatch.context() as patch:
        found = []
        for share in (0, q.size + 1):  # always, never
            patch.setattr("ldmi_lightning.likelihood.SPARSE", share)
            found.append(maximise(q, y, start=start, steps=5))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-10, atol=1e-15)
    assert np.array_equal(found[0] > 0, found[1] > 0)


def test_many_samples_that_no_class_can_have_made_leave_t_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    q, y, start = np.full((40, 2), 0.5), np.arange(40) % 2, np.array([[1.0, 0.0], [1.0, 0.0]])
    assert maximise(q, y, start=start, steps=3).tolist() == start.tolist()
    monkeypatch.setattr("ldmi_lightning.likelihood.SPARSE", 0)
    assert maximise(q, y, start=start, steps=3).tolist() == start.tolist()


def thousand_classes(size: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.RandomState(0)
    clean = np.arange(size) % 1000
    logits = random.standard_normal((size, 1000)) + 6 * np.eye(1000)[clean]
    noisy = np.where(random.random_sample(size) < 0.4, (clean + 1) % 1000, clean)
    return tempered(np.exp(logits), 1.0).astype(np.float32), noisy


def test_a_thousand_classes_are_fitted_over_what_occurs_as_over_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    probs, y = thousand_classes(2000)
    begun = time.process_time()
    found = fit_transition(probs, y, temperatures=(1.0, 2.0), steps=4)
    spent = time.process_time() - begun
    monkeypatch.setattr("ldmi_lightning.likelihood.SPARSE", probs.size + 1)
    begun = time.process_time()
    dense = fit_transition(probs, y, temperatures=(1.0, 2.0), steps=4)
    assert spent < (time.process_time() - begun) / 2
    assert found.temperature == dense.temperature
    np.testing.assert_allclose(found.transition, dense.transition, atol=1e-12)
    assert found.log_likelihood == pytest.approx(dense.log_likelihood, rel=1e-12)
    assert found.log_likelihood == pytest.approx(log_likelihood(tempered(probs, 1.0), y, found.transition), rel=1e-12)
