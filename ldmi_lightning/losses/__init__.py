"""Losses of a stage: one method, one file, all on the contract of :mod:`ldmi_lightning.losses.base`."""

from ldmi_lightning.losses.base import Loss, Predictions, global_mean
from ldmi_lightning.losses.ce import CELoss
from ldmi_lightning.losses.dmi import DMILoss

__all__ = ["CELoss", "DMILoss", "Loss", "Predictions", "global_mean"]
