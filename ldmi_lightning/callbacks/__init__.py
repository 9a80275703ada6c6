"""Callbacks that know stages."""

from ldmi_lightning.callbacks.joint_matrix_logger import JointMatrixLogger
from ldmi_lightning.callbacks.progress_bar import StageProgressBar
from ldmi_lightning.callbacks.stage_checkpoint import StageCheckpoint
from ldmi_lightning.callbacks.stage_keeper import StageKeeper
from ldmi_lightning.callbacks.wandb_record import WandbRecord

__all__ = ["JointMatrixLogger", "StageCheckpoint", "StageKeeper", "StageProgressBar", "WandbRecord"]
