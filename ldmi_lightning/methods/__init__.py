"""Methods of more than one net or view, one in each file, on the contract of :class:`ldmi_lightning.Method`."""

from ldmi_lightning.methods.co_teaching import CoTeaching
from ldmi_lightning.methods.divide_mix import DivideMix

__all__ = ["CoTeaching", "DivideMix"]
