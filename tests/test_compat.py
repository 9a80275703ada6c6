"""What the package needs of Lightning's and torch's private names, one test a name, and that no other file uses any."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from blobs import Blobs, ldmi
from conftest import MakeTrainer
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.strategies import DDPStrategy
from test_structure import REPO, sources
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ldmi_lightning.training import compat

CHANGED = (
    "Lightning or torch has changed a private name that ldmi_lightning/training/compat.py rests on: see its docstring"
)


# -- each name --------------------------------------------------------------------------------------------------------


def test_given_hyperparameters_tells_the_command_line_from_python(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    class Module(pl.LightningModule):
        def __init__(self, width: int = 1) -> None:
            super().__init__()
            told.append(compat.made_by_command_line())

    Module()
    monkeypatch.setattr("sys.argv", ["ldmi"])
    LightningCLI(
        Module,
        run=False,
        args=["--model.width", "2", "--trainer.logger", "false"],
        save_config_callback=None,
        seed_everything_default=1,
    )
    assert told == [False, True], CHANGED


def test_multi_processing_launcher_is_that_of_spawned_processes() -> None:
    spawned = pl.Trainer(strategy="ddp_spawn", accelerator="cpu", devices=2, logger=False)
    scripts = pl.Trainer(strategy="ddp", accelerator="cpu", devices=2, logger=False)
    assert compat.copies_processes(spawned), CHANGED
    assert not compat.copies_processes(scripts), CHANGED


def test_the_data_fetcher_begins_the_batches_anew(make_trainer: MakeTrainer) -> None:
    begun = []

    class Counted(Blobs):
        def train_dataloader(self) -> Any:
            loader = super().train_dataloader()
            kind = type(
                "Counting", (type(loader),), {"__iter__": lambda self: begun.append(1) or super(kind, self).__iter__()}
            )
            loader.__class__ = kind
            return loader

    class Look(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            assert trainer.fit_loop._data_fetcher is not None, CHANGED
            before = len(begun)
            iter(trainer.fit_loop._data_fetcher)
            assert len(begun) == before + 1, CHANGED

    make_trainer(callbacks=[Look()]).fit(ldmi(), Counted())
    assert begun


def test_ddp_leaves_out_what_it_is_told_to(tmp_path: Path) -> None:
    net = nn.ModuleDict({"in": nn.Linear(2, 2), "out": nn.Linear(2, 2)})
    compat.leave_out_of_ddp(net, ["out.weight", "out.bias"])
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        wrapped = DistributedDataParallel(net)
        assert wrapped.parameters_to_ignore == {"out.weight", "out.bias"}, CHANGED
    finally:
        torch.distributed.destroy_process_group()


def test_the_module_sees_max_epochs_as_the_user_gave_it(make_trainer: MakeTrainer) -> None:
    seen = []

    class Module(type(ldmi())):  # type: ignore[misc]
        def meet_trainer(self, trainer: pl.Trainer) -> None:
            seen.append(trainer.fit_loop.max_epochs)
            super().meet_trainer(trainer)

    module = ldmi()
    module.__class__ = Module
    make_trainer().fit(module, Blobs())
    assert seen[0] is None, CHANGED


def test_a_module_without_a_trainer_has_none() -> None:
    assert compat.trainer_of(ldmi()) is None
    assert isinstance(DDPStrategy(), DDPStrategy)


# -- no other file ----------------------------------------------------------------------------------------------------

FOREIGN = ("torch", "torchvision", "torchmetrics", "pytorch_lightning", "lightning_fabric", "lightning")
OURS = {"_replace", "_asdict", "_fields", "_make", "_exit", "_actions"}
"""Names of Python's own: of every NamedTuple, of ``os`` and of ``argparse``."""


@cache
def own_names() -> set[str]:
    """Return every private name that the package itself defines: functions, classes, attributes, constants."""
    names: set[str] = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
    return names


@cache
def inherited() -> set[str]:
    """Return the private names of the classes that the package derives from."""
    kinds = (
        nn.Module,
        pl.LightningModule,
        pl.LightningDataModule,
        pl.Trainer,
        pl.Callback,
        LightningCLI,
        nn.ModuleDict,
    )
    more = (torch.utils.data.DataLoader, pl.loggers.CSVLogger, pl.loggers.WandbLogger, pl.callbacks.TQDMProgressBar)
    return (
        {name for kind in (*kinds, *more) for name in dir(kind)}
        | set(vars(nn.Linear(1, 1)))
        | set(vars(pl.LightningModule()))
    )


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in ("_", *OURS)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(REPO)))
def test_private_names_of_others_stand_in_compat_alone(path: Path) -> None:
    if path.name == "compat.py":
        return
    text, own, theirs = path.read_text(), own_names(), inherited()
    found = [f"{match[0]}" for match in re.finditer(r"\bvars\([^()]*\)\[", text)]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FOREIGN:
            found += [alias.name for alias in node.names if is_private(alias.name)]
            found += [part for part in (node.module or "").split(".") if is_private(part)]
        elif (
            isinstance(node, ast.Attribute) and is_private(node.attr) and (node.attr not in own or node.attr in theirs)
        ):
            found.append(node.attr)
        elif isinstance(node, ast.ClassDef):
            methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef) and is_private(each.name)}
            found += sorted(methods & theirs)
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"_[A-Za-z]\w+", node.value)
        ):
            found += [node.value] if node.value in theirs else []
    assert found == [], f"{path.name} uses {found}"


def test_there_are_at_most_eight() -> None:
    text = (REPO / "ldmi_lightning/training/compat.py").read_text()
    named = re.findall(r"Private: ``(\w+)``", text)
    assert len(named) == len(set(named)) <= 8
    used = {
        node.attr for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute) and is_private(node.attr)
    }
    used |= {
        alias.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if is_private(alias.name)
    }
    assert used == set(named), "each has its reason"
