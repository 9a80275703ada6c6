"""What a GPU makes of it: epochs, memory, waits of the host, the DMI step, and what each of PyTorch's switches brings.

    python benchmarks/gpu.py --root FOLDER

Without ``--root`` it uses random images of Fashion-MNIST's shape and number, so that it runs anywhere there is a GPU;
where there is none it says so, and measures nothing. It takes some three minutes.

Steps are timed by CUDA's events, in rounds in which both sides take turns; a ratio is the median over the rounds.
"""

import argparse
import copy
import logging
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from typing import Any, cast

import pytorch_lightning as pl
import torch
import torchvision
from overhead import RandomImages
from torch import Tensor, nn

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.datamodules import FashionMNISTDataModule, NoisyDataModule
from ldmi_lightning.losses import CELoss, DMILoss, Loss, Predictions
from ldmi_lightning.models import FashionCNN
from ldmi_lightning.noise import ClassDependentNoise

EPOCHS = 4
WATCHED_STEPS = 50
MIB = 2**20
Step = Callable[[], Any]


# -- fit --------------------------------------------------------------------------------------------------------------


class Epochs(pl.Callback):
    """Notes the seconds and the peak of the GPU's memory of each epoch, from its start to that of the next one."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.peak: dict[str, int] = {}
        self._stage: str | None = None
        self._begin = 0.0

    def _close_epoch(self, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        if self._stage is not None:
            self.seconds.setdefault(self._stage, []).append(now - self._begin)
            peak = torch.cuda.max_memory_allocated(device) if on_gpu else 0
            self.peak[self._stage] = max(peak, self.peak.get(self._stage, 0))
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        self._begin = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the epoch before."""
        self._close_epoch(pl_module.device)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note to which stage the epoch belongs."""
        self._stage = cast(LDMIModule, pl_module).progress.stage

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the last epoch."""
        self._close_epoch(pl_module.device)


class Waits(pl.Callback):
    """Counts where the host waits for the GPU in the steps after an epoch's first, the fetching of batches included."""

    def __init__(self) -> None:
        self.of: dict[str, list[str]] = {}
        self._open = ExitStack()
        self._caught: list[warnings.WarningMessage] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin to count."""
        if batch_idx == 1:
            self._caught = cast(Any, self._open.enter_context(warnings.catch_warnings(record=True)))
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """End it."""
        if batch_idx == trainer.num_training_batches - 1:
            torch.cuda.set_sync_debug_mode("default")
            self._open.close()
            places = [
                f"{each.filename}:{each.lineno}"
                for each in self._caught
                if "called a synchronizing" in str(each.message)
            ]
            self.of[pl_module.progress.stage] = places


def fit(device: torch.device, data: NoisyDataModule, epochs: int, watch: pl.Callback, batches: int | None) -> None:
    """Train the paper's net through both stages."""
    pl.seed_everything(1, verbose=False)
    adam = partial(torch.optim.Adam, lr=1e-4)
    module = LDMIModule(
        FashionCNN(data.num_classes),
        data.num_classes,
        Stage(CELoss(), epochs, adam),
        Stage(DMILoss(0.99), epochs, adam),
    )
    with tempfile.TemporaryDirectory() as folder:
        pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            logger=False,
            callbacks=[watch],
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            limit_train_batches=batches if batches is not None else 1.0,
            num_sanity_val_steps=0,
        ).fit(module, data)


def measure_fit(device: torch.device, data: NoisyDataModule, batches: int | None = None) -> None:
    """Print seconds, memory and waits of both stages."""
    epochs, waits = Epochs(), Waits()
    fit(device, data, EPOCHS, epochs, batches)
    if device.type == "cuda":
        fit(device, data, 1, waits, WATCHED_STEPS + 1)
    steps = len(data.train_dataloader()) if batches is None else batches
    print(
        f"\nfit, Fashion-MNIST, batch {data.batch_size}, {steps} steps an epoch; the first epoch of each stage is not timed"
    )
    print(f"{'stage':10}{'s per epoch':>12}{'range':>16}{'peak MiB':>10}{'host waits per step':>21}")
    for stage, (_, *seconds) in epochs.seconds.items():
        spread = f"{min(seconds):.3f}-{max(seconds):.3f}"
        found = f"{len(waits.of[stage]) / WATCHED_STEPS:.2f}" if stage in waits.of else "-"
        print(
            f"{stage:10}{statistics.median(seconds):12.3f}{spread:>16}{epochs.peak[stage] / MIB:10.1f}{found:>21}",
            flush=True,
        )
    for place in sorted({place for places in waits.of.values() for place in places}):
        print(f"the host waits in {place}")


# -- steps ------------------------------------------------------------------------------------------------------------


