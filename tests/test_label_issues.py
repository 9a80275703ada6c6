"""LDMIClassifier.find_label_issues: each label is judged by a copy that never saw it."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from estimators import blobs, quick

from ldmi_lightning.errors import UserError


def test_each_label_is_judged_by_a_copy_that_never_saw_it() -> None:
    X, truth = blobs(900, classes=3, spread=0.7)
    names = np.array(["ape", "bee", "cow"])
    y = np.where((truth == 1) & (np.random.RandomState(1).rand(900) < 0.6), 2, truth)
    table = pd.DataFrame(X, columns=list("abcde"), index=np.arange(900) + 7)
    model = quick(warmup_epochs=3, epochs=3)
    found = model.find_label_issues(table, names[y], folds=2)
    assert list(found.columns) == [
        *("given_label", "predicted_label", "label_quality", "confidence", "is_label_issue", "rank"),
    ]
    assert found.index.equals(table.index)
    assert found.given_label.tolist() == names[y].tolist()
    wrong = y != truth
    assert found.label_quality[wrong].mean() < 0.2
    assert found.label_quality[~wrong].mean() > 0.8
    assert (found.predicted_label.to_numpy() == names[truth]).mean() > 0.93
    assert found.is_label_issue.equals(found.given_label != found.predicted_label)
    assert sorted(found["rank"]) == list(range(1, 901))
    assert found.label_quality[found["rank"].sort_values().index].is_monotonic_increasing
    assert found.attrs["wrong"]["value"] == pytest.approx(wrong.sum(), rel=0.15)
    assert "of 900 labels" in found.attrs["advice"]
    assert not hasattr(model, "classes_"), "the classifier itself is left as it is"


def test_outputs_of_noisy_labels_are_taken_for_what_they_are() -> None:
    X, y = blobs(300)
    found, again = (quick(loss="gce").find_label_issues(X, y, folds=2) for _ in range(2))
    assert "labels as given" in found.attrs["advice"]
    pd.testing.assert_frame_equal(found, again)
    assert found.index.equals(pd.RangeIndex(300))


@pytest.mark.parametrize(
    ("folds", "labels", "said"),
    [
        (1, [0, 1] * 10, "folds must be a whole number of at least 2, but is 1"),
        (2.0, [0, 1] * 10, "folds must be a whole number of at least 2, but is 2.0"),
        (5, [0] * 16 + [1] * 4, "folds=5 needs as many rows of each class, but y has 4 of 1. Take fewer folds"),
    ],
)
def test_folds_that_cannot_be_are_refused_in_one_line(folds: Any, labels: list[int], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        quick().find_label_issues(np.random.RandomState(0).randn(20, 2), labels, folds)
