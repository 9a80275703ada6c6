"""Train classifiers on labels that cannot be trusted: L_DMI and its rivals on PyTorch Lightning."""

from importlib.metadata import version

from ldmi_lightning.batch import Batch
from ldmi_lightning.module import LDMIModule
from ldmi_lightning.stages import Stage

__version__ = version("ldmi_lightning")

__all__ = ["Batch", "LDMIModule", "Stage", "__version__"]
