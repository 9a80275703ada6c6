"""A test set whose own labels are noisy: accuracy on the labels as given, and what it would be on true ones."""

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.audit.audit import checked
from ldmi_lightning.audit.intervals import (
    WARMER,
    Estimate,
    Spread,
    normal_interval,
    refined_temperature,
    sampled_rows,
    transitions,
    warmer,
)
from ldmi_lightning.audit.posterior import chunks, posterior
from ldmi_lightning.errors import UserError
from ldmi_lightning.likelihood import tempered

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def accuracy_on_true_labels(
    probs: NDArray[np.floating], y: NDArray[np.integer], transition: Floats, temperature: float, *, seed: int = 0
) -> Estimate:
    r"""Estimate the share of samples whose most probable class is the TRUE one, from noisy labels.

    It is the mean of P(true = decision | x, given label), the posterior of :mod:`ldmi_lightning.audit.posterior`. Its 95 %
    interval is for these samples: the coins of :mod:`ldmi_lightning.audit.intervals`, and what not knowing T and the
    temperature adds, as if they had been estimated from as many samples as these.

    T comes from outside. ``ldmi fit`` and ``ldmi test`` (:func:`ldmi_lightning.commands.true_accuracy.true_accuracy`) fit it on
    the outputs and noisy labels of the validation AND the test set together, which takes both to be noisy in the same way.
    Nothing is selected by it, so that test labels decide over no model; but the figure is no more independent of the test
    labels than the accuracy as labelled is.

    Args:
        probs: outputs of a model of TRUE labels, shape ``(N, C)``.
        y: noisy labels of samples that the model was not trained on, shape ``(N,)``.
        transition: T, shape ``(C, C)``, of :func:`ldmi_lightning.likelihood.fit_transition` on labels that the model was not
            trained on: these, or others that are noisy in the same way.
        temperature: of the same fit.
        seed: of the bootstrap samples.

    Raises:
        UserError: these are no probabilities, or not of these labels.

    The decision is 0 for both; given label 0 it is right by 0.8 · 0.9 to 0.2 · 0.1, given 1 by 0.8 · 0.1 to 0.2 · 0.9:

    >>> transition = np.array([[0.9, 0.1], [0.1, 0.9]])
    >>> found = accuracy_on_true_labels(np.array([[0.8, 0.2], [0.8, 0.2]]), np.array([0, 1]), transition, 1.0)
    >>> round(found.value, 6) == round((72 / 74 + 8 / 26) / 2, 6)
    True
    """
    probs, y = checked(probs, y, every_class=False)
    num_samples, num_classes = probs.shape
    if np.shape(transition) != (num_classes, num_classes):
        raise UserError(f"T must have {num_classes} rows and columns, but has shape {np.shape(transition)}.")
    right = np.concatenate(
        [_right(tempered(probs[rows], temperature), y[rows], transition) for rows in chunks(*probs.shape)]
    )
    random = np.random.RandomState(seed)
    rows = sampled_rows(num_samples, num_classes, random)
    part, labels = probs[rows], y[rows]
    q = tempered(part, temperature)
    spread = Spread()
    for drawn in transitions(q, labels, transition, random):
        spread.add([_right(q, labels, drawn).mean() - right[rows].mean()])
    of_t = spread.deviations()[0] * np.sqrt(len(rows) / num_samples)
    of_log_t = refined_temperature(part, labels, transition, temperature, num_samples).deviation
    low, _, high = (_right(q, labels, t).mean() for q, t in warmer(part, labels, transition, temperature))
    of_temperature = (high - low) / (2 * np.log(WARMER)) * of_log_t
    coins = (right * (1 - right)).sum() / num_samples**2
    return normal_interval(float(right.mean()), float(np.sqrt(coins + of_t**2 + of_temperature**2)))


def _right(q: Floats, y: Labels, transition: Floats) -> Floats:
    """Return P(the decision by q is the true class), shape ``(N,)``."""
    decided = q.argmax(axis=1)
    found: Floats = posterior(q, y, transition)[np.arange(len(y)), decided]
    return found
