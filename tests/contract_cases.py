"""Each method on each kind of data, tiny; as a script, all methods on one kind and two ranks: ``contract_cases.py FOLDER KIND``.

``FOLDER/<ranks>-<rank>.pt`` has what a rank saw of each method, uninterrupted and resumed; test_contract.py compares.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
import writers
from features import Counting, tables
from own_methods import Turns
from stops import StopAt, Stopped
from torch import nn
from worlds import World, run_world

from ldmi_lightning import LDMIModule, Method, Stage
from ldmi_lightning.datamodules import (
    EncodedDataModule,
    FashionMNISTDataModule,
    MRDataModule,
    NoisyDataModule,
    TensorDataModule,
)
from ldmi_lightning.losses import CELoss, DMILoss, ELRLoss, ForwardLoss, GCELoss, LCCNLoss, SCELoss, VolMinLoss
from ldmi_lightning.methods import CoTeaching, DivideMix
from ldmi_lightning.models import WordCNN
from ldmi_lightning.noise import PairFlipNoise

SHIPPED: dict[str, Callable[[], Method]] = {
    "ce": CELoss,
    "fw": ForwardLoss,
    "gce": GCELoss,
    "lccn": partial(LCCNLoss, refresh_every=2, warmup_steps=2),
    "dmi": partial(DMILoss, 0.9),
    "dmi-refine": partial(DMILoss, 0.9),
    "dmi, dividemix": partial(DMILoss, 0.9),
    "sce": SCELoss,
    "elr": ELRLoss,
    "volminnet": VolMinLoss,
    "co-teaching": CoTeaching,
    "dividemix": partial(DivideMix, warmup=1),
}
AFTER: dict[str, Callable[[], Method]] = {
    "dmi-refine": partial(ForwardLoss, "held_out", renew=True),
    "dmi, dividemix": SHIPPED["dividemix"],
}
"""What follows a method in a stage of its own."""
ADAM = partial(torch.optim.Adam, lr=5e-3)


class Kind(NamedTuple):
    """A kind of data: what makes it, over a folder that :func:`write` has filled, and a net for it; of two classes."""

    data: Callable[[Path], NoisyDataModule]
    net: Callable[[], nn.Module]


class TurnedImages(FashionMNISTDataModule):
    """Images of which a second view is the negative."""

    def train_transform(self) -> nn.Module:
        return nn.Sequential(super().train_transform(), Turns(self))


def write(folder: Path) -> Path:
    """Write the data sets that are read from files."""
    writers.write_images(folder / "fashion", ("image", "label"), {"train": 240, "test": 40}, shape=(28, 28))
    writers.write_texts(folder / "mr", {"train": 120, "validation": 40, "test": 40})
    return folder


def sheet() -> TensorDataModule:
    """Return a table of two columns."""
    random = np.random.RandomState(0)
    y = np.arange(300) % 2
    rows = random.randn(300, 2) + y[:, None]
    return TensorDataModule(
        pd.DataFrame(rows, columns=["age", "income"]), y, noise=noise(), batch_size=60, val_share=0.2
    )


def noise() -> PairFlipNoise:
    return PairFlipNoise(0.2, seed=0)


KINDS = {
    "fashion_mnist": Kind(
        lambda root: TurnedImages("bag", noise(), 50, str(root / "fashion")),
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(36, 2)),
    ),
    "mr": Kind(lambda root: MRDataModule("hub", noise(), 30, str(root / "mr")), partial(WordCNN, 2, 4000)),
    "features": Kind(
        lambda root: EncodedDataModule(tables(), Counting(), str(root / "features"), noise=noise(), batch_size=140),
        partial(nn.Linear, 3, 2),
    ),
    "table": Kind(lambda root: sheet(), lambda: nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))),
}
PAIRS = [(method, kind) for method in SHIPPED for kind in KINDS if not ("dividemix" in method and kind == "mr")]
"""All but those that are refused: token ids are not mixed."""


def module(method: str, kind: str) -> LDMIModule:
    """Return a model of a warm-up, the method, and another stage where the method has one."""
    pl.seed_everything(1, verbose=False)
    made = [methods[method]() for methods in (SHIPPED, AFTER) if method in methods]
    for each in made:
        if isinstance(each, DivideMix) and kind != "fashion_mnist":
            each.views = 1
    return LDMIModule(KINDS[kind].net(), 2, Stage(CELoss(), 1, ADAM), *(Stage(each, 2, ADAM) for each in made))


def seen_of(trained: LDMIModule) -> dict[str, Any]:
    """Return all that two runs are compared by: what is kept, what was best in the last stage, and what each epoch came to."""
    state = {name: value.cpu().clone() for name, value in trained.state_dict().items()}
    progress = trained.progress
    train = torch.tensor([row["train/loss"] for row in progress.history], dtype=torch.float64)
    best = {**(progress.best_weights or {}), **progress.best_state, "train/loss": train}
    return {"state": state, "best": best, "stages": trained.stage_summaries(), "choice": trained.choice}


def whole_and_resumed(
    method: str, kind: str, folder: Path, root: Path, make_trainer: Callable[..., pl.Trainer]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train once without a pause, and once interrupted in the second epoch of the last stage, and return what came of both.

    Args:
        method: one of :data:`SHIPPED`.
        kind: one of :data:`KINDS`.
        folder: where :func:`write` has written.
        root: for the runs.
        make_trainer: makes a trainer.
    """
    whole, stopped, resumed = (module(method, kind) for _ in range(3))
    stop = sum(stage.epochs for stage in whole.stages.values()) - 1
    make_trainer(default_root_dir=root / "whole").fit(whole, KINDS[kind].data(folder))
    with suppress(Stopped):
        make_trainer(default_root_dir=root / "parts", callbacks=[StopAt(stop)]).fit(stopped, KINDS[kind].data(folder))
    (last,) = root.glob("parts/*/last.ckpt")
    make_trainer(default_root_dir=root / "parts").fit(resumed, KINDS[kind].data(folder), ckpt_path=last)
    return seen_of(whole), seen_of(resumed)


def every_method(kind: str, world: World) -> dict[str, Any]:
    """Train all methods on one kind of data in a world of one or two ranks."""

    def make(**flags: Any) -> pl.Trainer:
        return world.trainer(flags.pop("default_root_dir"), **flags)

    root = world.folder / f"{world.ranks} ranks"
    return {
        method: whole_and_resumed(method, kind, world.folder, root / method, make)
        for method, its_kind in PAIRS
        if its_kind == kind
    }


if __name__ == "__main__":
    target = write(Path(sys.argv[1]))
    for world_size in (2, 1):
        run_world(world_size, target, "cpu", partial(every_method, sys.argv[2]))
