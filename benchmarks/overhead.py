"""What the framework costs: `fit` under the command line's default logging against a hand-written loop.

    python benchmarks/overhead.py --root FOLDER

Without ``--root`` it uses random images of Fashion-MNIST's shape and number, so that it runs anywhere.

One process, one thread. Between two epochs of one running ``Trainer.fit``, the epoch that comes next is run by hand
first, from copies of the net, the loss and Adam's state, over the same resident batches; so epochs of both sides
alternate, and whatever else the machine does hits both alike. BOTH sides train and validate. The hand-written side
takes the accuracy on the validation set, and neither saves nor logs anything; ``fit`` writes ``last.ckpt``, best
checkpoints, W&B (offline), the progress bar and U (every fifth epoch), as ``ldmi fit`` does. A stage's first epoch is not
timed. After each pair the weights of both sides must agree, or the script fails. In the warm-up of digits a Trainer without
callbacks, logger, checkpoints and progress bar trains a third copy on the same batches meanwhile: what Lightning alone costs.

Wall seconds hold everything, but also the waiting for other programs. CPU seconds leave that out, and with it W&B's own
process.
"""

import argparse
import copy
import os
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from data_path import RandomFashionMNIST
from numpy.typing import NDArray
from pytorch_lightning.loggers import WandbLogger
from torch import nn

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.callbacks import JointMatrixLogger, StageProgressBar, WandbRecord
from ldmi_lightning.datamodules import DigitsDataModule, FashionMNISTDataModule, NoisyDataModule
from ldmi_lightning.losses import CELoss, DMILoss, Loss
from ldmi_lightning.models import DigitsCNN, FashionCNN
from ldmi_lightning.noise import ClassDependentNoise
from ldmi_lightning.runs.loggers import close_wandb
from ldmi_lightning.seeding import base_seed, derived_seed
from ldmi_lightning.training.stage_loop import StageCheckpoint

Seconds = NDArray[np.float64]
"""By the clock on the wall, and of the processor."""

CLOCKS = ("wall", "CPU")
EPOCH_DEMAND, STEP_DEMAND, MATRIX_DEMAND = 1.08, 1.15, 0.03


def now() -> Seconds:
    """Read both clocks."""
    return np.array([time.perf_counter(), time.process_time()])


@dataclass
class Epoch:
    """What one epoch took: its training steps, all of it, and of that the logging of U."""

    steps: Seconds
    whole: Seconds
    matrix: Seconds


class RandomImages(RandomFashionMNIST):
    """Random images, for which there is nothing to download."""

    def prepare_data(self) -> None:
        """Do nothing."""


