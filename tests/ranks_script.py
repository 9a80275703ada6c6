"""Train the same cases in worlds of one, two and three ranks: ``python ranks_script.py FOLDER cpu`` (or ``cuda``: one and two).

Each rank leaves what it saw of its cases in ``FOLDER/<ranks>-<rank>.pt``, and test_ranks.py compares. The processes of
all worlds are forked from one that has done the imports.
"""

import builtins
import contextlib
import io
import multiprocessing
import os
import shutil
import socket
import sys
import time
import tomllib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning_fabric.utilities.rank_zero import rank_zero_only
from own_methods import MovingTargets, Turns, TwoOfTwo
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from ldmi_lightning import LDMIModule, Method, Stage
from ldmi_lightning.commands import main
from ldmi_lightning.datamodules import DigitsDataModule
from ldmi_lightning.datamodules.base import Examples
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import CELoss, DMILoss, ELRLoss, ForwardLoss, GCELoss, LCCNLoss, Predictions, VolMinLoss
from ldmi_lightning.methods import CoTeaching
from ldmi_lightning.models import DigitsCNN
from ldmi_lightning.noise import PairFlipNoise
from ldmi_lightning.schedulers import WarmupCosine

REPO = Path(__file__).parents[1]
EPOCHS = 2
HANG = 60
"""Seconds after which a rank that waits for another one gives up."""

ADAM = partial(torch.optim.Adam, lr=2e-3)


class FewDigits(DigitsDataModule):
    """Digits of which neither batches nor splits divide by two or three."""

    def __init__(self, batch_size: int = 97, sizes: tuple[int, int, int] = (900, 151, 101)) -> None:
        super().__init__(PairFlipNoise(0.3, seed=0), batch_size)
        self.sizes = dict(zip(("train", "val", "test"), sizes, strict=True))

    def load(self) -> Mapping[str, Examples]:
        return {name: examples.take(slice(self.sizes[name])) for name, examples in super().load().items()}

    def setup(self, stage: str) -> None:
        if not self.splits:
            super().setup(stage)
            for name in ("train", "val"):
                split = self.splits[name]
                split.votes = torch.stack([split.y, torch.arange(len(split)), torch.full_like(split.y, -1)], dim=1)

    def train_transform(self) -> nn.Module:
        return nn.Sequential(super().train_transform(), Turns(self))


class Halves(nn.Module):
    """Gives the upper and the lower half of each image, as a dict."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"upper": x[:, :, :4], "lower": x[:, :, 4:]}


class HalfDigits(FewDigits):
    """The same digits, whose x is a dict."""

    def eval_transform(self) -> nn.Module:
        return nn.Sequential(super().eval_transform(), Halves())


class OfHalves(nn.Module):
    """A net of both halves, whose body has weights and statistics to freeze."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24))
        self.head = nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 10))

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self.head(self.body(torch.cat([x["upper"], x["lower"]], dim=2)))
        return logits


class WatchedDMILoss(DMILoss):
    """Keeps what `prepare` was given."""

    given: tuple[Predictions, Predictions]

    def prepare(self, train: Predictions, held_out: Predictions) -> None:
        super().prepare(train, held_out)
        self.given = train, held_out


class WatchedLCCNLoss(LCCNLoss):
    """Keeps what `prepare` was given, and the outputs, labels and positions that this rank saw in each step."""

    given: tuple[Predictions, Predictions]

    def __init__(self) -> None:
        super().__init__(refresh_every=4, warmup_steps=4)
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def prepare(self, train: Predictions, held_out: Predictions) -> None:
        super().prepare(train, held_out)
        self.given = train, held_out

    def forward(self, logits: Tensor, y: Tensor, index: Tensor) -> Tensor:
        self.seen.append((logits.detach().cpu(), y.cpu(), index.cpu()))
        return super().forward(logits, y, index)


class CountingIO(TorchCheckpointIO):
    """Notes which files this process writes."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        self.written.append(Path(path).name.partition(".ckpt")[0])  # what follows is each process's own
        super().save_checkpoint(checkpoint, path, storage_options)


class Watch(pl.Callback):
    """Notes the loss's state after each step, and the metrics of each epoch; stops the run in `stop_in` (from 0)."""

    def __init__(self, stop_in: int | None = None) -> None:
        self.stop_in = stop_in
        self.counts: list[list[int]] = []
        self.memories: list[Tensor] = []
        self.metrics: list[dict[str, float]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.stop_in:
            raise InterruptedError

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if isinstance(loss := pl_module.stage.loss, DMILoss):
            self.counts.append([int(loss.steps), int(loss.singular_steps)])
            self.memories.append(loss.joint_memory.cpu().clone())
        elif isinstance(loss, ForwardLoss | LCCNLoss):
            self.memories.append(loss.transition.cpu().clone())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})


