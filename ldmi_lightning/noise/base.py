"""The contract of a label-noise injector, and the two ways to draw labels from a transition matrix."""

import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.errors import UserError
from ldmi_lightning.seeding import base_seed
from ldmi_lightning.transition import realised_matrix

Labels = NDArray[np.int64]

CHUNK = 2**17
"""So many labels are drawn at a time: as many as the processor's cache holds."""


def draw_labels(labels: Labels, transition: NDArray[np.float64], seed: int) -> Labels:
    """Draw a noisy label for each clean one from its row of the transition matrix.

    Label for label what ``np.random.seed(seed)`` and then ``np.random.choice(C, p=T[y])``, one sample after the other,
    would give: ``choice`` spends one uniform number a draw and looks it up in the row's cumulated probabilities.

    Args:
        labels: clean labels, shape ``(N,)``.
        transition: T, shape ``(C, C)``, ``T[i, j] = P(noisy = j | clean = i)``.
        seed: seed of the stream.

    Returns:
        Noisy labels, shape ``(N,)``.
    """
    random = np.random.RandomState(seed)
    cumulated = _cumulated(transition)
    noisy = np.empty_like(labels)
    for begin in range(0, len(labels), CHUNK):
        some, drawn = (each[begin : begin + CHUNK] for each in (labels, noisy))
        uniform = random.random_sample(len(some))
        for label, members in enumerate(by_class(some, len(transition))):
            drawn[members] = cumulated[label].searchsorted(uniform[members], side="right")
    return noisy


def draw_exactly(labels: Labels, transition: NDArray[np.float64], seed: int) -> Labels:
    """Draw noisy labels whose counts are those that the transition matrix asks for, to within one sample.

    Which samples of a class flip is random; that ``round((1 - T[i, i]) * n_i)`` of its n_i samples do is not (ties as in
    Python's ``round``). They are dealt out to the other classes in proportion to ``T[i, j]``, each count rounded up or
    down, at random.

    Args:
        labels: clean labels, shape ``(N,)``.
        transition: T, shape ``(C, C)``, ``T[i, j] = P(noisy = j | clean = i)``.
        seed: seed of the stream.

    Returns:
        Noisy labels, shape ``(N,)``.

    >>> draw_exactly(np.array([0, 0, 0, 0, 1]), np.array([[0.25, 0.75], [0.0, 1.0]]), seed=0).tolist().count(1)
    4
    """
    random = np.random.RandomState(seed)
    noisy = labels.copy()
    for label, members in enumerate(by_class(labels, len(transition))):
        wrong = transition[label] / transition[label].sum()
        wrong[label] = 0
        # 0.15 * 10 and (1 - 0.85) * 10 are the same count: rounding errors must not decide a tie.
        flips = round(round(wrong.sum() * len(members), 9))
        if flips:
            evenly = (np.arange(flips) + random.uniform(high=0.999999)) / flips  # below 1, rounding included
            order = random.permutation(len(wrong))  # neighbours share what is rounded: let chance make the neighbours
            dealt = _cumulated(wrong[order]).searchsorted(evenly, side="right")
            noisy[random.permutation(members)[:flips]] = order[dealt]
    return noisy


def by_class(labels: Labels, num_classes: int) -> list[Labels]:
    """Return the positions of each class's samples, in order.

    >>> [positions.tolist() for positions in by_class(np.array([1, 0, 1]), 2)]
    [[1], [0, 2]]
    """
    narrow = labels.astype(np.min_scalar_type(num_classes - 1))  # NumPy sorts short integers three times as fast
    counts = np.bincount(labels, minlength=num_classes)
    return np.split(np.argsort(narrow, kind="stable"), np.cumsum(counts)[:-1])


