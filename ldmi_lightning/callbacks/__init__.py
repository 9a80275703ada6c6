"""Callbacks for anyone's Trainer: U in the loggers, what a fit shows of its epochs, and what W&B keeps of a run."""

from ldmi_lightning.callbacks.joint_matrix_logger import JointMatrixLogger
from ldmi_lightning.callbacks.progress_bar import EpochLines, StageProgressBar
from ldmi_lightning.callbacks.wandb_record import WandbRecord

__all__ = ["EpochLines", "JointMatrixLogger", "StageProgressBar", "WandbRecord"]
