"""Inputs of several tensors, as a tuple or a dict: trained, resumed, tested and predicted as one tensor is."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from blobs import ADAM, SGD, blobs, ce, equal, run_folder, weights
from conftest import MakeTrainer
from own_methods import MovingTargets, TwoOfTwo
from stops import StopAt, Stopped, same
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ldmi_lightning import Batch, LDMIModule, Stage
from ldmi_lightning.datamodules.base import Examples, NoisyDataModule
from ldmi_lightning.losses import DMILoss, ForwardLoss
from ldmi_lightning.method import Clock
from ldmi_lightning.noise import PairFlipNoise

SHAPES = ("tensor", "tuple", "dict", "nested")


class Net(nn.Module):
    """A linear net of points, whatever they come in."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Any) -> Tensor:
        while isinstance(x, tuple | list | dict):
            parts = list(x.values()) if isinstance(x, dict) else list(x)
            x = parts[0] if len(parts) == 1 else torch.cat([parts[0], parts[1]], dim=1)
        out: Tensor = self.linear(x)
        return out


def packed(x: Tensor, shape: str) -> Any:
    one, two = x[:, :1], x[:, 1:]
    packings = {"tensor": x, "tuple": (one, two), "dict": {"one": one, "two": two}, "nested": {"both": (one, two)}}
    return packings[shape]


class Points(NoisyDataModule):
    """Three clouds, whose points come as a tensor, a tuple, a dict, or a dict of a tuple."""

    def __init__(self, shape: str = "dict", batch_size: int = 30) -> None:
        super().__init__(3, ["ash", "birch", "cedar"], PairFlipNoise(0.2, seed=0), batch_size)
        self.shape = shape

    def load(self) -> Mapping[str, Examples]:
        random = np.random.RandomState(0)

        def examples(n: int) -> Examples:
            y = np.arange(n) % 3
            points = torch.from_numpy(2 * np.eye(3)[y] + random.randn(n, 3)).float()
            return Examples(packed(points, self.shape), y, np.arange(n))

        return {"train": examples(120), "val": examples(50), "test": examples(50)}


def module(seed: int = 1, robust: Any = None) -> LDMIModule:
    pl.seed_everything(seed, verbose=False)
    return LDMIModule(Net(), 3, ce(2), robust or Stage(DMILoss(0.5), 2, ADAM), Stage(ForwardLoss(), 1, SGD))


def results(make_trainer: MakeTrainer, shape: str, **flags: Any) -> tuple[dict[str, Tensor], float, Tensor]:
    """Return what a fit, a test and a prediction gave."""
    trainer, model = make_trainer(**flags), module()
    trainer.fit(model, Points(shape))
    trainer.test(model, Points(shape), verbose=False)
    accuracy = float(trainer.callback_metrics["test/acc"])
    rows = trainer.predict(model, Points(shape))
    assert rows is not None
    return weights(model), accuracy, torch.cat([probs for _, probs in rows])


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_a_run_does_not_depend_on_what_its_inputs_come_in(shape: str, make_trainer: MakeTrainer) -> None:
    plain, seen = results(make_trainer, "tensor"), results(make_trainer, shape)
    assert equal(plain[0], seen[0])
    assert plain[1] == seen[1]
    assert torch.equal(plain[2], seen[2])


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_run_of_dicts_is_resumed_bit_for_bit(epoch: int, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    whole = module()
    make_trainer(default_root_dir=tmp_path / "whole").fit(whole, Points())
    with pytest.raises(Stopped):
        make_trainer(default_root_dir=tmp_path / "parts", callbacks=[StopAt(epoch)]).fit(module(), Points())
    last, resumed = run_folder(tmp_path / "parts") / "last.ckpt", module(seed=2)
    pl.seed_everything(1, verbose=False)
    make_trainer(default_root_dir=tmp_path / "parts").fit(resumed, Points(), ckpt_path=last)
    assert same(resumed.state_dict(), whole.state_dict())


class Dicts(torch.utils.data.Dataset[Any]):
    """Someone's own samples: a dict, and a label."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Any:
        x, y = self.data[i]
        return packed(x[None], "dict") | {"one": x[:1], "two": x[1:]}, y


def test_someone_elses_loader_of_dicts_is_taken(make_trainer: MakeTrainer) -> None:
    splits = blobs().splits
    models = []
    for wrap in (lambda data: data, Dicts):
        train, val = (DataLoader(wrap(TensorDataset(splits[name].x, splits[name].y)), 30) for name in ("train", "val"))
        models.append(module())
        make_trainer().fit(models[-1], train, val)
    assert equal(*map(weights, models))


@pytest.mark.parametrize("robust", [TwoOfTwo, partial(MovingTargets, 3)])
def test_methods_of_ones_own_take_dicts(robust: Any, make_trainer: MakeTrainer) -> None:
    models = []
    for shape in ("tensor", "dict"):
        models.append(module(robust=Stage(robust(), 1, SGD)))
        make_trainer().fit(models[-1], Points(shape))
    assert same(*(model.state_dict() for model in models))


def test_a_second_view_may_be_a_dict(make_trainer: MakeTrainer) -> None:
    x, y = torch.randn(6, 3), torch.arange(6) % 3
    view = packed(x, "dict")
    batch = Batch(view, y, torch.arange(6), y, second_view=view)
    model = module(robust=Stage(TwoOfTwo(), 1, SGD))
    loss = model.stages["robust"].loss.step([Net(), Net()], batch, Clock(0, 1, 0))
    assert loss.isfinite()


def test_an_empty_share_of_a_dict_has_no_outputs() -> None:
    empty = module().eval().probabilities(packed(torch.zeros(0, 3), "dict"))
    assert empty.shape == (0, 3)
