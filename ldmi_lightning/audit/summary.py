"""The figures of an audit in plain JSON types: what ``summary.json`` holds, and what the page shows."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.audit.audit import Audit
from ldmi_lightning.audit.rows import Rows
from ldmi_lightning.audit.tables import to_review

OWN_KEYS = ("truth", "advice", "annotators")


def summary(
    found: Audit, rows: Rows, labels: NDArray[np.int64], *, threshold: float, head: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of ``summary.json``.

    Numbers are rounded to six significant digits; what is not known is ``None``.

    Args:
        found: the audit.
        rows: its samples.
        labels: corrected labels, shape ``(N,)``.
        threshold: from which P(suggested is right) on labels were corrected.
        head: what the command knows; ``truth``, ``advice`` and ``annotators`` stand on their own.
    """
    # T̂ and all counts are of the held-out samples, where there are any.
    counted = rows.seen if rows.seen.all() else ~rows.seen
    given = np.bincount(found.given[counted], minlength=found.num_classes)
    wrong = plain(found.wrong_by_class._asdict())
    priors = plain(found.priors._asdict())
    return {
        "samples": len(rows),
        "counted": int(counted.sum()),
        "seen": int(rows.seen.sum()),
        "outputs": found.outputs,
        "temperature": plain(found.temperature),
        "wrong": plain(found.wrong._asdict()),
        "wrong_by_class": [
            {"class": name, "given": int(given[k]), "wrong": _at(wrong, k), "share_of_true_labels": _at(priors, k)}
            for k, name in enumerate(rows.class_names)
        ],
        "threshold": plain(threshold),
        "suggested_differs": int(found.is_issue.sum()),
        "corrected": int((labels != found.given).sum()),
        "to_review": int(to_review(found, labels).sum()),
        "truth": plain(head.get("truth")),
        "advice": head.get("advice"),
        "annotators": plain(head.get("annotators")),
        "made_by": plain({key: value for key, value in head.items() if key not in OWN_KEYS}),
        "transition": plain(found.transition._asdict()),
    }


def _at(estimate: Mapping[str, Any], k: int) -> dict[str, Any]:
    return {key: values[k] for key, values in estimate.items()}


def plain(value: Any) -> Any:
    """Return a value in plain JSON types, numbers rounded to six significant digits; ``None`` for what is no number.

    >>> from pathlib import Path
    >>> plain({"a": np.array([1 / 3, np.nan]), "b": (np.int64(2), Path("runs"))})
    {'a': [0.333333, None], 'b': [2, 'runs']}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray) and value.dtype == np.float64 and np.isfinite(value).all():
        return _rounded(value)
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _rounded(values: NDArray[np.float64]) -> Any:
    """Return finite numbers rounded to six significant digits, as nested lists: millions of them in seconds.

    >>> _rounded(np.array([[1 / 3, 0.0], [2e-7 / 3, 1234567.0]]))
    [[0.333333, 0.0], [6.66667e-08, 1234570.0]]
    """
    texts = ("%.6g " * values.size % tuple(values.ravel().tolist())).split()
    return np.fromiter(map(float, texts), np.float64, values.size).reshape(values.shape).tolist()


def as_json(content: Mapping[str, Any]) -> str:
    """Return JSON with a line for each key, since a matrix with a line for each number could not be read.

    >>> print(as_json({"a": [1, 2], "b": None}), end="")
    {
     "a": [1, 2],
     "b": null
    }
    """
    lines = (
        f" {json.dumps(key)}: {json.dumps(each, allow_nan=False, ensure_ascii=False)}" for key, each in content.items()
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"
