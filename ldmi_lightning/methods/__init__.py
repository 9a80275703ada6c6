"""Methods of more than one net, view or label a sample, one in each file, on the contract of :class:`ldmi_lightning.Method`."""

from ldmi_lightning.methods.co_teaching import CoTeaching
from ldmi_lightning.methods.crowd_forward import CrowdForward
from ldmi_lightning.methods.divide_mix import DivideMix

__all__ = ["CoTeaching", "CrowdForward", "DivideMix"]
