"""Which labels of rows are wrong: each judged by a classifier that never saw it."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import check_X_y

from ldmi_lightning.audit import advice, audit
from ldmi_lightning.audit.rows import Rows
from ldmi_lightning.audit.tables import issue_columns
from ldmi_lightning.datamodules.folds import deal
from ldmi_lightning.errors import UserError

COLUMNS = ("given_label", "predicted_label", "label_quality", "confidence", "is_label_issue", "rank")


Judge = Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], tuple[NDArray[np.float64], bool]]
"""Fits a classifier to rows and their labels, and returns for other rows probabilities, shape ``(N, C)``, and whether these are
of TRUE labels."""


def find_label_issues(judge: Judge, X: Any, y: Any, folds: int, seed: int) -> pd.DataFrame:
    """Judge each label by a classifier that was fitted without it (:func:`ldmi_lightning.audit.audit`).

    The probabilities are those of the stage that knows most of the true labels, whichever stage predicts.

    Args:
        judge: fits a classifier, anew each time it is called.
        X: rows of numbers, shape ``(N, D)``.
        y: labels as given, of any kind, shape ``(N,)``.
        folds: into how many parts the rows are divided, by label and at random.
        seed: of this draw, and of the bootstrap samples.

    Returns:
        One row for each of X, in its order and with its index: ``given_label`` and ``predicted_label`` as they are called in y,
        ``label_quality`` (P(given is right)), ``confidence`` (P(predicted is right)), ``is_label_issue`` and ``rank``, 1 for
        the worst. These are the names of cleanlab's ``find_label_issues``. ``attrs`` holds ``wrong``, how many labels are
        wrong with its 95 % interval, and ``advice``, what is to be done.

    Raises:
        UserError: too few folds, or rows for them.
    """
    if isinstance(folds, bool) or not hasattr(folds, "__index__") or operator.index(folds) < 2:
        raise UserError(f"folds must be a whole number of at least 2, but is {folds!r}.")
    index = X.index if isinstance(X, pd.DataFrame | pd.Series) else pd.RangeIndex(len(X))
    X, y = check_X_y(X, y, dtype=None, ensure_all_finite=False)  # which fit checks
    classes, labels = np.unique(y, return_inverse=True)
    counts = np.bincount(labels)
    if counts.min() < folds:
        rare = classes.tolist()[counts.argmin()]
        raise UserError(
            f"folds={folds} needs as many rows of each class, but y has {counts.min()} of {rare!r}. Take fewer folds, give more "
            "rows of it, or leave it out."
        )
    fold = deal(labels, folds, seed)
    probs, of_truth = np.empty((len(y), len(classes))), True
    for number in range(folds):
        held = fold == number
        probs[held], is_true = judge(X[~held], y[~held], X[held])
        of_truth = of_truth and is_true
    found = audit(probs, labels, outputs="true" if of_truth else "given", seed=seed)
    names = [str(name) for name in classes.tolist()]
    everywhere, nothing = np.arange(len(y)), np.zeros(len(y), bool)
    rows = Rows(everywhere, np.full(len(y), "train"), nothing, names, [None] * len(y))
    columns: dict[str, Any] = issue_columns(found, rows, everywhere)
    for name in ("given_label", "predicted_label"):
        columns[name] = classes[columns[name]]
    table = pd.DataFrame({name: columns[name] for name in COLUMNS}, index=index)
    table.attrs["wrong"] = {key: float(getattr(found.wrong, key)) for key in ("value", "low", "high")}
    table.attrs["advice"] = advice(found, names, held_out=True)
    return table