class SkewedTimer(Timer):
    """Ends the run in its second epoch by the clock of rank 0; the other ranks' clocks stand still."""

    def __init__(self) -> None:
        super().__init__(duration=timedelta(hours=1))
        self.elapsed = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.is_global_zero and trainer.current_epoch == 1:
            self.elapsed = 7200

    def time_elapsed(self, *_: Any) -> float:
        return self.elapsed


class OnCPU(FSDPStrategy):
    """FSDP that Lightning's own check of the accelerator does not know."""


def mlp(*more: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), *more, nn.ReLU(), nn.Linear(24, 10))


def ldmi(robust: Any, net: Callable[[], nn.Module] = mlp, lr: float = 0.2, **of_robust: Any) -> LDMIModule:
    pl.seed_everything(1, verbose=False)
    warmup = Stage(CELoss(), EPOCHS, partial(torch.optim.SGD, lr=lr, momentum=0.9))
    return LDMIModule(net(), 10, warmup, Stage(robust, EPOCHS, ADAM, **of_robust))


def of_halves() -> LDMIModule:
    """Return a model with all that is said of single parameters, and a schedule that counts steps."""
    pl.seed_everything(1, verbose=False)
    sgd = partial(torch.optim.SGD, lr=0.2, momentum=0.9, weight_decay=0.01)
    warmup = Stage(CELoss(), EPOCHS, sgd, WarmupCosine)
    robust = Stage(WatchedDMILoss(0.9), EPOCHS, ADAM, WarmupCosine)
    more = {"freeze": "body.*", "lr_factors": {"head.0.*": 0.5}, "decay_norms_and_biases": False}
    return LDMIModule(OfHalves(), 10, warmup, robust, **more)


class World:
    """What a rank needs to run its cases."""

    def __init__(self, rank: int, ranks: int, folder: Path, accelerator: str) -> None:
        self.rank, self.ranks, self.folder, self.accelerator = rank, ranks, folder, accelerator

    def trainer(self, root: Path, **flags: Any) -> pl.Trainer:
        more = {"strategy": DDPStrategy(timeout=timedelta(seconds=HANG))} if self.ranks > 1 else {}
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        flags = {**quiet, "precision": "64-true", "default_root_dir": root, **more, **flags}
        return pl.Trainer(accelerator=self.accelerator, devices=self.ranks, **flags)

    def fit(
        self,
        name: str,
        module: LDMIModule,
        data: FewDigits | None = None,
        *,
        stop_in: int | None = None,
        ckpt_path: Path | None = None,
        **flags: Any,
    ) -> dict[str, Any]:
        """Fit, and return all that the tests compare."""
        data, watch, files, printed = data or FewDigits(), Watch(stop_in), CountingIO(), io.StringIO()
        callbacks = [watch, *flags.pop("callbacks", [])]
        trainer = self.trainer(
            self.folder / f"{self.ranks} ranks" / name, callbacks=callbacks, plugins=[files], **flags
        )
        expected = contextlib.suppress(InterruptedError) if stop_in is not None else contextlib.nullcontext()
        with contextlib.redirect_stdout(printed), expected:
            trainer.fit(module, data, ckpt_path=ckpt_path)
        losses = [module.stages[each].loss for each in module.stages]
        return {
            "weights": {name: value.cpu() for name, value in module.backbone.state_dict().items()},
            "progress": asdict(module.progress),
            "stages": module.stage_summaries(),
            "batches": int(trainer.num_training_batches),
            "metrics": watch.metrics,
            "counts": watch.counts,
            "memories": watch.memories,
            "given": [tuple(split) for loss in losses for split in getattr(loss, "given", ())],
            "seen": [step for loss in losses for step in getattr(loss, "seen", ())],
            "state": {
                name: value.cpu()
                for part in (losses[-1], module.second_backbone)
                if part is not None
                for name, value in part.state_dict().items()
            },
            "latent": losses[-1].counts().cpu() if isinstance(losses[-1], LCCNLoss) else None,
            "written": files.written,
            "printed": printed.getvalue().splitlines(),
            "labels": {split: data.splits[split].y.cpu() for split in ("train", "val")},
            "noise": data.noise_report()["sha256"],
        }

    def test(self, module: LDMIModule, data: FewDigits) -> dict[str, Any]:
        trainer = self.trainer(self.folder)
        trainer.test(module, data, verbose=False)
        return {name: float(value) for name, value in trainer.callback_metrics.items()}