def milliseconds(step: Step, steps: int, device: torch.device) -> float:
    """Return what a step takes, as the mean of some that run on end."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(steps):
            step()
        return (time.perf_counter() - start) / steps * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(steps):
        step()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / steps


def race(first: Step, second: Step, rounds: int, steps: int, device: torch.device) -> tuple[float, float, float]:
    """Let two steps take turns, either beginning in every other round.

    Returns:
        The medians of either, and the median of the rounds' ratios, the second's to the first's.
    """
    for step in (first, second):
        milliseconds(step, 3, device)
    times: list[tuple[float, float]] = []
    for number in range(rounds):
        if number % 2:
            late, early = (milliseconds(step, steps, device) for step in (second, first))
            times.append((early, late))
        else:
            early, late = (milliseconds(step, steps, device) for step in (first, second))
            times.append((early, late))
    one, other = zip(*times, strict=True)
    return statistics.median(one), statistics.median(other), statistics.median(b / a for a, b in times)


def dmi_of_a_warm_model(num_classes: int, device: torch.device) -> DMILoss:
    """Return a loss whose memory is that of outputs that have learnt something."""
    y = torch.arange(4 * num_classes) % num_classes
    logits = torch.randn(len(y), num_classes) + 6 * nn.functional.one_hot(y, num_classes)
    given = Predictions(logits.softmax(dim=1), y, y)
    loss = DMILoss(0.99)
    loss.prepare(given, given)
    return loss.to(device)


def training_step(net: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> Step:
    """Return a step of a net of its own."""
    net = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        loss(net(x), y, y).backward()
        optimizer.step()

    return step


def loss_alone(loss: Loss, logits: Tensor, y: Tensor) -> Step:
    """Return the loss and its gradient, without a net."""
    leaf = logits.requires_grad_()

    def step() -> None:
        leaf.grad = None
        loss(leaf, y, y).backward()

    return step


def measure_dmi(
    device: torch.device, classes: Sequence[int] = (10, 100, 1000), batch: int = 128, rounds: int = 15, steps: int = 10
) -> None:
    """Print the DMI step against the CE step."""
    print(f"\nDMI (memory 0.99) against CE: ResNet-18, {batch} images of 32x32, {rounds} rounds of {steps} steps")
    print(f"{'':8}{'a training step':>34}{'the loss and its gradient alone':>36}")
    print(f"{'classes':8}{'CE ms':>10}{'DMI ms':>12}{'DMI / CE':>12}{'CE ms':>12}{'DMI ms':>12}{'DMI / CE':>12}")
    for num_classes in classes:
        torch.manual_seed(0)
        x, y = torch.randn(batch, 3, 32, 32, device=device), torch.arange(batch, device=device) % num_classes
        net = torchvision.models.resnet18(num_classes=num_classes).to(device)
        logits = torch.randn(batch, num_classes, device=device)
        dmi = dmi_of_a_warm_model(num_classes, device)
        whole = race(training_step(net, CELoss(), x, y), training_step(net, dmi, x, y), rounds, steps, device)
        dmi = dmi_of_a_warm_model(num_classes, device)
        alone = race(loss_alone(CELoss(), logits, y), loss_alone(dmi, logits.clone(), y), rounds, steps, device)
        values = (f"{value:.3f}" for value in (*whole, *alone))
        print(f"{num_classes:<8}{next(values):>10}" + "".join(f"{value:>12}" for value in values), flush=True)


SWITCHES = ("bf16-mixed", "channels_last", "torch.compile", "fused optimizer")


def switched_step(on: Sequence[str], net: nn.Module, x: Tensor, y: Tensor) -> Step:
    """Return a training step of a net of its own with some of the switches on."""
    layout = torch.channels_last if "channels_last" in on else torch.contiguous_format
    net, x = copy.deepcopy(net).to(memory_format=layout), x.to(memory_format=layout)
    fused = {"fused": True} if "fused optimizer" in on else {}
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-3, **fused)
    forward = torch.compile(net) if "torch.compile" in on else net
    loss, half = CELoss(), "bf16-mixed" in on

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=half):
            value = loss(forward(x), y, y)
        value.backward()
        optimizer.step()

    return step


def measure_switches(
    device: torch.device,
    make_net: Callable[..., nn.Module] = torchvision.models.resnet50,
    batch: int = 128,
    size: int = 224,
    rounds: int = 5,
    steps: int = 5,
) -> None:
    """Print what each switch brings alone, and what all of them bring together."""
    torch.manual_seed(0)
    net = make_net(num_classes=14).to(device)
    x, y = torch.randn(batch, 3, size, size, device=device), torch.arange(batch, device=device) % 14
    print(
        f"\n{make_net.__name__}, CE, {batch} images of {size}x{size}, {rounds} rounds of {steps} steps; without a switch:"
        " 32 bits, TensorFloat-32 in convolutions (PyTorch's default)"
    )
    print(f"{'':18}{'without ms':>12}{'with ms':>12}{'with / without':>16}{'images/s':>10}")
    for name, on in [*((each, (each,)) for each in SWITCHES), ("all four", SWITCHES)]:
        try:
            without, with_it, ratio = race(
                switched_step((), net, x, y), switched_step(on, net, x, y), rounds, steps, device
            )
        except RuntimeError as error:  # torch.compile wants a C compiler, which is not everywhere
            print(f"{name:18} failed: {str(error).strip().splitlines()[0]}", flush=True)
            continue
        print(f"{name:18}{without:12.2f}{with_it:12.2f}{ratio:16.3f}{batch / with_it * 1e3:10.0f}", flush=True)
        torch.compiler.reset()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", help="folder with Fashion-MNIST in the hub's layout; random images without it")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing was measured")
        return

    start = time.perf_counter()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    device = torch.device("cuda", 0)
    print(
        f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, "
        f"torch {torch.__version__}, pytorch-lightning {version('pytorch-lightning')}, Python {platform.python_version()}, "
        f"{options.root or 'random images'}",
        flush=True,
    )
    make = FashionMNISTDataModule if options.root else RandomImages
    measure_fit(device, make("bag", ClassDependentNoise(0.6, {1: 0}, seed=1), root=options.root))
    measure_dmi(device)
    measure_switches(device)
    print(f"\n{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
