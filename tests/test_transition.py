"""Transition matrices: what is accepted, what is refused and how, and the matrix that noise realised."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from ldmi_lightning.errors import UserError
from ldmi_lightning.transition import check_transition_matrix, realised_matrix

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=50)


@given(st.integers(1, 8).flatmap(lambda c: arrays(np.float64, (c, c), elements=st.floats(0.01, 1))))
@settings(deadline=None, max_examples=50, derandomize=True)
def test_every_row_stochastic_matrix_is_accepted_as_it_is(matrix: NDArray[np.float64]) -> None:
    transition = matrix / matrix.sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(check_transition_matrix(transition.tolist()), transition)


def test_rows_rounded_to_seven_digits_are_accepted() -> None:
    assert check_transition_matrix(np.full((3, 3), 0.3333333)).dtype == np.float64


@pytest.mark.parametrize(
    ("matrix", "named"),
    [
        ([[0.9, 0.1], [0.5, 0.4]], r"row 1, \[0.5, 0.4\], sums to 0.9"),
        ([[0.9, 0.2], [0.5, 0.5]], r"row 0, \[0.9, 0.2\], sums to 1.1"),
        ([[1.5, -0.5], [0.0, 1.0]], r"\[0, 1\], but got \[\[1.5, -0.5\]"),
        ([[float("nan"), 1.0], [0.0, 1.0]], "nan"),
        ([[1.0, 0.0]], r"shape \(1, 2\)"),
        ([0.5, 0.5], r"shape \(2,\)"),
        ([[1.0], [0.5, 0.5]], r"\[\[1.0\], \[0.5, 0.5\]\]"),
        ([["a", "b"], ["c", "d"]], "'a'"),
    ],
)
def test_no_transition_matrix_is_refused_with_what_is_wrong_in_it(matrix: list[list[float]], named: str) -> None:
    with pytest.raises(UserError, match=named):
        check_transition_matrix(matrix)


@given(PAIRS)
@settings(deadline=None, max_examples=50, derandomize=True)
def test_the_realised_matrix_counts_label_j_among_the_samples_of_class_i(pairs: list[tuple[int, int]]) -> None:
    clean, noisy = np.array(pairs, dtype=np.int64).T
    realised = realised_matrix(clean, noisy, 4)
    for i in range(4):
        carried = [j for k, j in pairs if k == i]
        expected = [carried.count(j) / len(carried) if carried else np.nan for j in range(4)]
        np.testing.assert_array_equal(realised[i], expected)
