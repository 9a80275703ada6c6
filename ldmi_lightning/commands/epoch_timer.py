"""How long the training of an epoch takes, stage by stage: what a method costs, beside what it reaches."""

import statistics
import time
from collections import defaultdict
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from ldmi_lightning.training.module import LDMIModule

CLOCKS = {"time_s": time.monotonic, "cpu_time_s": time.process_time}
"""What is measured: time as it passes, and the processors' time, which other programs on the machine do not change."""


class EpochTimer(Callback):
    """Measures the training of each epoch that this process runs, without its validation."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._begun: dict[str, float] = {}

    def medians(self, stage: str) -> dict[str, Any]:
        """Return the medians over a stage's epochs, in seconds to four digits; ``None`` where another process ran them."""
        measured = {name: self.seconds[stage, name] for name in CLOCKS}
        return {name: float(f"{statistics.median(each):.4g}") if each else None for name, each in measured.items()}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin, after the stage has been prepared."""
        self._begun = {name: clock() for name, clock in CLOCKS.items()}

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End, where a validation follows the epoch's last batch."""
        self._end(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End, where none has."""
        self._end(pl_module)

    def _end(self, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, LDMIModule)
        for name, begun in self._begun.items():
            self.seconds[pl_module.progress.stage, name].append(CLOCKS[name]() - begun)
        self._begun = {}
