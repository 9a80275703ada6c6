"""Half precision: the same loss within a tolerance, no float64 on the model's path, and none but float64 in the loss.

bf16 keeps 8 significant bits, so one rounding of a logit is off by up to 2^-9 = 0.2 % of it. A logit of the small net
here has passed some five of them, and a loss is the mean of many logits, whose errors partly cancel: 1 % of the loss, as
trained in 32 bits with the same seeds, is the tolerance. float16 keeps 11 bits; its tolerance is the same.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import MakeTrainer
from torch import Tensor, nn

import ldmi_lightning.losses.dmi
from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.datamodules import DigitsDataModule
from ldmi_lightning.losses import CELoss, DMILoss, Predictions
from ldmi_lightning.noise import PairFlipNoise

TOLERANCE = 0.01
NEEDS_GPU = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: CUDA's autocast cannot be had without"
)
HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
MIXED = [
    ("cpu", "bf16-mixed"),
    pytest.param("cuda", "bf16-mixed", marks=NEEDS_GPU),
    pytest.param("cuda", "16-mixed", marks=NEEDS_GPU),
]


def net() -> nn.Module:
    """Return a net with a layer of each kind that autocast treats in its own way."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(128, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 10)),
    )


class Losses(pl.Callback):
    """Notes train/loss, val/acc and the stage of each epoch."""

    def __init__(self) -> None:
        self.train: list[float] = []
        self.acc: list[float] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.acc.append(float(trainer.callback_metrics["val/acc"]))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch:
            self.train.append(float(trainer.callback_metrics["train/loss"]))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.train.append(float(trainer.callback_metrics["train/loss"]))


def ldmi(epochs: int = 3, memory: float = 0.9) -> LDMIModule:
    pl.seed_everything(1, verbose=False)
    adam = partial(torch.optim.Adam, lr=2e-3)
    return LDMIModule(net(), 10, Stage(CELoss(), epochs, adam), Stage(DMILoss(memory), epochs, adam))


def fit(make_trainer: MakeTrainer, module: LDMIModule, accelerator: str, precision: str) -> Losses:
    """Train through both stages, six batches an epoch."""
    losses = Losses()
    trainer = make_trainer(
        accelerator=accelerator, devices=1, precision=precision, callbacks=[losses], enable_checkpointing=False
    )
    trainer.fit(module, DigitsDataModule(PairFlipNoise(0.3, seed=0), batch_size=199))
    return losses


# 16-mixed takes other steps: its scaler skips the first few while it looks for a scale. test_cuda.py compares its loss.
@pytest.mark.parametrize(("accelerator", "precision"), MIXED[:2])
def test_both_stages_have_the_loss_of_32_bits(make_trainer: MakeTrainer, accelerator: str, precision: str) -> None:
    half = fit(make_trainer, ldmi(), accelerator, precision)
    full = fit(make_trainer, ldmi(), accelerator, "32-true")
    assert len(half.train) == len(full.train) == 6
    assert half.train == pytest.approx(full.train, rel=TOLERANCE)
    assert half.train != full.train, "the two precisions are the same one"
    assert half.train[2] < half.train[0]
    assert half.train[5] < half.train[3]
    assert half.acc == pytest.approx(full.acc, abs=0.05)


