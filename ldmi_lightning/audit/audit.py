"""Which labels are wrong, and how many: an audit of given labels by the probabilities of a model that did not learn them."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.audit.counts import confident_joint, counted, judge_given
from ldmi_lightning.audit.intervals import Estimate, deviations, normal_interval, refined_temperature, sampled_rows
from ldmi_lightning.audit.posterior import chunks, judge
from ldmi_lightning.errors import UserError
from ldmi_lightning.likelihood import fit_transition, maximise, tempered

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Outputs = Literal["true", "given"]

THRESHOLD = 0.5
"""From this P(suggested is right) on :func:`corrected` takes the suggestion."""

SUM = 1e-2
"""By so much the probabilities of a sample may miss 1; half precision does by a few thousandths."""


@dataclass(frozen=True)
class Audit:
    """What an audit found of N labels of C classes.

    Attributes:
        given: labels as given, shape ``(N,)``.
        suggested: the most probable class, given input AND label, shape ``(N,)``.
        quality: P(given is right), shape ``(N,)``.
        confidence: P(suggested is right), shape ``(N,)``.
        order: positions, the worst label first, shape ``(N,)``; of equal ones the first comes first.
        num_classes: C.
        outputs: ``"true"``: of a model of the TRUE labels; ``"given"``: of the labels as given, and the figures come from
            decisions alone.
        transition: T, shape ``(C, C)``, row = true class, column = given.
        priors: share of each true class, shape ``(C,)``.
        wrong: number of wrong labels in these data.
        wrong_by_class: the same of those given as each class, shape ``(C,)``.
        temperature: by which outputs were made softer; ``None`` for outputs of the labels as given.
        disagreeing: number of samples given each class that the outputs alone decide otherwise, shape ``(C,)``.
    """

    given: Labels
    suggested: Labels
    quality: Floats
    confidence: Floats
    order: Labels
    num_classes: int
    outputs: str
    transition: Estimate
    priors: Estimate
    wrong: Estimate
    wrong_by_class: Estimate
    temperature: float | None
    disagreeing: Labels

    @property
    def is_issue(self) -> NDArray[np.bool_]:
        """Whether another label is more probable than the given one, shape ``(N,)``."""
        other: NDArray[np.bool_] = self.suggested != self.given
        return other


def audit(probs: NDArray[np.floating], y: NDArray[np.integer], *, outputs: Outputs = "true", seed: int = 0) -> Audit:
    r"""Audit labels by probabilities for samples that the model was not trained on.

    With outputs of a model of TRUE labels, as after L_DMI or a loss with a T, T and a temperature are the most likely ones
    (:func:`ldmi_lightning.likelihood.fit_transition`), and P(true = k | x, given) is proportional to q_k T[k, given]
    (:mod:`ldmi_lightning.audit.posterior`). With those of a model of the labels as GIVEN, as after cross-entropy and its
    like, T comes from decisions alone (:mod:`ldmi_lightning.audit.counts`). Intervals are explained in
    :mod:`ldmi_lightning.audit.intervals`.

    Args:
        probs: shape ``(N, C)``, float64, float32 or float16.
        y: given labels, integers of shape ``(N,)``; each class occurs.
        outputs: ``"true"`` or ``"given"``: whose probabilities they are.
        seed: of the bootstrap samples that the intervals come from.

    Raises:
        UserError: these are no probabilities, or not of these labels.

    Outputs are sure. Of three samples of class 0 two are labelled 1, one of class 1 is labelled 1:

    >>> found = audit(np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([0, 1, 1, 1]))
    >>> found.suggested.tolist(), found.order.tolist(), found.is_issue.tolist()
    ([0, 0, 0, 1], [1, 2, 0, 3], [False, True, True, False])
    >>> found.transition.value.round(3).tolist(), round(found.wrong.value, 3), found.priors.value.round(3).tolist()
    ([[0.333, 0.667], [0.0, 1.0]], 2.0, [0.75, 0.25])
    """
    probs, y = checked(probs, y)
    if outputs not in get_args(Outputs):
        raise UserError(f"audit: outputs must be 'true' or 'given', but got {outputs!r}.")
    num_samples, num_classes = probs.shape
    random = np.random.RandomState(seed)
    label_counts = np.bincount(y, minlength=num_classes)
    temperature = None
    if outputs == "true":
        rows = sampled_rows(num_samples, num_classes, random)
        part, labels = probs[rows], y[rows]
        fitted = fit_transition(part, labels)
        refined = refined_temperature(part, labels, fitted.transition, fitted.temperature, num_samples)
        temperature = refined.value
        q = tempered(probs, temperature)
        matrix = maximise(q, y)
        found = judge(q, y, matrix)
        moved = deviations(part, labels, matrix, refined, num_samples, random)
        right = found.counts.diagonal()
        transition = normal_interval(matrix, moved.transition)
        classes = np.sqrt(moved.classes**2 + found.class_spread)
        priors = normal_interval(found.counts.sum(axis=1) / num_samples, classes / num_samples)
        deviation = np.sqrt(moved.all_right**2 + found.spread.sum())
        wrong = normal_interval(float(num_samples - right.sum()), deviation, high=num_samples)
        by_class = np.sqrt(moved.right**2 + found.spread)
        wrong_by_class = normal_interval(np.maximum(label_counts - right, 0), by_class, high=label_counts)
    else:
        transition, priors, wrong, wrong_by_class = counted(confident_joint(probs, y), label_counts, random)
        found = judge_given(probs, y, transition.value)
    return Audit(
        given=y,
        suggested=found.suggested,
        quality=found.quality,
        confidence=found.confidence,
        order=np.argsort(found.quality, kind="stable"),
        num_classes=num_classes,
        outputs=outputs,
        transition=transition,
        priors=priors,
        wrong=wrong,
        wrong_by_class=wrong_by_class,
        temperature=temperature,
        disagreeing=np.bincount(y[found.decided != y], minlength=num_classes),
    )


def corrected(found: Audit, threshold: float = THRESHOLD) -> Labels:
    """Return the suggested label where it is right with probability ``threshold`` at least, else the given one.

    >>> found = audit(np.array([[0.8, 0.2], [0.2, 0.8], [0.4, 0.6], [0.4, 0.6]]), np.array([0, 1, 0, 1]))
    >>> corrected(found, threshold=0.0).tolist() == found.suggested.tolist(), corrected(found, threshold=1.0).tolist()
    (True, [0, 1, 0, 1])
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"The threshold for corrections must lie in 0..1, but got {threshold}.")
    return np.where(found.confidence >= threshold, found.suggested, found.given)


