"""Audits of a few labels whose posteriors are written down."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ldmi_lightning.audit import Audit, Estimate
from ldmi_lightning.audit.rows import Rows
from ldmi_lightning.originals import Original

FILES = [
    "audit.html",
    "issues.csv",
    "label_studio.json",
    "label_studio.xml",
    "labels.csv",
    "review.csv",
    "summary.json",
]
"""What an audit's folder holds."""


def estimate(value: Any) -> Estimate:
    value = np.asarray(value, dtype=float)
    return Estimate(value, value - 0.25, value + 0.25)


def judged(given: Sequence[int], posteriors: Sequence[Sequence[float]], outputs: Any = "true") -> Audit:
    """Return the audit of labels whose posteriors are known."""
    table, labels = np.array(posteriors), np.array(given)
    classes = table.shape[1]
    quality = table[np.arange(len(labels)), labels]
    return Audit(
        given=labels,
        suggested=table.argmax(axis=1),
        quality=quality,
        confidence=table.max(axis=1),
        order=np.argsort(quality, kind="stable"),
        num_classes=classes,
        outputs=outputs,
        transition=estimate(np.eye(classes)),
        priors=estimate(np.full(classes, 1 / classes)),
        wrong=estimate(float(len(labels) - quality.sum())),
        wrong_by_class=estimate(np.bincount(labels, 1 - quality, classes)),
        temperature=1.25 if outputs == "true" else None,
        disagreeing=np.bincount(labels[table.argmax(axis=1) != labels], minlength=classes),
    )


def rows_of(found: Audit, names: Sequence[str], originals: Sequence[Original | None] = (), **known: Any) -> Rows:
    samples = len(found.given)
    return Rows(
        **{
            "index": np.arange(samples),
            "split": np.full(samples, "train"),
            "seen": np.zeros(samples, dtype=bool),
            "class_names": list(names),
            "originals": originals or [None] * samples,
            **known,
        }
    )
