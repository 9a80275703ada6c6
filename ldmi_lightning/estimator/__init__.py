"""LDMIClassifier: the stages as a scikit-learn estimator over arrays and tables."""

from ldmi_lightning.estimator.classifier import LDMIClassifier

__all__ = ["LDMIClassifier"]
