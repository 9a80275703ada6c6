"""Losses of a stage: one method, one file, all on the contract of :mod:`ldmi_lightning.losses.base`."""

from ldmi_lightning.losses.base import Loss, Predictions, TransitionLoss, global_mean
from ldmi_lightning.losses.ce import CELoss
from ldmi_lightning.losses.dmi import DMILoss
from ldmi_lightning.losses.elr import ELRLoss
from ldmi_lightning.losses.forward import ForwardLoss
from ldmi_lightning.losses.gce import GCELoss
from ldmi_lightning.losses.lccn import LCCNLoss
from ldmi_lightning.losses.sce import SCELoss
from ldmi_lightning.losses.volmin import VolMinLoss

__all__ = [
    "CELoss",
    "DMILoss",
    "ELRLoss",
    "ForwardLoss",
    "GCELoss",
    "LCCNLoss",
    "Loss",
    "Predictions",
    "SCELoss",
    "TransitionLoss",
    "VolMinLoss",
    "global_mean",
]
