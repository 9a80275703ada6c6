"""What a user wrote runs in every step as in any other LightningModule."""

from collections import Counter
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import MakeTrainer
from torch import nn

from ldmi_lightning import Batch, LDMIModule, Stage
from ldmi_lightning.callbacks import JointMatrixLogger
from ldmi_lightning.datamodules import DigitsDataModule
from ldmi_lightning.losses import CELoss
from ldmi_lightning.noise import PairFlipNoise

STEPS = 6
TRAINING_HOOKS = (
    *("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    *("on_before_optimizer_step", "on_train_batch_end"),
)
VALIDATION_HOOKS = ("on_validation_batch_start", "on_validation_batch_end")


def digits(kind: type[DigitsDataModule] = DigitsDataModule) -> DigitsDataModule:
    return kind(PairFlipNoise(0.3, seed=0), batch_size=199)


def module(kind: type[LDMIModule] = LDMIModule, optimizer: Any = torch.optim.SGD, lr: float = 0.1) -> LDMIModule:
    pl.seed_everything(1, verbose=False)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return kind(net, 10, Stage(CELoss(), 1, lambda parameters: optimizer(parameters, lr=lr)))


def counting(base: type, hooks: tuple[str, ...]) -> Any:
    """Derive a class that counts, in ``calls``, how often each hook is called."""
    calls: Counter[str] = Counter()

    def count(name: str) -> Any:
        def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return getattr(base, name)(self, *args, **kwargs)

        return hook

    return type("Counting", (base,), {"calls": calls, **{name: count(name) for name in hooks}})


@pytest.mark.parametrize("base", [pl.Callback, JointMatrixLogger])
def test_a_callback_of_the_users_gets_every_hook(base: type, make_trainer: MakeTrainer) -> None:
    kind = counting(base, TRAINING_HOOKS + VALIDATION_HOOKS)
    trainer = make_trainer(callbacks=[kind()], num_sanity_val_steps=0)
    trainer.fit(module(), digits())
    (validations,) = trainer.num_val_batches
    expected = dict.fromkeys(TRAINING_HOOKS, STEPS) | dict.fromkeys(VALIDATION_HOOKS, validations)
    assert kind.calls == expected


def test_a_subclass_gets_every_hook(make_trainer: MakeTrainer) -> None:
    kind = counting(LDMIModule, TRAINING_HOOKS)
    make_trainer().fit(module(kind), digits())
    assert kind.calls == dict.fromkeys(TRAINING_HOOKS, STEPS)


def test_a_hook_that_was_put_on_an_object_stays(make_trainer: MakeTrainer) -> None:
    ours, calls = module(), []
    ours.on_train_batch_start = lambda *_: calls.append(1)  # type: ignore[method-assign]
    make_trainer().fit(ours, digits())
    assert len(calls) == STEPS


def test_a_profiler_of_the_users_measures_every_step(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(profiler="simple")
    trainer.fit(module(), digits())
    durations = trainer.profiler.recorded_durations  # type: ignore[attr-defined]
    assert len(durations["run_training_batch"]) == STEPS


def test_hooks_on_the_way_to_the_device_are_those_of_the_datamodule(make_trainer: MakeTrainer) -> None:
    class Blank(DigitsDataModule):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return Batch(torch.zeros_like(batch.x), *batch[1:])

    blank = module()
    make_trainer().fit(blank, digits(Blank))
    start = module().backbone.state_dict()
    assert torch.equal(blank.backbone.state_dict()["1.weight"], start["1.weight"])  # x is 0: only the bias learns
    assert not torch.equal(blank.backbone.state_dict()["1.bias"], start["1.bias"])


def test_gradients_are_dropped_as_the_optimizer_says(make_trainer: MakeTrainer) -> None:
    class Scaled(torch.optim.SGD):
        dropped = 0

        def zero_grad(self, set_to_none: bool = True) -> None:
            type(self).dropped += 1
            super().zero_grad(set_to_none)

    def wrapped(parameters: Any, lr: float) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(parameters, lr)
        inner = optimizer.zero_grad
        optimizer.zero_grad = lambda: (dropped.append(1), inner())  # type: ignore[method-assign]
        return optimizer

    dropped: list[int] = []
    make_trainer().fit(module(optimizer=wrapped), digits())
    assert len(dropped) >= STEPS
    own, plain = module(optimizer=Scaled), module()
    make_trainer().fit(own, digits())
    make_trainer().fit(plain, digits())
    assert Scaled.dropped >= STEPS
    assert torch.equal(own.backbone.state_dict()["1.weight"], plain.backbone.state_dict()["1.weight"])


def test_gradients_are_clipped_where_the_trainer_was_told_to(make_trainer: MakeTrainer) -> None:
    limit, lr = 1e-3, 0.1
    clipped = module(lr=lr)
    make_trainer(gradient_clip_val=limit, gradient_clip_algorithm="value").fit(clipped, digits())
    moved = clipped.backbone.state_dict()["1.weight"] - module().backbone.state_dict()["1.weight"]
    assert 0 < moved.abs().max() <= STEPS * lr * limit * 1.001
