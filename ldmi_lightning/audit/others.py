"""Samples judged by what an audit found on others: on those that no model has seen, for example."""

from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.audit.audit import Audit, checked
from ldmi_lightning.audit.counts import judge_given
from ldmi_lightning.audit.posterior import judge
from ldmi_lightning.likelihood import tempered


def judged_by(found: Audit, probs: NDArray[np.floating], y: NDArray[np.integer]) -> Audit:
    """Judge each label by the T and the temperature of an audit of other samples, whose figures stay as they are.

    Args:
        found: the audit by whose T it is done.
        probs: outputs of the same model, shape ``(N, C)``.
        y: given labels, shape ``(N,)``.

    Returns:
        The audit of these N labels, but ``transition``, ``priors``, ``wrong`` and ``wrong_by_class`` are those of ``found``.

    >>> from ldmi_lightning.audit.audit import audit
    >>> probs, y = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([0, 1, 1, 1])
    >>> others = judged_by(audit(probs, y), np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([1, 1]))
    >>> others.suggested.tolist(), others.order.tolist(), round(others.wrong.value, 3)
    ([1, 0], [1, 0], 2.0)
    """
    probs, y = checked(probs, y, every_class=False)
    transition = found.transition.value
    if found.temperature is None:
        each = judge_given(probs, y, transition)
    else:
        each = judge(probs, y, transition, partial(tempered, temperature=found.temperature))
    return replace(
        found,
        given=y,
        suggested=each.suggested,
        quality=each.quality,
        confidence=each.confidence,
        order=np.argsort(each.quality, kind="stable"),
        disagreeing=np.bincount(y[each.decided != y], minlength=found.num_classes),
    )