def _cumulated(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cumulate probabilities as ``np.random.choice`` does, to the last bit."""
    cumulated = chances.cumsum(axis=-1)
    return np.asarray(cumulated / cumulated[..., -1:])


def check_rate(rate: float) -> float:
    """Return ``rate``, or raise if it is no probability."""
    if not 0 <= rate <= 1:
        raise UserError(f"A noise rate is a probability and must lie in [0, 1], but got {rate}. Set --data.noise.rate.")
    return float(rate)


class Noise:
    """Base of all injectors: ``noise(labels, num_classes, index=...)`` returns noisy labels of the same shape.

    Args:
        seed: seed of the draw; ``None`` takes the run's own seed (``seed_everything``).
    """

    needs_inputs: ClassVar[bool] = False
    """Whether the labels depend on the inputs, which are given as ``x`` then and ``None`` otherwise."""
    class_names: Sequence[str] = ()
    """Names of the classes, in the order of the labels; the datamodule tells them."""
    needs_names: bool = False
    """Whether it finds samples by what they are called, so that the datamodule tells :attr:`item_names`."""
    item_column: str | None = None
    """The column of the data's table that says what samples are called; ``None`` for the paths of their files."""
    item_names: Mapping[int, str] = MappingProxyType({})
    """What samples are called, by original index."""
    takes_true_labels: bool = True
    """Whether the labels that it is applied to are the true ones, as far as the data itself does not know better."""
    annotators: Sequence[str] = ()
    """Names of the people whose votes there are; empty where each sample has one label."""

    def __init__(self, seed: int | None = None) -> None:
        if seed is not None and not 0 <= seed < 2**32:
            raise UserError(f"A noise seed must lie in 0..2**32-1, but got {seed}. Set --data.noise.seed.")
        self.seed = base_seed() if seed is None else seed

    def transition_matrix(self, num_classes: int) -> NDArray[np.float64] | None:
        """Return T, shape ``(C, C)``, or ``None`` where the noise is not a function of the class."""
        return None

    def __call__(self, labels: Labels, num_classes: int, *, index: Labels, x: Any = None) -> Labels:
        """Return noisy labels.

        Args:
            labels: clean labels in ``0..C-1``, shape ``(N,)``, int64.
            num_classes: C.
            index: position of each sample in the ORIGINAL data set, shape ``(N,)``.
            x: inputs, for noise that depends on them.
        """
        raise NotImplementedError

    # -- labels of several people: see CrowdLabels --------------------------------------------------------------------

    def votes(self, index: Labels) -> Labels | None:
        """Return the votes on samples of some original indices, shape ``(N, A)``, -1 where an annotator gave none."""
        return None

    def has_label(self, index: Labels, num_classes: int) -> NDArray[np.bool_] | None:
        """Return which samples it has a label for, where the others are to be left out; ``None`` for all."""
        return None

    def unused(self, index: Labels) -> str | None:
        """Return a line on what it holds of samples that are not among those of the data; ``None`` for nothing."""
        return None

    def facts(self) -> dict[str, Any]:
        """Return what else :func:`report` says of it, in plain JSON types."""
        return {}


def report(noise: Noise, clean: Labels | None, noisy: Labels, num_classes: int, *, sha256: str) -> dict[str, Any]:
    """Describe the noise as it came out, in plain JSON types.

    Args:
        noise: the injector.
        clean: true labels of the training set, shape ``(N,)``; ``None`` where nobody knows them.
        noisy: labels to learn from, shape ``(N,)``.
        num_classes: C.
        sha256: fingerprint of all noisy labels, and of the votes that they come from.

    Returns:
        ``injector``, ``seed``, ``requested_rate`` (``None`` where the injector has none), ``train_rate`` (share of
        labels changed; ``None`` where the true ones are unknown), ``matrix`` (realised, ``None`` in rows without
        samples; ``None`` as a whole likewise), ``sha256``, and what the injector adds.
    """
    matrix = realised_matrix(clean, noisy, num_classes) if clean is not None else None
    return {
        "injector": type(noise).__name__,
        "seed": noise.seed,
        "requested_rate": getattr(noise, "rate", None),
        "train_rate": float((clean != noisy).mean()) if clean is not None else None,
        "matrix": None
        if matrix is None
        else [[None if np.isnan(share) else float(share) for share in row] for row in matrix],
        "sha256": sha256,
        **noise.facts(),
    }


def fingerprint(*labels: Labels) -> str:
    """Return the SHA-256 of label arrays, one after the other, as little-endian int64."""
    digest = hashlib.sha256()
    for part in labels:
        digest.update(part.astype("<i8").tobytes())
    return digest.hexdigest()