class Rival(JointMatrixLogger):
    """Runs by hand the epoch that ``fit`` is about to run, and times both.

    It is JointMatrixLogger as it is by default, under a clock, and not a callback beside it, which would cost something.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs
        self.by_hand: dict[str, list[Epoch]] = {}
        self.by_fit: dict[str, list[Epoch]] = {}
        self.bare: list[Seconds] = []
        self.numbers: dict[str, list[int]] = {}
        self.net: nn.Module | None = None
        self.running = ""
        self.begin = self.trained = now()
        self.matrix = np.zeros(2)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the clock of the last epoch of ``fit``, run this one by hand, and start the clock of ``fit``."""
        end = now()
        module = cast(LDMIModule, pl_module)
        if self.net is not None:
            found = Epoch(self.trained - self.begin, end - self.begin, self.matrix)
            self.by_fit.setdefault(self.running, []).append(found)
            self.numbers.setdefault(self.running, []).append(trainer.current_epoch - 1)
            torch.testing.assert_close(self.net.state_dict(), self.reached, rtol=1e-3, atol=1e-3)
        self.net, self.running = None, module.progress.stage
        first = trainer.current_epoch == module.progress.first_epoch
        if not first and len(self.by_fit.get(self.running, [])) < self.epochs:
            self.net = copy.deepcopy(module.backbone)
            self.by_hand.setdefault(self.running, []).append(self._run(self.net, trainer, module))
            if isinstance(module.backbone, DigitsCNN) and isinstance(module.stage.loss, CELoss):
                self.bare.append(run_bare(module.backbone, trainer))
        self.matrix = np.zeros(2)
        self.begin = now()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights that the epoch has reached: the next stage begins with those of the best."""
        if self.net is not None:
            begin = now()
            self.reached = copy.deepcopy(cast(LDMIModule, pl_module).backbone.state_dict())
            self.matrix += now() - begin  # which is not counted

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the time between training and validation."""
        self.trained = now()

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Time it."""
        begin = now()
        super().on_validation_batch_end(*args, **kwargs)
        self.matrix += now() - begin

    def on_validation_end(self, *args: Any) -> None:
        """Time it."""
        begin = now()
        super().on_validation_end(*args)
        self.matrix += now() - begin

    def _run(self, net: nn.Module, trainer: pl.Trainer, module: LDMIModule) -> Epoch:
        loss = copy.deepcopy(cast(Loss, module.losses[module.progress.stage]))
        optimizer = torch.optim.Adam(net.parameters())
        optimizer.load_state_dict(copy.deepcopy(trainer.optimizers[0].state_dict()))
        data = cast(NoisyDataModule, trainer.datamodule)  # type: ignore[attr-defined]
        batches, held_out = data.train_dataloader(), data.val_dataloader()
        batches.set_epoch(trainer.current_epoch)
        torch.manual_seed(derived_seed(base_seed(), trainer.current_epoch, 0))
        steps = int(trainer.num_training_batches)

        begin = now()
        net.train()
        total = torch.zeros(())
        for x, y, index, *_ in islice(batches, steps):
            optimizer.zero_grad()
            logits = net(x)
            value = F.cross_entropy(logits, y) if isinstance(loss, CELoss) else loss(logits, y, index)
            value.backward()
            optimizer.step()
            total += value.detach()
        total.item()
        trained = now()
        net.eval()
        hits = torch.zeros((), dtype=torch.int64)
        with torch.no_grad():
            for x, y, *_ in held_out:
                hits += (net(x).argmax(dim=1) == y).sum()
        hits.item()
        end = now()
        return Epoch(trained - begin, end - begin, np.zeros(2))


def compare(
    net: nn.Module, data: NoisyDataModule, lr: float, memory: float, epochs: int, batches: int | None, folder: Path
) -> tuple[Rival, int, int]:
    """Fit through both stages, each epoch once by hand and once by Lightning.

    Returns:
        The times, the steps of an epoch, and the epochs between two logs of U.
    """
    pl.seed_everything(1, verbose=False)

    def adam(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=lr)

    # One epoch more in each stage, which warms up; and one at the end, which ends the clock of the one before.
    module = LDMIModule(
        net, data.num_classes, Stage(CELoss(), epochs + 1, adam), Stage(DMILoss(memory), epochs + 2, adam)
    )
    folder.mkdir()
    rival = Rival(epochs)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=WandbLogger(project="overhead", save_dir=folder, offline=True),
        callbacks=[StageCheckpoint(folder), rival, WandbRecord({}), StageProgressBar()],
        enable_model_summary=False,
        default_root_dir=folder,
        limit_train_batches=batches if batches is not None else 1.0,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, data)
    close_wandb()
    return rival, int(trainer.num_training_batches), rival.every_n_epochs


def show(name: str, rival: Rival, steps: int, every: int) -> None:
    """Print a table of both stages."""
    print(f"\n{name}: {steps} steps an epoch, {rival.epochs} pairs of epochs in each stage")
    heads = ("by hand", "fit", "fit / by hand", "ms/step: training", "ms/step: all", "ms/epoch: rest", "log of U")
    print(f"{'':20}" + "".join(f"{head:>19}" for head in heads))
    for stage, epochs in rival.by_fit.items():
        logs = np.array([epoch.matrix for epoch in epochs])
        due = logs[[number % every == 0 for number in rival.numbers[stage]]].mean(axis=0)
        # One epoch in `every` logs U: each pays its part of that.
        matrix = due / every
        hand_steps, fit_steps = (np.array([each.steps for each in side]) for side in (rival.by_hand[stage], epochs))
        hand = np.array([each.whole for each in rival.by_hand[stage]])
        fit = np.array([each.whole for each in epochs]) - logs + matrix
        # Each pair of epochs by itself: what slows the machine for a while slows both of a pair.
        ratio, training, whole = (
            np.median(each, axis=0) for each in (fit / hand, (fit_steps - hand_steps) / steps, (fit - hand) / steps)
        )
        for at, clock in enumerate(CLOCKS):
            values = (
                f"{np.median(hand[:, at]):.4f} s",
                f"{np.median(fit[:, at]):.4f} s",
                f"{ratio[at]:.3f}",
                f"{training[at] * 1e3:.3f}",
                f"{whole[at] * 1e3:.3f}",
                f"{(whole - training)[at] * steps * 1e3:.1f}",
                f"{matrix[at] / np.median(fit[:, at]):.2%} ({due[at] * 1e3:.0f} ms)",
            )
            print(f"{f'{stage} {clock}':20}" + "".join(f"{value:>19}" for value in values))
    if rival.bare:
        bare, fit_steps = np.array(rival.bare), np.array([each.steps for each in rival.by_fit["warmup"]])
        for at, clock in enumerate(CLOCKS):
            ratio = np.median(fit_steps[:, at] / bare[: len(fit_steps), at])
            step = np.median(bare[:, at]) / steps * 1e3
            print(f"a training step of the warm-up, {clock}: {ratio:.3f} times that of a bare Trainer ({step:.3f} ms)")


class Bare(pl.LightningModule):
    """Cross-entropy and Adam, and nothing else; times the training steps of its epoch."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Return the loss."""
        return F.cross_entropy(self.net(batch.x), batch.y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make Adam."""
        return torch.optim.Adam(self.net.parameters())

    def on_train_epoch_start(self) -> None:
        """Start the clock."""
        self.begin = now()

    def on_train_epoch_end(self) -> None:
        """Stop it."""
        self.took = now() - self.begin


def run_bare(net: nn.Module, trainer: pl.Trainer) -> Seconds:
    """Return what the training steps of an epoch take in a Trainer without anything, on a copy of the net."""
    batches = cast(NoisyDataModule, trainer.datamodule).train_dataloader()  # type: ignore[attr-defined]
    module = Bare(copy.deepcopy(net))
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    pl.Trainer(accelerator="cpu", max_epochs=1, **dict.fromkeys(off, False)).fit(module, batches)
    return module.took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", help="folder with Fashion-MNIST in the hub's layout; random images without it")
    parser.add_argument("--epochs", type=int, default=6, help="Fashion-MNIST: pairs of epochs a stage (default: 6)")
    parser.add_argument("--digits-epochs", type=int, default=40, help="digits: the same (default: 40)")
    parser.add_argument("--batches", type=int, help="Fashion-MNIST: batches of each epoch; all of them without it")
    options = parser.parse_args()
    if min(options.epochs, options.digits_epochs) < 5:
        parser.error("--epochs and --digits-epochs must be at least 5, so that one of them logs U")

    torch.set_num_threads(1)
    os.environ["WANDB_SILENT"] = "true"
    fashion = FashionMNISTDataModule if options.root else RandomImages
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread, {options.root or 'random images'}")
    print(
        f"demands: fit / by hand <= {EPOCH_DEMAND} on Fashion-MNIST, a training step on digits <= {STEP_DEMAND} times that of"
    )
    print(f"a bare Trainer, log of U <= {MATRIX_DEMAND:.0%} of an epoch")
    with tempfile.TemporaryDirectory() as folder:
        # Batches of 64 make 18 steps, in which an epoch's own cost shows; batches of 8 make 149, in which a step's does.
        for size in (64, 8):
            digits = DigitsDataModule(ClassDependentNoise(0.6, {9: 1, 2: 0, 4: 7, 3: 5}, seed=1), size)
            place = Path(folder) / f"digits{size}"
            epochs = options.digits_epochs
            show(f"digits by {size}", *compare(DigitsCNN(10), digits, 1e-3, 0.9, epochs, None, place))
        data = fashion("bag", ClassDependentNoise(0.6, {1: 0}, seed=1), root=options.root)
        show(
            "Fashion-MNIST",
            *compare(FashionCNN(2), data, 1e-4, 0.99, options.epochs, options.batches, Path(folder) / "fashion"),
        )


if __name__ == "__main__":
    main()