def checked(
    probs: NDArray[np.floating], y: NDArray[np.integer], every_class: bool = True
) -> tuple[NDArray[np.floating], Labels]:
    """Return probabilities and labels as they are worked with, if they are what they should be.

    Args:
        probs: to be of shape ``(N, C)``.
        y: to be integers of shape ``(N,)``.
        every_class: whether each class must occur among them.

    Raises:
        UserError: one line says what they are instead.

    >>> checked(np.array([[0.5, 0.6], [0.5, 0.5]]), np.array([0, 1]))
    Traceback (most recent call last):
    ldmi_lightning.errors.UserError: Probabilities must sum to 1, but those of row 0 sum to 1.1. Give softmax outputs.
    """
    probs, y = np.asarray(probs), np.asarray(y)
    if probs.ndim != 2 or probs.shape[1] < 2 or not len(probs) or not np.issubdtype(probs.dtype, np.floating):
        raise UserError(
            f"Probabilities must be floats of shape (N, C), of one sample and two classes at least, but are {probs.dtype} of "
            f"shape {probs.shape}. Give a row of softmax outputs for each sample."
        )
    if y.ndim != 1 or len(y) != len(probs):
        raise UserError(
            f"There are {len(probs)} rows of probabilities, but labels of shape {y.shape}. Give one label for each row, in "
            "the same order."
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise UserError(f"Labels must be integers from 0 on, but are {y.dtype}. Give the number of each class.")
    num_classes = probs.shape[1]
    if not 0 <= y.min() <= y.max() < num_classes:
        raise UserError(
            f"Labels must lie in 0..{num_classes - 1}, as there are {num_classes} columns of probabilities, but go from "
            f"{y.min()} to {y.max()}. Give one column for each class."
        )
    for rows in chunks(*probs.shape):
        part = probs[rows]
        bad = np.flatnonzero(~(np.isfinite(part) & (part >= 0)).all(axis=1))
        if len(bad):
            value = part[bad[0]][~(np.isfinite(part[bad[0]]) & (part[bad[0]] >= 0))][0]
            raise UserError(
                f"Probabilities must be numbers from 0 to 1, but row {rows.start + bad[0]} holds {value:g}. Give softmax "
                "outputs."
            )
        totals = part.sum(axis=1, dtype=np.float64)
        bad = np.flatnonzero(abs(totals - 1) > SUM)
        if len(bad):
            raise UserError(
                f"Probabilities must sum to 1, but those of row {rows.start + bad[0]} sum to {totals[bad[0]]:g}. Give "
                "softmax outputs."
            )
    missing = np.flatnonzero(np.bincount(y, minlength=num_classes) == 0)
    if every_class and len(missing):
        raise UserError(
            f"No label is class {', '.join(map(str, missing[:5]))}{', …' if len(missing) > 5 else ''}, of {num_classes} "
            "columns of probabilities. Give labels in which each class occurs, or leave out the columns of those that do not."
        )
    return probs, y.astype(np.int64)
