"""What a mistake is, and fits from Python that make some: shared by the tables of mistakes that docs/errors.md lists."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.losses import CELoss


class Mistake(NamedTuple):
    """What a user did: a command line, or a call from Python; the files that it was done with, and where it was done."""

    group: str
    done: str
    call: Callable[[], Any] | None = None
    files: dict[str, str] = {}  # noqa: RUF012  (a NamedTuple's default, never changed)
    where: Callable[[], AbstractContextManager[None]] = nullcontext


def fit(module: LDMIModule, data: Any = None, **flags: Any) -> None:
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    pl.Trainer(**{**quiet, **flags}).fit(module, data)


def linear(classes: int = 3, robust: Stage | None = None) -> LDMIModule:
    return LDMIModule(torch.nn.Linear(2, classes), classes, Stage(CELoss(), epochs=1), robust)


def loader(x: torch.Tensor, y: torch.Tensor) -> pl.LightningDataModule:
    data = pl.LightningDataModule()
    data.train_dataloader = data.val_dataloader = lambda: DataLoader(TensorDataset(x, y), batch_size=6)  # type: ignore[method-assign]
    return data


def three() -> torch.Tensor:
    return torch.tensor([0, 1, 2] * 4)