RIVALS: dict[str, Callable[[], Method]] = {
    "GCE": GCELoss,
    "FW": partial(ForwardLoss, renew=True),
    "LCCN": WatchedLCCNLoss,
    "ELR": ELRLoss,
    "VolMinNet": VolMinLoss,
    "Co-teaching": CoTeaching,
    "moving targets": partial(MovingTargets, 10),
    "two nets, two views": TwoOfTwo,
}

SAME_AS_ONE_PROCESS: dict[str, Callable[[World, str], dict[str, Any]]] = {
    "CE, CE": lambda world, name: world.fit(name, ldmi(CELoss())),
    "CE, DMI": lambda world, name: world.fit(name, ldmi(DMILoss(0.0))),
    "CE, DMI with memory": lambda world, name: world.fit(name, ldmi(WatchedDMILoss(0.9))),
    "even batches": lambda world, name: world.fit(name, ldmi(DMILoss(0.0)), FewDigits(batch_size=90)),
    "dicts, frozen, shares": lambda world, name: world.fit(name, of_halves(), HalfDigits()),
    "accumulated, limited": lambda world, name: world.fit(
        name, ldmi(WatchedDMILoss(0.9)), accumulate_grad_batches=2, limit_train_batches=5
    ),
    **{f"CE, {rival}": lambda world, name, loss=loss: world.fit(name, ldmi(loss())) for rival, loss in RIVALS.items()},
}


def watched_dmi() -> WatchedDMILoss:
    return WatchedDMILoss(0.9)


def interrupted(
    world: World,
    name: str,
    stop_in: int,
    net: Callable[[], nn.Module] = mlp,
    loss: Callable[[], Method] = watched_dmi,
) -> dict[str, Any]:
    """Stop a run, keep its folder for another world, and resume it."""
    root = world.folder / f"{world.ranks} ranks" / name
    first = world.fit(name, ldmi(loss(), net), stop_in=stop_in)
    (last,) = root.glob("*/last.ckpt")
    if world.rank == 0:
        shutil.copytree(last.parent, kept(world.folder, world.ranks, name))
    resumed = world.fit(name, ldmi(loss(), net), ckpt_path=last)
    return {**resumed, "folders": len(list(root.iterdir())), "given before": first["given"]}


def kept(folder: Path, ranks: int, name: str) -> Path:
    return folder / f"kept from {ranks} ranks" / name


def dropout() -> nn.Module:
    return mlp(nn.Dropout(0.2))


def batchnorm() -> nn.Module:
    return mlp(nn.BatchNorm1d(24))


def crumbs(world: World) -> dict[str, Any]:
    """Give some ranks nothing at all in validation, test and prepare's passes."""
    data = FewDigits(batch_size=3, sizes=(61, 7, 2))
    # Seven samples do not hold ten classes: val/log_dmi cannot select.
    module = ldmi(WatchedDMILoss(0.9), lr=0.01, monitor="val/acc", mode="max")
    return {**world.fit("crumbs", module, data), "test": world.test(module, data)}


def one(world: World) -> dict[str, Any]:
    results = {name: case(world, name) for name, case in SAME_AS_ONE_PROCESS.items()}
    results["crumbs"] = crumbs(world)
    results["batchnorm"] = world.fit("batchnorm", ldmi(DMILoss(0.9), batchnorm))
    world.fit("digits", ldmi(DMILoss(0.9), partial(DigitsCNN, 10)), limit_train_batches=3, precision="32-true")
    for name in ("stopped at the switch", "stopped in the robust stage"):
        folder = kept(world.folder, 2, name)
        results[f"{name}, on"] = world.fit(name, ldmi(WatchedDMILoss(0.9)), ckpt_path=folder / "last.ckpt")
    for rival, loss in RIVALS.items():
        folder = kept(world.folder, 2, f"{rival}, stopped")
        results[f"{rival}, stopped, on"] = world.fit(rival, ldmi(loss()), ckpt_path=folder / "last.ckpt")
    if world.accelerator == "cpu":
        strategies = {"FSDP": OnCPU(), "model parallel": ModelParallelStrategy()}
        results["refused"] = {name: refusal(world, strategy) for name, strategy in strategies.items()}
    return results


