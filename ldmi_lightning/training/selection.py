"""Which epoch of a stage is its best, and which stage is kept in the end: rules, without Lightning.

No stage is best everywhere, and noisy held-out labels can tell: where noise depends on the class alone, no classifier's
decisions have more mutual information with the noisy labels than the truth (:mod:`ldmi_lightning.decisions`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal

from torch import Tensor

from ldmi_lightning.decisions import compare, decision_scores, is_better


def beats(score: float, best: float | None, mode: Literal["min", "max"]) -> bool:
    """Whether ``score`` is better than ``best``; the earlier epoch wins a tie, and NaN never wins.

    >>> beats(0.3, None, "max"), beats(0.3, 0.3, "max"), beats(0.2, 0.3, "min"), beats(float("nan"), None, "max")
    (True, False, True, False)
    """
    if best is None:
        return score == score
    return score > best if mode == "max" else score < best


@dataclass
class Snapshot:
    """The best epoch of a stage that has ended.

    Attributes:
        stage: its name.
        weights: the backbone's state dict, on the CPU; ``None`` where the stage never saw a validation.
        second: the same of the second net, by its names in the module; empty where there is none.
        decisions: classes predicted on the noisy validation set, and its labels, int64 ``(2, N)``; ``None`` if unknown.
    """

    stage: str
    weights: dict[str, Tensor] | None = None
    second: dict[str, Tensor] = field(default_factory=dict)
    decisions: Tensor | None = None


@dataclass
class Choice:
    """The stage kept so far, and why. Plain values and CPU tensors, since it travels in the checkpoint.

    Attributes:
        kept: the best epoch of the stage kept so far; ``None`` before the first has ended.
        evidence: for each later stage ``stage``, ``against`` (the one kept until then), the mean ``difference`` of their
            scores with its ``standard_error`` and their ratio ``z``, ``None`` where they cannot be compared, and ``kept``.
    """

    kept: Snapshot | None = None
    evidence: list[dict[str, Any]] = field(default_factory=list)

    def consider(self, later: Snapshot, num_classes: int) -> None:
        """Keep a stage that has just ended in the place of the one kept so far, if held-out noisy labels say so.

        Its mean score must be better by more than one standard error of the paired difference. Where the two cannot be
        compared, for want of a validation on the same samples, the later stage is kept.
        """
        kept, self.kept = self.kept, later
        if kept is None:
            return
        found: dict[str, Any] = {"difference": None, "standard_error": None, "z": None}
        if _same_samples(kept.decisions, later.decisions):
            assert kept.decisions is not None
            assert later.decisions is not None
            told = compare(*(_scores(each.decisions, num_classes) for each in (later, kept)))
            found = {name: float(value) if isfinite(value) else None for name, value in told._asdict().items()}
            self.kept = later if is_better(told) else kept
        self.evidence.append({"stage": later.stage, "against": kept.stage, **found, "kept": self.kept.stage})

    def state_dict(self) -> dict[str, Any]:
        """Return plain types and tensors only."""
        return {"kept": None if self.kept is None else dict(vars(self.kept)), "evidence": self.evidence}

    @classmethod
    def from_state_dict(cls, saved: Mapping[str, Any]) -> "Choice":
        """Return the choice that a checkpoint holds."""
        return cls(None if saved["kept"] is None else Snapshot(**saved["kept"]), list(saved["evidence"]))


def _scores(decisions: Any, num_classes: int) -> Any:
    predicted, y = decisions.numpy()
    return decision_scores(predicted, y, num_classes)


def _same_samples(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.shape == other.shape and bool((one[1] == other[1]).all())
