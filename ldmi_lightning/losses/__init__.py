"""Losses of a stage: one method, one file, all on the contract of :mod:`ldmi_lightning.losses.base`."""

from ldmi_lightning.losses.base import Loss, Predictions, TransitionLoss, global_mean
from ldmi_lightning.losses.ce import CELoss
from ldmi_lightning.losses.dmi import DMILoss
from ldmi_lightning.losses.forward import ForwardLoss
from ldmi_lightning.losses.gce import GCELoss
from ldmi_lightning.losses.lccn import LCCNLoss

__all__ = [
    "CELoss",
    "DMILoss",
    "ForwardLoss",
    "GCELoss",
    "LCCNLoss",
    "Loss",
    "Predictions",
    "TransitionLoss",
    "global_mean",
]
