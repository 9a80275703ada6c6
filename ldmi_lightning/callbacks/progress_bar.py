"""What a fit shows of its epochs: a bar that names the stage on a terminal, and plain lines elsewhere."""

from typing import Any, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar, TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

FIGURES = ("val/acc", "val/nll")
"""What a line shows of a validation, beside what the module itself puts into a progress bar and selects by."""


class Selecting(Protocol):
    """A stage that selects its best epoch."""

    @property
    def selected_by(self) -> str:
        """Name of the logged value that selects it."""


@runtime_checkable
class InStages(Protocol):
    """A module that trains in stages, as :class:`~ldmi_lightning.LDMIModule` does."""

    improved: bool
    """Whether the last validation found the best weights of the stage so far."""

    @property
    def stage(self) -> Selecting:
        """The running stage."""

    def describe_epoch(self) -> str:
        """Name the running epoch, such as ``warmup 3/20``."""


def name_epoch(trainer: pl.Trainer) -> str:
    """Name the running epoch: by its stage, where there are stages."""
    module = trainer.lightning_module
    return module.describe_epoch() if isinstance(module, InStages) else f"epoch {trainer.current_epoch + 1}"


class StageProgressBar(TQDMProgressBar):
    """Lightning's progress bar for training, with ``warmup 3/20`` for the epoch, and none for validation.

    Args:
        refresh_rate: batches between two refreshes; 50 cost nothing.
    """

    def __init__(self, refresh_rate: int = 50) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=False)  # one line for all epochs

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Name the stage and its epoch, which begins now."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(name_epoch(trainer))

    def init_validation_tqdm(self) -> Tqdm:
        """Keep the bar of a validation within ``fit`` silent."""
        return Tqdm(disable=True) if self.trainer.state.fn == TrainerFn.FITTING else super().init_validation_tqdm()

    def init_test_tqdm(self) -> Tqdm:
        """Leave no bar behind for each of the tests that follow a fit."""
        bar = super().init_test_tqdm()
        bar.leave = False
        return bar

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Leave out Lightning's version number of the run, which says nothing here."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class EpochLines(ProgressBar):
    """A plain line for each epoch of training, for where output is no terminal, such as a log file; for any module.

    ``warmup 3/20: train/loss 0.5121, val/acc 0.834, val/nll 0.4102 (best so far)``: the mean loss of the epoch's batches
    on all ranks, and of the validation, where there was one, ``val/acc``, ``val/nll``, what the stage selects by, and what
    the module logs with ``prog_bar=True``. Validation and test on their own show nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_enabled = True
        self._epoch = ""
        self._loss: Tensor | None = None
        self._steps = 0
        self._validated = False

    def enable(self) -> None:
        """Print lines again."""
        self.is_enabled = True

    def disable(self) -> None:
        """Print none."""
        self.is_enabled = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print at once, so that a log file is never behind."""
        print(*args, **{"flush": True, **kwargs})

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Name the epoch, which the module may have ended when its line is written."""
        self._epoch, self._loss, self._steps, self._validated = name_epoch(trainer), None, 0, False

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        """Add a batch's loss; the module's own mean comes after the callbacks."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            self._loss = loss.detach().clone() if self._loss is None else self._loss.add_(loss.detach())
            self._steps += 1

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take note that there are figures of a validation."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line."""
        loss = self._loss if self._loss is not None else torch.zeros((), device=pl_module.device)
        mean = trainer.strategy.reduce(loss / max(self._steps, 1), reduce_op="mean")
        if not self.is_enabled:
            return
        figures = {**({"train/loss": mean} if self._steps else {}), **self._logged(trainer)}
        told = ", ".join(f"{name} {float(value):.4g}" for name, value in figures.items())
        best = self._validated and isinstance(pl_module, InStages) and pl_module.improved
        self.print(f"{self._epoch}: {told}{' (best so far)' if best else ''}")

    def _logged(self, trainer: pl.Trainer) -> dict[str, Any]:
        module, known = trainer.lightning_module, trainer.callback_metrics
        names = [*FIGURES, *([module.stage.selected_by] if isinstance(module, InStages) else [])]
        own = {name: value for name, value in trainer.progress_bar_metrics.items() if name != "train/loss"}
        logged = {**{name: known[name] for name in names if name in known}, **own}
        return {name: value for name, value in logged.items() if self._validated or not name.startswith("val")}
