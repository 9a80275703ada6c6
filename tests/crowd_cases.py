"""CrowdForward on votes in worlds of one and two ranks: ``python crowd_cases.py FOLDER``; test_crowd_forward.py compares."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contract_cases import seen_of
from ranks_script import mlp
from worlds import World, run_world

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.datamodules import DigitsDataModule
from ldmi_lightning.losses import CELoss
from ldmi_lightning.methods import CrowdForward
from ldmi_lightning.noise import CrowdLabels

METHODS = {
    "crowd-forward": CrowdForward,
    "each vote": partial(CrowdForward, together=False),
    "learnt": partial(CrowdForward, learn=True),
}


def digits() -> DigitsDataModule:
    """Return digits with the votes of four people, of whom the last answers at random; some have no vote, or one."""
    random = np.random.RandomState(0)
    data = DigitsDataModule(batch_size=97)
    clean = {index: y for part in data.load().values() for index, y in zip(part.index, part.y, strict=True)}
    y = np.array([clean[index] for index in range(len(clean))])
    votes = np.stack(
        [np.where(random.rand(len(y)) < 0.3, random.randint(10, size=len(y)), y) for _ in range(4)], axis=1
    )
    votes[:, 3] = random.randint(10, size=len(y))
    votes[random.rand(*votes.shape) < 0.6] = -1
    return DigitsDataModule(CrowdLabels(votes, unvoted="drop"), batch_size=97)


def every_method(world: World) -> dict[str, Any]:
    """Train each form of the method in a world of one or two ranks."""
    found = {}
    for name, method in METHODS.items():
        torch.manual_seed(0)
        adam = partial(torch.optim.Adam, lr=5e-3)
        module = LDMIModule(mlp(), 10, Stage(CELoss(), 1, adam), Stage(method(), 2, adam))
        root = world.folder / f"{world.ranks} ranks" / name
        world.trainer(root, limit_train_batches=4, limit_val_batches=2).fit(module, digits())
        found[name] = seen_of(module)
    return found


if __name__ == "__main__":
    for world_size in (2, 1):
        run_world(world_size, Path(sys.argv[1]), "cpu", every_method)
