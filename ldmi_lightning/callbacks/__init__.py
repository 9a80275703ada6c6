"""Callbacks that know stages."""

from ldmi_lightning.callbacks.progress_bar import StageProgressBar
from ldmi_lightning.callbacks.stage_checkpoint import StageCheckpoint

__all__ = ["StageCheckpoint", "StageProgressBar"]
