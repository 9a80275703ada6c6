"""The checkpoints of one fit, and the modules that are loaded from them."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from blobs import (
    LEARN_TWICE_THEN_UNLEARN,
    NO_WORKERS,
    Blobs,
    Own,
    blobs,
    ce,
    dmi,
    equal,
    fit,
    foreign_loaders,
    ldmi,
    run_folder,
    weights,
)
from conftest import MakeTrainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

from ldmi_lightning import LDMIModule
from ldmi_lightning.errors import UserError

# -- files ----------------------------------------------------------------------------------------------------------


def test_users_own_checkpoint_stays_and_works(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    own = ModelCheckpoint(tmp_path / "own", "mine", monitor="val/acc", mode="max")
    watch = fit(make_trainer, ldmi(), callbacks=[own])
    best = max(watch.epochs, key=lambda epoch: epoch.metrics["val/acc"])
    assert equal(weights(tmp_path / "own" / "mine.ckpt"), best.end)
    assert len(list(tmp_path.rglob("*.ckpt"))) == 6


def test_lightnings_own_checkpoint_is_taken_out(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path / "logs")
    fit(make_trainer, ldmi(), logger=logger, log_every_n_steps=1)
    assert (Path(logger.log_dir) / "metrics.csv").is_file()
    assert list((tmp_path / "logs").rglob("*.ckpt")) == []
    assert len(list(tmp_path.rglob("*.ckpt"))) == 5


def test_lightnings_own_checkpoint_is_taken_out_after_a_validation_too(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    module, trainer = ldmi(), make_trainer()
    trainer.validate(module, Blobs(), verbose=False)
    trainer.fit(module, Blobs())
    assert len(list(run_folder(tmp_path).iterdir())) == 5


def test_checkpointing_can_be_switched_off(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    module = ldmi(ce(3, scheduler=LEARN_TWICE_THEN_UNLEARN), dmi(3, scheduler=LEARN_TWICE_THEN_UNLEARN))
    watch = fit(make_trainer, module, enable_checkpointing=False)
    assert watch.stages == ["warmup"] * 3 + ["robust"] * 3
    best = {"warmup": watch.best("warmup", "val/acc"), "robust": watch.best("robust", "val/log_dmi")}
    assert equal(weights(module), best[str(module.chosen)].end)
    assert list(tmp_path.iterdir()) == []


def test_every_checkpoint_loads_without_running_code(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    own = ModelCheckpoint(tmp_path / "own", monitor="val/acc", mode="max")
    halve = partial(ReduceLROnPlateau, mode="max", threshold_mode="abs")
    module = ldmi(ce(2, scheduler=halve), dmi(2, scheduler=halve))
    fit(make_trainer, module, callbacks=[own, EarlyStopping("val/acc", mode="max")], max_time={"hours": 1})
    files = list(tmp_path.rglob("*.ckpt"))
    assert len(files) == 6
    for file in files:
        assert torch.load(file, weights_only=True)["state_dict"].keys() == module.state_dict().keys()


def test_run_after_a_test_leaves_the_tested_runs_files_alone(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    fit(make_trainer, ldmi(), default_root_dir=tmp_path / "old")
    folder = run_folder(tmp_path / "old")
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    trainer = make_trainer(default_root_dir=tmp_path / "new")
    trainer.test(ldmi(), Blobs(), ckpt_path=folder / "warmup-best.ckpt", verbose=False)
    trainer.fit(ldmi(seed=2), Blobs())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == written
    assert len(list(tmp_path.glob("new/*/robust-best.ckpt"))) == 1


def test_subclass_that_builds_its_backbone_loads_from_the_path_alone(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    module = Own(width=5)
    fit(make_trainer, module)
    loaded = Own.load_from_checkpoint(run_folder(tmp_path) / f"{module.chosen}-best.ckpt")
    assert isinstance(loaded, Own)
    assert equal(weights(loaded), weights(module))
    (one,), (other,) = (make_trainer().test(each, Blobs(), verbose=False) for each in (module, loaded))
    assert one == other


def test_module_made_from_objects_loads_when_they_are_given_again(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    module = ldmi()
    fit(make_trainer, module)
    objects = {"backbone": nn.Linear(3, 3), "warmup": ce(), "robust": dmi()}
    loaded = LDMIModule.load_from_checkpoint(run_folder(tmp_path) / f"{module.chosen}-best.ckpt", **objects)
    assert equal(weights(loaded), weights(module))


@pytest.mark.parametrize("given", [[], ["backbone"], ["backbone", "warmup"], ["warmup", "robust"]])
def test_loading_without_the_objects_says_what_to_pass(
    make_trainer: MakeTrainer, tmp_path: Path, given: list[str]
) -> None:
    fit(make_trainer, ldmi())
    objects = {"backbone": nn.Linear(3, 3), "warmup": ce(), "robust": dmi()}
    with pytest.raises(UserError, match=r"backbone=.*warmup=.*robust="):
        LDMIModule.load_from_checkpoint(
            run_folder(tmp_path) / "robust-best.ckpt", **{name: objects[name] for name in given}
        )


def test_module_without_a_backbone_says_how_to_give_one() -> None:
    with pytest.raises(UserError, match=r"--model\.backbone.*build_backbone"):
        LDMIModule(None, 3, ce())


@pytest.mark.filterwarnings("ignore:Found 1 module.* in eval mode")  # which is meant here
def test_a_part_that_the_user_keeps_in_eval_mode_stays_so_across_stages(make_trainer: MakeTrainer) -> None:
    module = LDMIModule(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)), 3, ce(), dmi())
    seen: list[bool] = []

    class Look(pl.Callback):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            module.backbone[0].eval()  # type: ignore[index]

        def on_train_batch_start(self, *_: Any) -> None:
            seen.append(module.backbone[0].training)  # type: ignore[index]

    make_trainer(callbacks=[Look()], num_sanity_val_steps=0).fit(module, Blobs())
    assert set(seen) == {False}


@pytest.mark.filterwarnings(NO_WORKERS)
def test_a_loader_without_a_length_works_through_both_stages(make_trainer: MakeTrainer) -> None:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(TensorDataset(blobs().splits["train"].x, blobs().splits["train"].y))

    module = ldmi()
    make_trainer().fit(module, DataLoader(Stream(), 30), foreign_loaders()[1])
    assert module.progress.stage == "robust"
    assert module.progress.epochs == 2


def test_a_plateau_scheduler_that_works_against_the_selection_is_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match=r"--model\.warmup\.scheduler\.mode max"):
        make_trainer().fit(ldmi(ce(scheduler=partial(ReduceLROnPlateau, mode="min"))), Blobs())
