"""Train the same cases in worlds of one, two and three ranks: ``python ranks_script.py FOLDER cpu`` (or ``cuda``: one and two).

Each rank leaves what it saw of its cases in ``FOLDER/<ranks>-<rank>.pt``, and test_ranks.py compares.
"""

import contextlib
import io
import shutil
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from own_methods import MovingTargets, TwoOfTwo
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from worlds import REPO, FewDigits, World, run_world

from ldmi_lightning import LDMIModule, Method, Stage
from ldmi_lightning.commands import main
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import CELoss, DMILoss, ELRLoss, ForwardLoss, GCELoss, LCCNLoss, Predictions, VolMinLoss
from ldmi_lightning.methods import CoTeaching
from ldmi_lightning.models import DigitsCNN
from ldmi_lightning.schedulers import WarmupCosine

EPOCHS = 2

ADAM = partial(torch.optim.Adam, lr=2e-3)


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


if __name__ == "__main__":
    target, device = Path(sys.argv[1]), sys.argv[2]
    for world_size in (2, 1, 3) if device == "cpu" else (2, 1):
        run_world(world_size, target, device, {1: one, 2: two, 3: three}[world_size])
