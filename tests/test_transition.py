"""Transition matrices: what is accepted, what is refused and how, and the matrix that noise realised."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from ldmi_lightning.errors import UserError
from ldmi_lightning.transition import (
    check_transition_matrix,
    condition_number,
    dominated_classes,
    flip_rates,
    realised_matrix,
    samples_to_tell_from_singular,
)

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


def test_an_accepted_matrix_is_contiguous_whatever_it_was_given_as() -> None:
    assert check_transition_matrix(np.array([[1.0, 0.0], [0.4, 0.6]], order="F")).flags.c_contiguous


@given(PAIRS)
@settings(deadline=None, max_examples=50, derandomize=True)
def test_the_realised_matrix_counts_label_j_among_the_samples_of_class_i(pairs: list[tuple[int, int]]) -> None:
    clean, noisy = np.array(pairs, dtype=np.int64).T
    realised = realised_matrix(clean, noisy, 4)
    for i in range(4):
        carried = [j for k, j in pairs if k == i]
        expected = [carried.count(j) / len(carried) if carried else np.nan for j in range(4)]
        np.testing.assert_array_equal(realised[i], expected)


PAPER = {"class-independent": [[0.6, 0.4], [0.4, 0.6]], "(a)": [[0.4, 0.6], [0, 1]], "(b)": [[1, 0], [0.6, 0.4]]}


@pytest.mark.parametrize(("pattern", "dominated"), [("class-independent", []), ("(a)", [0]), ("(b)", [1])])
def test_of_the_paper_s_patterns_at_rate_0_6_two_are_not_diagonally_dominant(
    pattern: str, dominated: list[int]
) -> None:
    assert dominated_classes(np.array(PAPER[pattern])).tolist() == dominated


@given(st.integers(2, 10), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=100, derandomize=True)
def test_a_class_is_dominated_where_another_label_is_as_frequent(size: int, seed: int) -> None:
    matrix = np.random.RandomState(seed).randint(1, 4, (size, size)) / 1.0
    transition = matrix / matrix.sum(axis=1, keepdims=True)
    expected = [i for i in range(size) if any(matrix[i, j] >= matrix[i, i] for j in range(size) if j != i)]
    assert dominated_classes(transition).tolist() == expected
    assert flip_rates(transition) == pytest.approx([1 - transition[i, i] for i in range(size)])


def test_the_condition_number_is_that_of_the_singular_values_and_infinite_for_a_singular_matrix() -> None:
    transition = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    assert condition_number(transition) == pytest.approx(np.linalg.cond(transition))
    for singular in (np.full((3, 3), 1 / 3), np.array([[0.5, 0.5, 0], [0, 0.5, 0.5], [0.25, 0.5, 0.25]])):
        assert condition_number(singular) == np.inf
        assert samples_to_tell_from_singular(singular, np.full(3, 1 / 3)) == np.inf
    assert samples_to_tell_from_singular(np.eye(4), np.full(4, 0.25)) == 0


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.1, 0.9]])
@pytest.mark.parametrize("matrix", [*PAPER.values(), [[1, 0], [0.9, 0.1]]])
def test_with_so_many_samples_the_smallest_singular_value_has_a_third_of_itself_as_its_standard_error(
    matrix: list[list[float]], shares: list[float]
) -> None:
    """Seen in labels drawn 4,000 times. For more samples than are needed, where the first order is exact enough."""
    transition, many = np.array(matrix, dtype=float), 25
    smallest = np.linalg.svd(transition, compute_uv=False)[-1]
    size = many * samples_to_tell_from_singular(transition, np.array(shares))
    random = np.random.RandomState(0)
    rows = []
    for row, share in zip(transition, shares, strict=True):
        n = max(round(size * share), 1)
        rows.append(random.multinomial(n, row, size=4000) / n)
    drawn = np.linalg.svd(np.stack(rows, axis=1), compute_uv=False)[:, -1]
    assert drawn.std() == pytest.approx(smallest / 3 / many**0.5, rel=0.08)
