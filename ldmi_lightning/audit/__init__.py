"""Which labels are wrong, and how many: pure functions over probabilities and labels, NumPy only."""

from .accuracy import accuracy_on_true_labels
from .advice import advice
from .audit import THRESHOLD, Audit, audit, corrected
from .counts import confident_joint
from .intervals import Estimate
from .posterior import posterior
from .truth import against_truth

__all__ = [
    "THRESHOLD",
    "Audit",
    "Estimate",
    "accuracy_on_true_labels",
    "advice",
    "against_truth",
    "audit",
    "confident_joint",
    "corrected",
    "posterior",
]
