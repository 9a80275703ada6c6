"""Worlds of one or more ranks, and the fits that are watched in them: shared by the scripts that run some.

The processes of all worlds are forked from one that has done the imports.
"""

import builtins
import contextlib
import io
import multiprocessing
import os
import socket
import sys
import time
import tomllib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning_fabric.utilities.rank_zero import rank_zero_only
from own_methods import Turns
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn

from ldmi_lightning import LDMIModule
from ldmi_lightning.datamodules import DigitsDataModule
from ldmi_lightning.datamodules.base import Examples
from ldmi_lightning.losses import DMILoss, ForwardLoss, LCCNLoss
from ldmi_lightning.noise import PairFlipNoise

REPO = Path(__file__).parents[1]
HANG = 60
"""Seconds after which a rank that waits for another one gives up."""


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


def errors_like_pytests() -> None:
    """Make warnings errors, but those that pyproject.toml lets pass."""
    settings = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    for line in settings["filterwarnings"]:
        action, _, rest = line.partition(":")
        message, _, category = rest.rpartition(":")
        warnings.filterwarnings(action, message, getattr(builtins, category or "Warning"))


def run_rank(rank: int, ranks: int, port: int, folder: Path, accelerator: str, cases: Callable[[World], Any]) -> None:
    # As Lightning's own launcher and torchrun tell a process which rank it is.
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} if ranks > 1 else {}
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(ranks)} if ranks > 1 else {}
    rank_zero_only.rank = rank  # which Lightning reads from the environment when it is imported
    errors_like_pytests()
    results = cases(World(rank, ranks, folder, accelerator))
    torch.save(results, folder / f"{ranks}-{rank}.pt")
    if dist.is_initialized():
        dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_world(ranks: int, folder: Path, accelerator: str, cases: Callable[[World], Any]) -> None:
    """Run one world to its end; a rank that fails or hangs takes the others with it.

    Args:
        ranks: how many.
        folder: for what they leave.
        accelerator: what Lightning calls one.
        cases: what each rank carries out, and leaves in ``FOLDER/<ranks>-<rank>.pt``.
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
