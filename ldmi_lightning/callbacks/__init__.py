"""Callbacks for anyone's Trainer: U in the loggers, how L_DMI is doing, what a fit shows of its epochs, and W&B's record."""

from ldmi_lightning.callbacks.dmi_health import DMIHealth
from ldmi_lightning.callbacks.joint_matrix_logger import JointMatrixLogger
from ldmi_lightning.callbacks.progress_bar import EpochLines, StageProgressBar
from ldmi_lightning.callbacks.wandb_record import WandbRecord

__all__ = ["DMIHealth", "EpochLines", "JointMatrixLogger", "StageProgressBar", "WandbRecord"]
