"""Noise that depends on the input as well as on the class: beyond what L_DMI is proven for."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.errors import UserError
from ldmi_lightning.noise.base import Labels, Noise, by_class, check_rate

Floats = NDArray[np.float64]

SPREAD = 0.1
"""Standard deviation of the samples' flip rates."""

GRID = 2.0**12
"""Entries of a projection are multiples of 1 / GRID, so that they are short."""

CHUNK = 2**22
"""How many inputs' numbers are turned into floats at a time."""


class InstanceDependentNoise(Noise):
    r"""Part-dependent label noise, PTD (Xia et al., *Part-dependent Label Noise*, NeurIPS 2020, algorithm 2).

    Sample x of class y has a flip rate q of its own, and goes to class j with the probability

    .. math:: q \cdot \operatorname{softmax}_{j \ne y}(x W_y)_j, \qquad q \sim N(\text{rate}, .1^2) \text{ within } [0, 1],

    where :math:`W_y`, one for each class, has standard normal entries. Training and validation share them. Images stored
    as uint8 are standardised one by one (mean 0, variance 1 over all numbers of an image): brightness and scale do not
    count. Floats are taken as they are. Near 0 and 1 truncation shifts the mean of q: a rate of 0.1 gives 0.129.

    The labels are the same bit for bit whatever the number of threads.

    Args:
        rate: centre of the flip rates.
        seed: seed of the draw; ``None`` takes the run's own seed (``seed_everything``).
    """

    needs_inputs = True

    def __init__(self, rate: float, seed: int | None = None) -> None:
        super().__init__(seed)
        self.rate = check_rate(rate)

    def __call__(self, labels: Labels, num_classes: int, *, index: Labels, x: Any = None) -> Labels:
        """Draw noisy labels.

        Args:
            labels: clean labels in ``0..C-1``, shape ``(N,)``, int64.
            num_classes: C.
            index: not looked at.
            x: inputs, shape ``(N, ...)``: uint8 images or floats, a tensor in the CPU's memory or an array.

        Raises:
            UserError: if there are no inputs, or they are no vectors: whole numbers such as the tokens of texts.
        """
        inputs = as_vectors(x, len(labels))
        random = np.random.RandomState(self.seed)
        # First what all samples share, so that it does not depend on their number.
        logits = np.empty((len(labels), num_classes))
        for label, members in enumerate(by_class(labels, num_classes)):
            projection = np.rint(random.standard_normal((inputs.shape[1], num_classes)) * GRID)
            for some in chunks(members, inputs.shape[1]):
                logits[some] = project(inputs[some], projection) / GRID
            logits[members, label] = -np.inf
        rates = draw_rates(self.rate, len(labels), random)
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances *= (rates / chances.sum(axis=1))[:, np.newaxis]
        chances[np.arange(len(labels)), labels] = 1 - rates
        cumulated = chances.cumsum(axis=1)
        uniform = random.random_sample((len(labels), 1))
        return np.asarray((cumulated <= uniform * cumulated[:, -1:]).sum(axis=1), dtype=np.int64)


def as_vectors(x: Any, n: int) -> NDArray[Any]:
    """Return ``x`` as an array of shape ``(N, S)``, or raise if its rows are not vectors of numbers."""
    if x is None or len(x) != n:
        raise UserError(
            f"InstanceDependentNoise needs the inputs of all {n} samples as x, but got {'none' if x is None else len(x)}."
        )
    inputs = np.asarray(x).reshape(n, -1)
    if inputs.dtype != np.uint8 and not np.issubdtype(inputs.dtype, np.floating):
        raise UserError(
            f"InstanceDependentNoise projects inputs as vectors, but these are whole numbers ({inputs.dtype}), such as the "
            "tokens of texts, whose size means nothing. Choose a noise that depends on the class alone, or LabelFileNoise."
        )
    return inputs


def chunks(members: Labels, size: int) -> Iterator[Labels]:
    """Yield the positions in parts of at most ``CHUNK`` numbers, where each sample has ``size`` of them."""
    step = max(1, CHUNK // size)
    for begin in range(0, len(members), step):
        yield members[begin : begin + step]


def project(inputs: NDArray[Any], projection: Floats) -> Floats:
    """Multiply inputs, uint8 ones standardised, by a matrix of whole numbers, with the same bits on any number of threads.

    BLAS adds up in an order that depends on the threads. So all that is added here is whole numbers of at most 16 bits
    each, whose products' sums are exact in float64 (up to 2^22 numbers a sample), in whatever order. Floats are rounded to
    15 bits of their sample's largest.

    Args:
        inputs: shape ``(N, S)``, uint8 or floats.
        projection: shape ``(S, C)``, whole numbers below 2^15.

    Returns:
        Shape ``(N, C)``.
    """
    values = inputs.astype(np.float64)
    if inputs.dtype != np.uint8:
        if not np.isfinite(values).all():
            raise UserError("InstanceDependentNoise projects the inputs, but some are NaN or infinite. Mend the data.")
        _, exponent = np.frexp(np.abs(values).max(axis=1, keepdims=True))
        short = np.rint(np.ldexp(values, 15 - exponent))
        return np.asarray(np.ldexp(short @ projection, exponent - 15))
    mean = values.mean(axis=1, keepdims=True)
    variance = (values**2).mean(axis=1, keepdims=True) - mean**2
    centred = values @ projection - mean * projection.sum(axis=0)
    spread = np.sqrt(variance.clip(min=0))
    return np.asarray(np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0))


def draw_rates(rate: float, n: int, random: np.random.RandomState) -> Floats:
    """Draw flip rates from the normal distribution around ``rate`` within [0, 1], shape ``(N,)``."""
    rates = random.normal(rate, SPREAD, n)
    while len(outside := np.flatnonzero((rates < 0) | (rates > 1))):
        rates[outside] = random.normal(rate, SPREAD, len(outside))
    return rates