class Seen(set[tuple[str, torch.dtype]]):
    """Where tensors of which dtype were seen in a fit."""

    def note(self, where: str, *tensors: Any) -> None:
        self.update((where, each.dtype) for each in tensors if isinstance(each, Tensor) and each.is_floating_point())

    def hook(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.note("input", *inputs)
        self.note("output", output)
        if output.requires_grad:
            output.register_hook(lambda grad: self.note("gradient", grad))

    def of(self, where: str) -> set[torch.dtype]:
        return {dtype for at, dtype in self if at == where}


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> tuple[LDMIModule, Seen]:
    """A module whose every part, and what the DMI loss is made of, tells of its tensors."""
    module, seen = ldmi(epochs=1), Seen()
    for part in module.backbone.modules():
        part.register_forward_hook(seen.hook)
    for parameter in module.backbone.parameters():
        parameter.register_hook(lambda grad: seen.note("gradient", grad))
    for name, loss in module.losses.items():
        loss.register_forward_pre_hook(lambda loss, inputs, name=name: seen.note(f"{name} logits", inputs[0]))
        loss.register_forward_hook(lambda loss, inputs, value, name=name: seen.note(f"{name} loss", value))

    def watch(name: str) -> None:
        real: Callable[..., Tensor] = getattr(ldmi_lightning.losses.dmi, name)

        def spy(*inputs: Tensor) -> Tensor:
            assert not torch.is_autocast_enabled(inputs[0].device.type)
            output = real(*inputs)
            seen.note("inside DMI", *inputs, output)
            return output

        monkeypatch.setattr(ldmi_lightning.losses.dmi, name, spy)

    for name in ("joint_matrix", "is_singular", "log_dmi"):
        watch(name)
    return module, seen


@pytest.mark.parametrize(("accelerator", "precision"), MIXED)
def test_no_float64_on_the_models_path_and_nothing_else_in_the_determinant(
    make_trainer: MakeTrainer, watched: tuple[LDMIModule, Seen], accelerator: str, precision: str
) -> None:
    module, seen = watched
    fit(make_trainer, module, accelerator, precision)
    half = HALF[precision]
    for where in ("input", "output", "gradient"):
        assert {half} <= seen.of(where) <= {half, torch.float32}
    assert seen.of("warmup logits") == seen.of("robust logits") == {half}
    assert seen.of("inside DMI") == seen.of("robust loss") == {torch.float64}
    assert seen.of("warmup loss") == {torch.float32}
    (optimizer,) = module.trainer.optimizers
    kept = [value for state in optimizer.state.values() for value in state.values()]
    assert {each.dtype for each in [*module.backbone.parameters(), *kept]} == {torch.float32}


@pytest.mark.parametrize("accelerator", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_a_loss_of_half_precision_logits_is_that_of_their_values(accelerator: str, memory: float) -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(64) % 10
    logits = (torch.randn(64, 10, generator=generator) + 2 * torch.eye(10)[y]).bfloat16()
    for loss in (CELoss(), DMILoss(memory)):
        if loss.needs_predictions:
            given = Predictions(logits.float().softmax(1), y, y)
            loss.prepare(given, given)
        loss.eval().to(accelerator)
        exact = loss(logits.double().to(accelerator), y.to(accelerator), y)
        leaf = logits.to(accelerator).requires_grad_()
        with torch.autocast(accelerator, dtype=torch.bfloat16):
            value = loss(leaf, y.to(accelerator), y)
        assert value.item() == pytest.approx(exact.item(), rel=1e-6)
        value.backward()
        assert leaf.grad is not None
        assert leaf.grad.dtype == torch.bfloat16
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_a_module_that_is_converted_as_a_whole_goes_through_both_stages(
    make_trainer: MakeTrainer, precision: str
) -> None:
    module = ldmi(epochs=1)
    losses = fit(make_trainer, module, "cpu", precision)
    assert {each.dtype for each in module.backbone.parameters()} == {
        torch.float64 if precision == "64-true" else torch.bfloat16
    }
    full = fit(make_trainer, ldmi(epochs=1), "cpu", "32-true")
    # In bf16-true the weights and each of Adam's steps are rounded too, not only the activations.
    assert losses.train == pytest.approx(full.train, rel=TOLERANCE if precision == "64-true" else 5 * TOLERANCE)


def test_the_memory_of_u_keeps_its_64_bits_in_a_converted_module() -> None:
    probs, y = torch.rand(50, 10).softmax(1), torch.arange(50) % 10
    loss = DMILoss(0.9)
    loss.prepare(Predictions(probs, y, y), Predictions(probs, y, y))
    before = loss.joint_memory.clone()
    assert torch.equal(loss.bfloat16().joint_memory, before)
    fresh = DMILoss(0.9).half()
    fresh.load_state_dict(loss.state_dict())
    assert torch.equal(fresh.joint_memory, before)
