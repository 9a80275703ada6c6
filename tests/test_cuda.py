"""What only a GPU can show: the CPU's values, steps without a wait for the device, precisions, resuming, and memory.

`make gpu` runs this file, and with it the cases of test_precision.py and test_ranks.py that need a GPU.
"""

import gc
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import MakeTrainer
from stops import StopAt, Stopped
from test_precision import HALF, TOLERANCE, fit, ldmi, net
from torch import Tensor, nn

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.commands import main
from ldmi_lightning.datamodules import DigitsDataModule
from ldmi_lightning.datamodules.loaders import ResidentLoader
from ldmi_lightning.joint import is_singular, joint_matrix
from ldmi_lightning.losses import CELoss, DMILoss, ForwardLoss, GCELoss, LCCNLoss, Loss, Predictions
from ldmi_lightning.noise import PairFlipNoise

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: CUDA is not available"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
KIB, MIB = 2**10, 2**20
QUICK = [
    *("--config", str(Path(__file__).parents[1] / "configs/quickstart.yaml")),
    *("--model.warmup.epochs", "2", "--model.robust.epochs", "2"),
    *("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "gpu", "--trainer.devices", "1"),
]


@contextmanager
def no_host_sync() -> Iterator[None]:
    """Make PyTorch raise where the host would wait for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class NoHostSync(pl.Callback):
    """Makes PyTorch raise where the host waits in a training step after an epoch's first, the fetching of batches included."""

    def __init__(self) -> None:
        self.steps = 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps += torch.cuda.get_sync_debug_mode() == 2
        if batch_idx == trainer.num_training_batches - 1:
            torch.cuda.set_sync_debug_mode("default")

    def on_exception(self, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")


def test_a_wait_for_the_device_is_noticed() -> None:
    with pytest.raises(RuntimeError, match="called a synchronizing"), no_host_sync():
        torch.ones((), device=GPU).item()


# -- the loss ---------------------------------------------------------------------------------------------------------


def learnt(num_classes: int) -> tuple[Tensor, Tensor]:
    """Return logits of a model that has learnt something, and labels, with a U far from singular."""
    generator = torch.Generator().manual_seed(num_classes)
    y = torch.arange(4 * num_classes) % num_classes
    logits = torch.randn(len(y), num_classes, generator=generator, dtype=torch.float64)
    return logits + 6 * nn.functional.one_hot(y, num_classes), y


LOSSES: dict[str, Callable[[], Loss]] = {
    "CE": CELoss,
    "DMI": DMILoss,
    "DMI with memory": partial(DMILoss, 0.99),
    "GCE": partial(GCELoss, truncation=0.5),
    "FW": partial(ForwardLoss, "held_out", renew=True),
    "LCCN": partial(LCCNLoss, refresh_every=2, warmup_steps=0),
}
RIVALS = ("GCE", "FW", "LCCN")


def prepared(name: str, num_classes: int) -> Loss:
    loss = LOSSES[name]()
    if loss.needs_predictions:
        logits, y = learnt(num_classes)
        given = Predictions((logits / 2).softmax(dim=1).float(), y, torch.arange(len(y)))
        loss.prepare(given, given)
    return loss


@pytest.mark.parametrize("num_classes", [2, 10, 100, 1000])
@pytest.mark.parametrize("name", ["DMI", "DMI with memory"])
def test_dmi_is_that_of_the_cpu(num_classes: int, name: str) -> None:
    logits, y = learnt(num_classes)
    values, gradients, losses = [], [], []
    for device in (CPU, GPU):
        loss = prepared(name, num_classes).to(device)
        assert isinstance(loss, DMILoss)
        leaf = logits.to(device).requires_grad_()
        value = loss(leaf, y.to(device), y.to(device))
        value.backward()
        assert leaf.grad is not None
        assert loss.joint_memory.device == value.device == device
        values.append(value.detach().cpu())
        gradients.append(leaf.grad.cpu())
        losses.append(loss.cpu())
    torch.testing.assert_close(values[1], values[0], rtol=1e-10, atol=0)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(dict(losses[1].named_buffers()), dict(losses[0].named_buffers()), rtol=1e-10, atol=1e-15)
    assert (int(losses[1].steps), int(losses[1].singular_steps)) == (1, 0)


@pytest.mark.parametrize("num_classes", [2, 10, 100])
@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_is_that_of_the_cpu(num_classes: int, name: str) -> None:
    logits, y = learnt(num_classes)
    values, gradients, states = [], [], []
    for device in (CPU, GPU):
        loss, leaf = prepared(name, num_classes).to(device), logits.to(device).requires_grad_()
        for _ in range(3):
            value = loss(leaf, y.to(device), torch.arange(len(y), device=device))
            value.backward()
            values.append(value.detach().cpu())
        loss.end_epoch()
        assert leaf.grad is not None
        assert {value.device, *(buffer.device for buffer in loss.buffers())} == {device}
        gradients.append(leaf.grad.cpu())
        states.append(loss.cpu().state_dict())
    torch.testing.assert_close(values[3:], values[:3], rtol=1e-10, atol=0)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(states[1], states[0], rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("num_classes", [2, 10, 100, 1000])
@pytest.mark.parametrize("fault", ["a class is missing", "constant outputs", "NaN"])
def test_a_singular_step_is_skipped_and_counted(num_classes: int, fault: str) -> None:
    logits, y = learnt(num_classes)
    bad = {"constant outputs": torch.zeros_like(logits), "NaN": torch.full_like(logits, math.nan)}.get(fault, logits)
    labels = y.clamp(max=num_classes - 2) if fault == "a class is missing" else y
    leaf = bad.to(GPU).requires_grad_()
    assert is_singular(joint_matrix(bad.softmax(1), labels))
    assert is_singular(joint_matrix(leaf.detach().softmax(1), labels.to(GPU)))
    loss = DMILoss().to(GPU)
    value = loss(leaf, labels.to(GPU), y.to(GPU))
    value.backward()
    assert value.item() == 0
    assert leaf.grad is not None
    assert fault == "NaN" or not leaf.grad.any()
    loss(logits.to(GPU), y.to(GPU), y.to(GPU))
    assert (int(loss.steps), int(loss.singular_steps)) == (2, 1)


def test_a_singular_step_leaves_the_memory_alone() -> None:
    logits, y = learnt(10)
    loss = prepared("DMI with memory", 10).to(GPU)
    assert isinstance(loss, DMILoss)
    before = loss.joint_memory.clone()
    loss(torch.full_like(logits, math.nan).to(GPU), y.to(GPU), y.to(GPU))
    assert torch.equal(loss.joint_memory, before)
    loss(logits.to(GPU), y.to(GPU), y.to(GPU))
    assert not torch.equal(loss.joint_memory, before)


@pytest.mark.parametrize("num_classes", [10, 100, 1000])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_a_step_waits_for_nothing(num_classes: int, name: str, optimizer: Any) -> None:
    logits, labels = learnt(num_classes)
    x, y, index = logits.float().to(GPU), labels.to(GPU), torch.arange(len(labels), device=GPU)
    loss = prepared(name, num_classes).to(GPU)
    head = nn.Linear(num_classes, num_classes).to(GPU)
    steps = optimizer(head.parameters(), lr=1e-3)

    def step() -> None:
        steps.zero_grad()
        loss(head(x), y, index).backward()
        steps.step()

    step()  # the first sets cuBLAS and the like up
    with no_host_sync():
        step()
        step()


# -- the batches ------------------------------------------------------------------------------------------------------


def loaders(**flags: Any) -> tuple[ResidentLoader, ResidentLoader]:
    """Return loaders of the same digits on the CPU and on the GPU."""
    data = DigitsDataModule(PairFlipNoise(0.3, seed=0))
    data.setup("fit")
    on_cpu, on_gpu = (
        ResidentLoader(data.splits["train"], 64, data.train_transform(), device=device, **flags)
        for device in (CPU, GPU)
    )
    return on_cpu, on_gpu


FLAGS = [
    {"shuffle_seed": 1},
    {},
    {"only": torch.arange(0, 600, 3)},
    {"shuffle_seed": 1, "rank": 1, "world_size": 3},
]


@pytest.mark.parametrize("flags", FLAGS)
def test_resident_batches_are_those_of_the_cpu(flags: dict[str, Any]) -> None:
    on_cpu, on_gpu = loaders(**flags)
    assert len(on_cpu) == len(on_gpu)
    for here, there in zip(on_cpu, on_gpu, strict=True):
        assert {part.device for part in there} == {GPU}
        assert all(torch.equal(part, other.cpu()) for part, other in zip(here, there, strict=True))


@pytest.mark.parametrize("flags", FLAGS)
def test_fetching_resident_batches_waits_for_nothing(flags: dict[str, Any]) -> None:
    batches = iter(loaders(**flags)[1])
    next(batches)
    with no_host_sync():
        assert len(list(batches)) > 1


# -- fits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])  # the scaler of 16-mixed looks for infinities in each
def test_no_step_of_a_fit_waits_for_the_device(make_trainer: MakeTrainer, precision: str) -> None:
    watch = NoHostSync()
    trainer = make_trainer(accelerator="gpu", devices=1, precision=precision, callbacks=[watch])
    trainer.fit(ldmi(epochs=2), DigitsDataModule(PairFlipNoise(0.3, seed=0), batch_size=199))
    assert watch.steps == 4 * 5


@pytest.mark.parametrize("precision", ["32-true", *HALF])
def test_both_stages_learn_in_each_precision(make_trainer: MakeTrainer, precision: str) -> None:
    module = ldmi(epochs=6)
    losses = fit(make_trainer, module, "gpu", precision)
    assert losses.train[5] < losses.train[0]
    assert losses.train[11] < losses.train[6]
    assert {each.dtype for each in module.backbone.parameters()} == {torch.float32}
    assert not any(isinstance(each, nn.SyncBatchNorm) for each in module.modules())  # there is nothing to synchronise
    tester = make_trainer(accelerator="gpu", devices=1, precision=precision)
    (found,) = tester.test(module, DigitsDataModule(), verbose=False)
    assert found["test/acc"] > 0.85


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("memory", [None, 0.0, 0.9])
def test_half_precision_has_the_loss_of_32_bits(precision: str, memory: float | None) -> None:
    data = DigitsDataModule()
    data.setup("fit")
    torch.manual_seed(0)
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for batch in ResidentLoader(data.splits["train"], 64, data.train_transform(), shuffle_seed=0):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch.x), batch.y).backward()
        optimizer.step()
    model.eval().to(GPU)
    split = data.splits["train"].to(GPU)
    x, y = data.eval_transform().to(GPU)(split.x), split.y
    with torch.no_grad():
        full = model(x)
        with torch.autocast("cuda", dtype=HALF[precision]):
            half = model(x)
    assert half.dtype == HALF[precision]
    loss = CELoss() if memory is None else DMILoss(memory)
    if loss.needs_predictions:
        given = Predictions(full.softmax(1).cpu(), y.cpu(), y.cpu())
        loss.prepare(given, given)
    loss.eval().to(GPU)
    with torch.autocast("cuda", dtype=HALF[precision]):
        value = loss(half, y, y)
    assert value.item() == pytest.approx(loss(full, y, y).item(), rel=TOLERANCE)


# -- resuming ---------------------------------------------------------------------------------------------------------


def run(
    make_trainer: MakeTrainer,
    accelerator: str,
    *callbacks: pl.Callback,
    ckpt_path: Path | None = None,
    robust: Callable[[], Loss] = partial(DMILoss, 0.9),  # noqa: B008  (makes another one at each call)
) -> LDMIModule:
    """Train two epochs of either stage in 64 bits, in which devices hardly differ."""
    pl.seed_everything(1, verbose=False)
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    momentum, adam = partial(torch.optim.SGD, lr=0.2, momentum=0.9), partial(torch.optim.Adam, lr=2e-3)
    module = LDMIModule(mlp, 10, Stage(CELoss(), 2, momentum), Stage(robust(), 2, adam))
    trainer = make_trainer(accelerator=accelerator, devices=1, precision="64-true", callbacks=list(callbacks))
    trainer.fit(module, DigitsDataModule(PairFlipNoise(0.3, seed=0), batch_size=199), ckpt_path=ckpt_path)
    return module


@pytest.mark.parametrize(("first", "then"), [("cpu", "gpu"), ("gpu", "cpu"), ("gpu", "gpu")])
@pytest.mark.parametrize("stopped_in", [1, 2, 3])
def test_a_run_goes_on_on_another_device(
    make_trainer: MakeTrainer, tmp_path: Path, first: str, then: str, stopped_in: int
) -> None:
    with pytest.raises(Stopped):
        run(make_trainer, first, StopAt(stopped_in))
    (last,) = tmp_path.glob("*/last.ckpt")
    watch = [NoHostSync()] if then == "gpu" else []
    resumed = run(make_trainer, then, *watch, ckpt_path=last)
    whole = run(make_trainer, "cpu")
    assert [each.steps for each in watch] == ([(4 - stopped_in) * 5] if watch else [])
    torch.testing.assert_close(
        dict(resumed.backbone.state_dict()), dict(whole.backbone.state_dict()), rtol=1e-6, atol=1e-8
    )
    for name, summary in whole.stage_summaries().items():
        assert resumed.stage_summaries()[name]["best_epoch"] == summary["best_epoch"]
        torch.testing.assert_close(resumed.stage_summaries()[name]["best_joint"], summary["best_joint"])


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_trains_as_on_the_cpu_and_waits_for_nothing(make_trainer: MakeTrainer, name: str) -> None:
    watch = NoHostSync()
    here, there = run(make_trainer, "cpu", robust=LOSSES[name]), run(make_trainer, "gpu", watch, robust=LOSSES[name])
    assert watch.steps == 4 * 5
    there.cpu()
    torch.testing.assert_close(there.state_dict(), here.state_dict(), rtol=1e-6, atol=1e-8)


# -- memory -----------------------------------------------------------------------------------------------------------


def test_a_fit_gives_its_memory_back_and_needs_no_more_the_longer_it_lasts(make_trainer: MakeTrainer) -> None:
    def memory_of(epochs: int) -> tuple[int, int]:
        """Return the bytes in use at the peak of a fit, and after it."""
        torch.cuda.reset_peak_memory_stats()
        fit(make_trainer, ldmi(epochs), "gpu", "32-true")
        gc.collect()
        return torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()

    _, before = memory_of(1)  # the libraries keep workspaces
    short, _ = memory_of(1)
    long, after = memory_of(5)
    assert long <= short + MIB
    assert after <= before + 16 * KIB  # the training images alone are 75 KiB


# -- the command line -------------------------------------------------------------------------------------------------


def accuracy(folder: Path, stage: str) -> float:
    value = json.loads((folder / "results.json").read_text())["stages"][stage]["test_acc"]
    assert isinstance(value, float)
    return value


def test_ldmi_fit_tests_and_predicts_on_the_gpu(in_own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *QUICK]) == 0
    (folder,) = Path("runs").iterdir()
    assert accuracy(folder, "robust") > 0.3
    best = ["--config", str(folder / "config.yaml"), "--ckpt_path", str(folder / "robust-best.ckpt")]
    for accelerator in ("gpu", "cpu"):
        capsys.readouterr()
        assert main(["test", *best, "--trainer.accelerator", accelerator]) == 0
        figures = [float(word) for word in capsys.readouterr().out.split() if word.startswith("0.")]
        # A digit or two may fall on the other side where convolutions are not rounded to TensorFloat-32.
        assert min(abs(figure - accuracy(folder, "robust")) for figure in figures) < 0.01
    assert main(["predict", *best]) == 0
    assert len((folder / "predictions.csv").read_text().splitlines()) == 301


def test_ddp_of_one_gpu_is_that_gpu_alone(in_own_folder: Path) -> None:
    # A process of its own, since Lightning leaves the process group behind.
    command = [str(Path(sys.executable).parent / "ldmi"), "fit", *QUICK, "--trainer.precision", "64-true"]
    found = []
    for root, strategy in (("alone", "auto"), ("ddp", "ddp")):
        flags = ["--trainer.strategy", strategy, "--trainer.default_root_dir", root]
        done = subprocess.run([*command, *flags], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (folder,) = Path(root).iterdir()
        found.append([accuracy(folder, stage) for stage in ("warmup", "robust")])
    assert found[1] == pytest.approx(found[0], abs=0.01)
