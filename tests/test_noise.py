"""Label noise: its matrix is found again in the labels, and the labels are the authors', one by one."""

import hashlib
import json
import struct
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import (
    ClassDependentNoise,
    MatrixNoise,
    Noise,
    NoNoise,
    PairFlipNoise,
    SymmetricNoise,
    draw_labels,
    fingerprint,
    report,
)
from ldmi_lightning.transition import realised_matrix

C = 10
FLIPS = {9: 1, 2: 0, 4: 7, 3: 5}

# Each kind, and P(noisy = j | clean = i) written down once more from its definition in the literature.
KINDS: dict[str, tuple[Callable[[float], Noise], Callable[[float, int, int], float]]] = {
    "symmetric": (
        lambda r: SymmetricNoise(r, seed=1),
        lambda r, i, j: 1 - r if i == j else r / (C - 1),
    ),
    "symmetric, true class included": (
        lambda r: SymmetricNoise(r, include_true=True, seed=1),
        lambda r, i, j: r / C + (1 - r) * (i == j),
    ),
    "pair flip": (
        lambda r: PairFlipNoise(r, seed=1),
        lambda r, i, j: {i: 1 - r, (i + 1) % C: r}.get(j, 0.0),
    ),
    "class-dependent": (
        lambda r: ClassDependentNoise(r, FLIPS, seed=1),
        lambda r, i, j: float(i == j) if i not in FLIPS else {i: 1 - r, FLIPS[i]: r}.get(j, 0.0),
    ),
    "matrix": (
        lambda r: MatrixNoise(((1 - r) * np.eye(C) + r * np.eye(C)[0]).tolist(), seed=1),
        lambda r, i, j: (1 - r) * (i == j) + r * (j == 0),
    ),
}


def clean_labels(size: int, num_classes: int = C) -> NDArray[np.int64]:
    return np.random.RandomState(0).permutation(size) % num_classes


def noisy_labels(noise: Noise, clean: NDArray[np.int64], num_classes: int = C) -> NDArray[np.int64]:
    return noise(clean, num_classes, index=np.arange(len(clean)))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_the_matrix_is_what_its_definition_says_and_is_found_again_in_the_labels(kind: str, rate: float) -> None:
    make, chance = KINDS[kind]
    noise, expected = make(rate), np.array([[chance(rate, i, j) for j in range(C)] for i in range(C)])
    np.testing.assert_allclose(noise.transition_matrix(C), expected, atol=1e-12)
    clean = clean_labels(200_000)
    realised = realised_matrix(clean, noisy_labels(noise, clean), C)
    five_sigma = 5 * np.sqrt(expected * (1 - expected) / (len(clean) / C))
    assert (abs(realised - expected) <= five_sigma + 1e-12).all()


@pytest.mark.parametrize("seed", [0, 1, 12345])
@pytest.mark.parametrize("num_classes", [2, 10, 14, 100])
def test_labels_equal_the_authors_sequential_draw_one_by_one(num_classes: int, seed: int) -> None:
    dense = np.random.RandomState(seed).dirichlet(np.ones(num_classes), size=num_classes)
    sparse = PairFlipNoise(0.45).transition_matrix(num_classes)
    clean = clean_labels(1000, num_classes)
    for transition in (dense, sparse):
        np.random.seed(seed)
        one_by_one = [np.random.choice(num_classes, 1, p=transition[y])[0] for y in clean]
        assert draw_labels(clean, transition, seed).tolist() == one_by_one
        assert noisy_labels(MatrixNoise(transition.tolist(), seed), clean, num_classes).tolist() == one_by_one


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_alone_decides_the_labels(kind: str) -> None:
    make, clean = KINDS[kind][0], clean_labels(1000)
    first = noisy_labels(make(0.5), clean)
    np.random.random(7)
    np.testing.assert_array_equal(first, noisy_labels(make(0.5), clean))
    other = make(0.5)
    other.seed += 1
    assert (first != noisy_labels(other, clean)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_noise_changes_neither_the_clean_labels_nor_the_global_random_state(kind: str) -> None:
    clean, state = clean_labels(1000), np.random.get_state()[1]
    noisy = noisy_labels(KINDS[kind][0](0.5), clean)
    assert (noisy != clean).any()
    np.testing.assert_array_equal(clean, clean_labels(1000))
    np.testing.assert_array_equal(state, np.random.get_state()[1])


def test_without_a_seed_of_its_own_noise_takes_that_of_seed_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert PairFlipNoise(0.5).seed == 7
    assert PairFlipNoise(0.5, seed=0).seed == 0


def test_no_noise_returns_a_copy_of_the_labels() -> None:
    clean = clean_labels(100)
    labels = noisy_labels(NoNoise(), clean)
    np.testing.assert_array_equal(labels, clean)
    assert not np.shares_memory(labels, clean)


def test_the_report_holds_the_realised_matrix_with_none_for_absent_classes() -> None:
    clean, noisy = np.array([0, 0, 0, 0, 2]), np.array([0, 1, 1, 0, 2])
    told = report(PairFlipNoise(0.4, seed=3), clean, noisy, 3, sha256="abc")
    assert json.loads(json.dumps(told, allow_nan=False)) == {
        "injector": "PairFlipNoise",
        "seed": 3,
        "requested_rate": 0.4,
        "train_rate": 0.4,
        "matrix": [[0.5, 0.5, 0.0], [None, None, None], [0.0, 0.0, 1.0]],
        "sha256": "abc",
    }
    assert report(NoNoise(seed=3), clean, clean, 3, sha256="abc")["requested_rate"] is None


def test_the_fingerprint_is_the_sha256_of_little_endian_int64() -> None:
    labels = np.array([3, 1, 2, 258])
    expected = hashlib.sha256(struct.pack("<4q", 3, 1, 2, 258)).hexdigest()
    assert fingerprint(labels) == expected
    assert fingerprint(labels[:1], labels[1:]) == expected
    assert fingerprint(labels.astype(">i4")) == expected
    assert fingerprint(labels[::-1]) == hashlib.sha256(struct.pack("<4q", 258, 2, 1, 3)).hexdigest()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: SymmetricNoise(1.2), "1.2"),
        (lambda: PairFlipNoise(-0.1), "-0.1"),
        (lambda: ClassDependentNoise(float("nan"), FLIPS), "nan"),
        (lambda: MatrixNoise([[0.9, 0.1], [0.5, 0.4]]), r"row 1, \[0.5, 0.4\], sums to 0.9"),
        (lambda: MatrixNoise([[0.5, 0.5]]), r"\(1, 2\)"),
        (lambda: MatrixNoise([[1.0, 0.0], [0.0, 1.0]]).transition_matrix(3), "2 rows, but the data set has 3 classes"),
        (lambda: ClassDependentNoise(0.5, FLIPS).transition_matrix(9), r"9: 1\b.*0\.\.8"),
        (lambda: ClassDependentNoise(0.5, {0: -1}).transition_matrix(9), r"0: -1\b"),
        (lambda: ClassDependentNoise(0.5, {4: 4}).transition_matrix(9), r"4: 4\b"),
    ],
)
def test_impossible_noise_is_refused_by_the_name_of_its_value(make: Callable[[], object], named: str) -> None:
    with pytest.raises(UserError, match=named):
        make()