def refusal(world: World, strategy: Any) -> str:
    try:
        world.trainer(world.folder, strategy=strategy, precision="32-true").fit(ldmi(DMILoss(0.9)), FewDigits())
    except UserError as error:
        return str(error)
    return ""


def two(world: World) -> dict[str, Any]:
    results = {name: case(world, name) for name, case in SAME_AS_ONE_PROCESS.items()}
    results["stopped at the switch"] = interrupted(world, "stopped at the switch", EPOCHS)
    results["stopped in the robust stage"] = interrupted(world, "stopped in the robust stage", EPOCHS + 1)
    for rival, loss in RIVALS.items():
        results[f"{rival}, stopped"] = interrupted(world, f"{rival}, stopped", EPOCHS + 1, loss=loss)
    results["dropout"] = world.fit("dropout", ldmi(WatchedDMILoss(0.9), dropout))
    results["dropout, stopped"] = interrupted(world, "dropout, stopped", EPOCHS + 1, dropout)
    results["batchnorm"] = world.fit("batchnorm", ldmi(DMILoss(0.9), batchnorm))
    results["clocks"] = world.fit("clocks", ldmi(DMILoss(0.9)), callbacks=[SkewedTimer()])
    return results


def three(world: World) -> dict[str, Any]:
    data, module = FewDigits(), ldmi(WatchedDMILoss(0.9))
    name = "CE, DMI with memory"
    results = {name: {**world.fit(name, module, data), "test": world.test(module, data)}, "crumbs": crumbs(world)}
    if world.accelerator == "cpu":
        results["predict"] = predict(world)
    return results


def predict(world: World) -> list[str]:
    """Predict the 300 test digits by the `ldmi` command; return what it printed."""
    (checkpoint,) = (world.folder / "1 ranks" / "digits").glob("*/last.ckpt")
    flags = ["--config", str(REPO / "configs/quickstart.yaml"), "--ckpt_path", str(checkpoint)]
    flags += ["--trainer.devices", str(world.ranks), "--trainer.enable_progress_bar", "false"]
    flags += ["--data.batch_size", "50"]  # six batches, of which no rank gets a third
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["predict", *flags]) == 0
    return printed.getvalue().splitlines()


def errors_like_pytests() -> None:
    """Make warnings errors, but those that pyproject.toml lets pass."""
    settings = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    for line in settings["filterwarnings"]:
        action, _, rest = line.partition(":")
        message, _, category = rest.rpartition(":")
        warnings.filterwarnings(action, message, getattr(builtins, category or "Warning"))


def run_rank(
    rank: int, ranks: int, port: int, folder: Path, accelerator: str, cases: Callable[[World], Any] | None
) -> None:
    # As Lightning's own launcher and torchrun tell a process which rank it is.
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} if ranks > 1 else {}
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(ranks)} if ranks > 1 else {}
    rank_zero_only.rank = rank  # which Lightning reads from the environment when it is imported
    errors_like_pytests()
    results = (cases or {1: one, 2: two, 3: three}[ranks])(World(rank, ranks, folder, accelerator))
    torch.save(results, folder / f"{ranks}-{rank}.pt")
    if dist.is_initialized():
        dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_world(ranks: int, folder: Path, accelerator: str, cases: Callable[[World], Any] | None = None) -> None:
    """Run one world to its end; a rank that fails or hangs takes the others with it.

    Args:
        ranks: how many.
        folder: for what they leave.
        accelerator: what Lightning calls one.
        cases: what each rank carries out, and leaves; ``None`` for this file's own.
    """
    port, fork = free_port(), multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=run_rank, args=(rank, ranks, port, folder, accelerator, cases)) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + 3 * HANG
    for process in processes:
        process.join(timeout=max(0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    if any(code != 0 for code in codes):  # None for one that was still running
        sys.exit(f"The ranks of {ranks} ended with {codes}.")


if __name__ == "__main__":
    target, device = Path(sys.argv[1]), sys.argv[2]
    for world_size in (2, 1, 3) if device == "cpu" else (2, 1):
        run_world(world_size, target, device)
