"""Three clouds of points, a linear classifier of them, and a callback that watches it train: shared by many tests."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from conftest import MakeTrainer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.datamodules.base import Examples, NoisyDataModule
from ldmi_lightning.losses import CELoss, DMILoss
from ldmi_lightning.noise import PairFlipNoise

SGD = partial(torch.optim.SGD, lr=0.4)
ADAM = partial(torch.optim.Adam, lr=0.05)
FROZEN = partial(torch.optim.SGD, lr=0.0)
LEARN_TWICE_THEN_UNLEARN = partial(LambdaLR, lr_lambda=lambda epoch: 1.0 if epoch < 2 else -9.0)
NO_WORKERS = "ignore:The '.*_dataloader' does not have many workers"  # true of a tiny test, and no matter


class Blobs(NoisyDataModule):
    """Three overlapping Gaussian clouds: 120 points to train on, 50 for validation, 50 for the test."""

    def __init__(self, rate: float = 0.2, batch_size: int = 30) -> None:
        super().__init__(3, ["ash", "birch", "cedar"], PairFlipNoise(rate, seed=0), batch_size)

    def load(self) -> Mapping[str, Examples]:
        random = np.random.RandomState(0)

        def examples(n: int) -> Examples:
            y = np.arange(n) % 3
            return Examples(torch.from_numpy(2 * np.eye(3)[y] + random.randn(n, 3)).float(), y, np.arange(n))

        return {"train": examples(120), "val": examples(50), "test": examples(50)}


def blobs(**arguments: Any) -> Blobs:
    """Return data that is set up already, so that a test can spoil it."""
    data = Blobs(**arguments)
    data.setup("fit")
    return data


def foreign_loaders(batch_size: int = 30) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return plain (x, y) loaders over the training and the validation set."""
    splits = blobs().splits
    train, val = (TensorDataset(splits[name].x, splits[name].y) for name in ("train", "val"))
    return DataLoader(train, batch_size), DataLoader(val, batch_size)


def ce(epochs: int = 2, **arguments: Any) -> Stage:
    return Stage(CELoss(), epochs, **{"optimizer": SGD, **arguments})


def dmi(epochs: int = 2, memory: float = 0.5, **arguments: Any) -> Stage:
    return Stage(DMILoss(memory), epochs, **{"optimizer": ADAM, **arguments})


def ldmi(warmup: Stage | None = None, robust: Stage | None = None, seed: int = 1) -> LDMIModule:
    """Return a linear classifier; CE and then DMI, two epochs each, unless told otherwise."""
    pl.seed_everything(seed, verbose=False)
    both = warmup is None and robust is None
    return LDMIModule(nn.Linear(3, 3), 3, warmup or ce(), dmi() if both else robust)


def weights(source: LDMIModule | Path) -> dict[str, Tensor]:
    """Return the backbone's weights in a module or in a checkpoint, which must load without running code."""
    if isinstance(source, LDMIModule):
        return {name: value.clone() for name, value in source.backbone.state_dict().items()}
    saved = torch.load(source, weights_only=True)["state_dict"]
    return {name.removeprefix("backbone."): value for name, value in saved.items() if name.startswith("backbone.")}


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def drift(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Return the greatest difference between two runs' weights."""
    assert one.keys() == other.keys()
    return max(float((value - other[name]).abs().max()) for name, value in one.items())


def run_folder(root: Path) -> Path:
    """Return the one run folder, beside which nothing may lie."""
    (folder,) = root.iterdir()
    return folder


@dataclass(eq=False)
class Epoch:
    stage: str
    optimizer: torch.optim.Optimizer
    lr: float
    start: dict[str, Tensor]
    loss_state: dict[str, Tensor]
    batches: int = 0
    end: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


class Watch(pl.Callback):
    """Notes what each epoch began with, and its weights and metrics at its validation."""

    def __init__(self) -> None:
        self.epochs: list[Epoch] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            optimizer, stage = trainer.optimizers[0], pl_module.progress.stage
            loss_state = deepcopy(pl_module.stages[stage].loss.state_dict())
            lr = optimizer.param_groups[0]["lr"]
            self.epochs.append(Epoch(stage, optimizer, lr, weights(pl_module), loss_state))
        self.epochs[-1].batches += 1

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.epochs[-1].end = weights(pl_module)
            self.epochs[-1].metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}

    @property
    def stages(self) -> list[str]:
        return [epoch.stage for epoch in self.epochs]

    def of(self, stage: str) -> list[Epoch]:
        return [epoch for epoch in self.epochs if epoch.stage == stage]

    def best(self, stage: str, monitor: str) -> Epoch:
        """Return the stage's epoch that its curve says is best: the first of the greatest."""
        return max(self.of(stage), key=lambda epoch: epoch.metrics[monitor])


def fit(make_trainer: MakeTrainer, module: LDMIModule, data: Any = None, **flags: Any) -> Watch:
    """Fit on the blobs, and return what was seen."""
    watch = Watch()
    make_trainer(callbacks=[watch, *flags.pop("callbacks", [])], **flags).fit(module, datamodule=data or Blobs())
    return watch


class Foreign(pl.LightningDataModule):
    """Someone else's datamodule."""

    def train_dataloader(self) -> DataLoader[Any]:
        return foreign_loaders()[0]

    def val_dataloader(self) -> DataLoader[Any]:
        return foreign_loaders()[1]


class Own(LDMIModule):
    """A user's own subclass, whose arguments say all."""

    def __init__(self, width: int = 8) -> None:
        self.width = width
        super().__init__(None, 3, ce(1), dmi(1))

    def build_backbone(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, self.width), nn.ReLU(), nn.Linear(self.width, 3))
