"""Label noise: its matrix is found again in the labels, and the labels are the authors', one by one."""

import hashlib
import json
import math
import struct
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import (
    ClassDependentNoise,
    InstanceDependentNoise,
    MatrixNoise,
    Noise,
    NoNoise,
    PairFlipNoise,
    SymmetricNoise,
    base,
    draw_exactly,
    draw_labels,
    fingerprint,
    instance,
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


@pytest.mark.parametrize("num_classes", [2, 14, 300])
def test_how_many_labels_are_drawn_at_a_time_changes_none(num_classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clean, transition = clean_labels(1000, num_classes), PairFlipNoise(0.45).transition_matrix(num_classes)
    whole = draw_labels(clean, transition, 1)
    monkeypatch.setattr(base, "CHUNK", 64)
    np.testing.assert_array_equal(draw_labels(clean, transition, 1), whole)


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


# -- exact counts -----------------------------------------------------------------------------------------------------

TRANSITIONS = st.tuples(st.integers(2, 12), st.integers(0, 2**32 - 1)).map(
    lambda drawn: np.random.RandomState(drawn[1]).dirichlet(np.full(drawn[0], 0.5), size=drawn[0])
)


@given(TRANSITIONS, st.integers(1, 300), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=150, derandomize=True)
def test_exact_counts_are_those_of_the_matrix_to_within_one_sample(
    transition: NDArray[np.float64], size: int, seed: int
) -> None:
    clean = np.random.RandomState(seed).randint(len(transition), size=size)
    noisy = draw_exactly(clean, transition, seed)
    for label, row in enumerate(transition):
        members = noisy[clean == label]
        flips = round(round((1 - row[label]) * len(members), 9))
        assert (members != label).sum() == flips
        dealt = np.bincount(members[members != label], minlength=len(row))
        wanted = np.delete(flips * row / max(1 - row[label], 1e-300), label)
        assert (abs(np.delete(dealt, label) - wanted) < 1 + 1e-9).all()


@given(st.floats(0, 1), st.integers(1, 500), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=100, derandomize=True)
def test_exactly_the_rate_of_each_class_flips(rate: float, size: int, seed: int) -> None:
    clean = np.random.RandomState(seed).randint(3, size=size)
    for noise in (PairFlipNoise(rate, seed, exact=True), SymmetricNoise(rate, seed=seed, exact=True)):
        noisy = noisy_labels(noise, clean, 3)
        for label in range(3):
            members = noisy[clean == label]
            assert (members != label).sum() == round(round(rate * len(members), 9))


def test_which_samples_flip_to_what_is_left_to_chance() -> None:
    clean, times = np.zeros(20, np.int64), 4000
    drawn = np.array([draw_exactly(clean, SymmetricNoise(0.25).transition_matrix(4), seed) for seed in range(times)])
    shares = np.array([(drawn == label).mean(axis=0) for label in range(4)])  # of each place
    expected = np.array([0.75, 0.25 / 3, 0.25 / 3, 0.25 / 3])[:, np.newaxis]
    assert (abs(shares - expected) < 5 * np.sqrt(expected * (1 - expected) / times)).all()


def test_counts_drawn_independently_are_not_exact() -> None:
    clean = np.zeros(1000, np.int64)
    exact = [(noisy_labels(PairFlipNoise(0.3, seed, exact=True), clean) == 1).sum() for seed in range(10)]
    independent = [(noisy_labels(PairFlipNoise(0.3, seed), clean) == 1).sum() for seed in range(10)]
    assert set(exact) == {300}
    assert len(set(independent)) > 1


# -- instance-dependent noise -----------------------------------------------------------------------------------------


def instance_noise(rate: float, size: int = 20_000, seed: int = 1) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return clean and noisy labels of random images."""
    clean = clean_labels(size)
    images = torch.from_numpy(np.random.RandomState(2).randint(0, 256, (size, 3, 4, 4), dtype=np.uint8))
    return clean, InstanceDependentNoise(rate, seed)(clean, C, index=np.arange(size), x=images)


def truncated_mean(rate: float) -> float:
    """Return the mean of the normal distribution around the rate within [0, 1]: mu + sigma (phi(a) - phi(b)) / Z."""
    low, high = -rate / instance.SPREAD, (1 - rate) / instance.SPREAD
    density = [math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) for z in (low, high)]
    below = [(1 + math.erf(z / math.sqrt(2))) / 2 for z in (low, high)]
    return rate + instance.SPREAD * (density[0] - density[1]) / (below[1] - below[0])


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.2, 0.5, 1.0])
def test_instance_dependent_noise_flips_the_mean_of_its_truncated_rates(rate: float) -> None:
    clean, noisy = instance_noise(rate)
    expected = truncated_mean(rate)
    assert abs((clean != noisy).mean() - expected) < 5 * math.sqrt(expected * (1 - expected) / len(clean))
    assert set(noisy.tolist()) == set(range(C))


def test_instance_dependent_noise_is_that_of_its_paper_one_by_one() -> None:
    """Written down once more from algorithm 2, one sample after the other, with the same random numbers."""
    size, seed = 300, 3
    clean = clean_labels(size, 4)
    inputs = np.random.RandomState(4).standard_normal((size, 6))
    random = np.random.RandomState(seed)
    projections = [np.rint(random.standard_normal((6, 4)) * 4096) / 4096 for _ in range(4)]
    rates = random.normal(0.5, 0.1, size)
    assert rates.min() >= 0
    assert rates.max() <= 1
    uniform = random.random_sample(size)
    one_by_one = []
    for x, y, rate, draw in zip(inputs, clean, rates, uniform, strict=True):
        logits = x @ projections[y]
        logits[y] = -np.inf
        chances = rate * np.exp(logits) / np.exp(logits).sum()
        chances[y] = 1 - rate
        one_by_one.append(int(chances.cumsum().searchsorted(draw, side="right")))
    noisy = InstanceDependentNoise(0.5, seed)(clean, 4, index=np.arange(size), x=torch.from_numpy(inputs))
    assert (noisy == one_by_one).mean() > 0.995  # inputs are rounded to 15 bits, and a draw may lie between


def test_instance_dependent_noise_depends_on_the_instance() -> None:
    """The samples of a class that flip go where their input points, and equal inputs with equal labels go to one class."""
    images = np.random.RandomState(0).randint(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    x = torch.from_numpy(images[np.arange(2000) % 2])
    noisy = InstanceDependentNoise(0.5, seed=2)(np.zeros(2000, np.int64), C, index=np.arange(2000), x=x)
    targets = [np.bincount(noisy[kind::2][noisy[kind::2] != 0], minlength=C) for kind in (0, 1)]
    assert targets[0].argmax() != targets[1].argmax()
    assert all(each.max() > 0.8 * each.sum() for each in targets)


def test_train_and_validation_share_the_projections() -> None:
    """Whatever their number: seen where all samples flip, and where each input points to one class alone."""
    x = np.random.RandomState(0).standard_normal((1, 50)) * 1e4
    found = set()
    for size in (10, 1000):
        noisy = InstanceDependentNoise(1.0, seed=1)(
            np.full(size, 3), C, index=np.arange(size), x=np.repeat(x, size, axis=0)
        )
        found |= set(noisy[noisy != 3].tolist())
    assert len(found) == 1


def test_brightness_and_contrast_of_images_do_not_count() -> None:
    clean = clean_labels(500)
    dim = np.random.RandomState(0).randint(0, 50, (500, 30), dtype=np.uint8)
    told = [
        InstanceDependentNoise(0.5, seed=1)(clean, C, index=np.arange(500), x=images) for images in (dim, dim * 4 + 20)
    ]
    np.testing.assert_array_equal(*told)
    flat = np.full((500, 30), 7, np.uint8)  # nothing to project: all other classes are as likely
    assert (np.bincount(InstanceDependentNoise(1.0, seed=1)(clean, C, index=clean, x=flat)) > 20).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16])
def test_parts_and_order_of_additions_change_no_bit(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.RandomState(0).randint(0, 256, (400, 700)) / (1 if dtype is torch.uint8 else 7)
    inputs = torch.from_numpy(values).to(dtype).numpy()
    projection = np.rint(np.random.RandomState(1).standard_normal((700, C)) * instance.GRID)
    whole = instance.project(inputs, projection)
    order = np.random.RandomState(2).permutation(700)
    np.testing.assert_array_equal(instance.project(inputs[:, order], projection[order]), whole)
    by_row = np.concatenate([instance.project(inputs[[row]], projection) for row in range(400)])
    np.testing.assert_array_equal(by_row, whole)
    clean = clean_labels(400)
    noisy = InstanceDependentNoise(0.4, seed=1)(clean, C, index=clean, x=inputs)
    monkeypatch.setattr(instance, "CHUNK", 1000)
    np.testing.assert_array_equal(InstanceDependentNoise(0.4, seed=1)(clean, C, index=clean, x=inputs), noisy)


def test_the_number_of_threads_changes_no_label() -> None:
    inputs = np.random.RandomState(0).standard_normal((2000, 3072)).astype(np.float32)
    clean, told = clean_labels(2000), []
    for threads in (1, 2, 5):
        with threadpool_limits(threads):
            told.append(InstanceDependentNoise(0.4, seed=1)(clean, C, index=clean, x=inputs).tolist())
    assert told[0] == told[1] == told[2]


def test_instance_dependent_noise_is_repeated_by_its_seed_alone() -> None:
    np.testing.assert_array_equal(instance_noise(0.3)[1], instance_noise(0.3)[1])
    assert (instance_noise(0.3)[1] != instance_noise(0.3, seed=2)[1]).any()


@pytest.mark.parametrize(
    ("x", "named"),
    [
        (torch.zeros(5, 7, dtype=torch.int16), r"whole numbers \(int16\), such as the tokens of texts"),
        (None, "needs the inputs of all 5 samples as x, but got none"),
        (torch.zeros(4, 7), "but got 4"),
        (torch.full((5, 7), torch.nan), "NaN or infinite"),
        (torch.full((5, 7), -torch.inf), "NaN or infinite"),
    ],
)
def test_inputs_that_are_no_vectors_are_refused(x: torch.Tensor | None, named: str) -> None:
    with pytest.raises(UserError, match=named):
        InstanceDependentNoise(0.4, seed=1)(np.zeros(5, np.int64), C, index=np.arange(5), x=x)
