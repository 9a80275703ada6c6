"""Samples whose posteriors, T and true labels are known, for the tests of audits."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Known(NamedTuple):
    """N samples of C Gaussians at right angles, all equally far from the origin."""

    probs: NDArray[np.float64]  # P(true | x), exact
    given: NDArray[np.int64]
    true: NDArray[np.int64]
    transition: NDArray[np.float64]


def symmetric(num_classes: int, rate: float) -> NDArray[np.float64]:
    transition = np.full((num_classes, num_classes), rate / (num_classes - 1))
    np.fill_diagonal(transition, 1 - rate)
    return transition


def class_dependent(num_classes: int, rate: float) -> NDArray[np.float64]:
    """Every second class loses its labels to the next one."""
    transition = np.eye(num_classes)
    for k in range(0, num_classes, 2):
        transition[k, k], transition[k, (k + 1) % num_classes] = 1 - rate, rate
    return transition


def known(transition: NDArray[np.float64], size: int, seed: int, rarest: float = 1.0, distance: float = 3.0) -> Known:
    """Draw samples; the rarest class is to the commonest as ``rarest`` to 1."""
    random, num_classes = np.random.RandomState(seed), len(transition)
    priors = np.linspace(rarest, 1, num_classes)
    priors /= priors.sum()
    true = random.choice(num_classes, size=size, p=priors)
    x = distance * np.eye(num_classes)[true] + random.standard_normal((size, num_classes))
    logits = distance * x + np.log(priors)
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    given = (transition[true].cumsum(axis=1) <= random.random_sample(size)[:, None]).sum(axis=1)
    return Known(probs, given.clip(max=num_classes - 1), true, transition)


def noisy_posteriors(data: Known) -> NDArray[np.float64]:
    """Return P(given | x): what cross-entropy learns of samples that it was not trained on."""
    return data.probs @ data.transition
