"""Train classifiers on labels that cannot be trusted: L_DMI and its rivals on PyTorch Lightning."""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldmi_lightning.batch import Batch
    from ldmi_lightning.estimator import LDMIClassifier
    from ldmi_lightning.method import Method
    from ldmi_lightning.predictor import Predictor, load
    from ldmi_lightning.training.module import LDMIModule
    from ldmi_lightning.training.stages import Stage

__version__ = version("ldmi_lightning")

__all__ = ["Batch", "LDMIClassifier", "LDMIModule", "Method", "Predictor", "Stage", "__version__", "load"]

_PLACES = {
    "Batch": "ldmi_lightning.batch",
    "LDMIClassifier": "ldmi_lightning.estimator",
    "LDMIModule": "ldmi_lightning.training.module",
    "Method": "ldmi_lightning.method",
    "Predictor": "ldmi_lightning.predictor",
    "Stage": "ldmi_lightning.training.stages",
    "load": "ldmi_lightning.predictor",
}
"""Where each public name lies: imported when it is asked for, since PyTorch takes seconds."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
