"""Every stage is a fit of its own for the user's callbacks, and what would silently go wrong is refused in one line."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from blobs import ADAM, FROZEN, SGD, Blobs, Own, Watch, blobs, ce, dmi, equal, fit, ldmi, run_folder, weights
from conftest import MakeTrainer
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    LearningRateFinder,
    LearningRateMonitor,
    StochasticWeightAveraging,
    WeightAveraging,
)
from pytorch_lightning.loggers import CSVLogger
from stops import StopAt, Stopped
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.datamodules import TensorDataModule
from ldmi_lightning.datamodules.transforms import RandomCrop, RandomFlip
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import CELoss, DMILoss, ForwardLoss
from ldmi_lightning.noise import PairFlipNoise

# -- the user's callbacks ---------------------------------------------------------------------------------------------


def test_early_stopping_begins_anew_in_a_stage_that_it_did_not_end(make_trainer: MakeTrainer) -> None:
    stopping = EarlyStopping("val/acc", mode="max", patience=3)
    watch = fit(make_trainer, ldmi(ce(3, optimizer=FROZEN), dmi(9, optimizer=FROZEN)), callbacks=[stopping])
    assert watch.stages == ["warmup"] * 3 + ["robust"] * 4  # the first sets the best, three wait


def test_learning_rate_monitor_sees_each_stages_optimizer_from_its_first_epoch(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    logger = CSVLogger(tmp_path / "logs")
    monitor = LearningRateMonitor(logging_interval="epoch")
    fit(make_trainer, ldmi(), callbacks=[monitor], logger=logger, log_every_n_steps=1)
    logger.save()
    rows = np.genfromtxt(Path(logger.log_dir) / "metrics.csv", delimiter=",", names=True)
    seen = {name: [x for x in rows[name].tolist() if x == x] for name in rows.dtype.names if name.startswith("lr")}
    assert seen["lrSGD"] == pytest.approx([0.4, 0.4])
    assert seen["lrAdam"] == pytest.approx([0.05, 0.05])


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        (lambda: StochasticWeightAveraging(swa_lrs=0.1), "StochasticWeightAveraging averages weights.*leave it out"),
        (WeightAveraging, "WeightAveraging averages weights.*leave it out"),
        (LearningRateFinder, "LearningRateFinder trains before the stages"),
        (BatchSizeFinder, "BatchSizeFinder trains before the stages.*--data.batch_size"),
    ],
)
def test_callbacks_that_work_behind_the_stages_back_are_refused(
    callback: Any, said: str, make_trainer: MakeTrainer
) -> None:
    with pytest.raises(UserError, match=said):
        fit(make_trainer, ldmi(), callbacks=[callback()])


@pytest.mark.parametrize("length", [{"min_epochs": 3}, {"min_steps": 5}])
def test_a_shortest_length_given_to_the_trainer_is_refused(length: dict[str, int], make_trainer: MakeTrainer) -> None:
    ((name, value),) = length.items()
    with pytest.raises(UserError, match=rf"{name}={value}.*--model\.warmup\.epochs"):
        fit(make_trainer, ldmi(), **length)


def test_a_trainer_whose_stages_ended_early_can_fit_again(make_trainer: MakeTrainer) -> None:
    watch = Watch()
    trainer = make_trainer(callbacks=[watch])
    for _ in range(2):
        trainer.fit(ldmi(ce(9, optimizer=FROZEN, patience=1), None), Blobs())
    assert watch.stages == ["warmup"] * 4


def test_a_module_within_someone_elses_leaves_that_ones_trainer_alone(make_trainer: MakeTrainer) -> None:
    class Other(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.part = ldmi()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.part(batch.x).square().mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = make_trainer(max_epochs=1, enable_checkpointing=False, limit_val_batches=0)
    trainer.fit(Other(), datamodule=Blobs())
    assert trainer.current_epoch == 1


@pytest.mark.parametrize("mode", ["rel", "abs"])
def test_a_plateau_relative_to_a_negative_best_is_refused(mode: str, make_trainer: MakeTrainer) -> None:
    stage = dmi(4, optimizer=FROZEN, scheduler=partial(ReduceLROnPlateau, mode="max", threshold_mode=mode, patience=0))
    if mode == "rel":
        with pytest.raises(UserError, match=r"robust.scheduler.*negative.*threshold_mode abs"):
            fit(make_trainer, ldmi(ce(1), stage))
        return
    stage = dmi(4, scheduler=stage.scheduler, optimizer=partial(torch.optim.SGD, lr=1e-6))
    rates = [epoch.lr for epoch in fit(make_trainer, ldmi(ce(1), stage)).of("robust")]
    assert rates[-1] < rates[0], "a flat curve lowers the rate"


def test_without_seed_everything_the_run_says_which_seed_it_takes(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = ldmi(ce(1), None)
    make_trainer().fit(module, Blobs())
    assert "seed_everything" not in capsys.readouterr().out
    monkeypatch.delenv("PL_GLOBAL_SEED")
    make_trainer().fit(ldmi_unseeded(), Blobs())
    assert "seed_everything was called: order and dropout are those of seed 0" in capsys.readouterr().out


def ldmi_unseeded() -> LDMIModule:
    return LDMIModule(nn.Linear(3, 3), 3, ce(1))


# -- resume -----------------------------------------------------------------------------------------------------------


def images(changed: bool = False, **options: Any) -> TensorDataModule:
    random = np.random.RandomState(0)
    x = random.randint(0, 255, (60, 6, 6)).astype(np.uint8)
    x[7, 2, 2] += changed
    given = {"noise": PairFlipNoise(0.2, seed=0), "batch_size": 10, "val_share": 0.2, **options}
    return TensorDataModule(x, np.arange(60) % 3, **given)


def small(epochs: int = 3, robust: int = 2) -> LDMIModule:
    pl.seed_everything(1, verbose=False)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Linear(36, 3))
    return LDMIModule(net, 3, ce(epochs), dmi(robust))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"changed": True}, r"data \(inputs of --data.root, SHA-256\)"),
        ({"split_seed": 3}, r"sha256|split"),
        ({"augmentation": RandomFlip()}, r"data \(training transform\)"),
        ({"augmentation": RandomCrop(6, padding=2)}, r"data \(training transform\)"),
        ({"class_names": ["c", "b", "a"]}, r"data\.class_names is \['c', 'b', 'a'\]"),
    ],
)
def test_a_run_is_not_resumed_on_other_data(
    change: dict[str, Any], key: str, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    given = {"augmentation": RandomCrop(6, padding=1)} if "augmentation" in change else {"class_names": ["a", "b", "c"]}
    given = given if {"augmentation", "class_names"} & change.keys() else {}
    with pytest.raises(Stopped):
        make_trainer(callbacks=[StopAt(2)]).fit(small(), images(**given))
    last = run_folder(tmp_path) / "last.ckpt"
    with pytest.raises(UserError, match=rf"not the one that the checkpoint comes from: .*({key})"):
        make_trainer().fit(small(), images(**{**given, **change}), ckpt_path=last)
    make_trainer().fit(small(), images(**given), ckpt_path=last)


@pytest.mark.parametrize(("asked", "run"), [((3, 5), [3, 5]), ((3, 4), [3, 5]), ((3, 2), [3, 5])])
def test_fewer_epochs_than_were_run_end_the_stage_with_a_line(
    asked: tuple[int, int],
    run: list[int],
    make_trainer: MakeTrainer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(Stopped):
        make_trainer(callbacks=[StopAt(8)]).fit(small(3, 9), images())
    resumed = small(*asked)
    make_trainer().fit(resumed, images(), ckpt_path=run_folder(tmp_path) / "last.ckpt")
    assert [summary["epochs"] for summary in resumed.stage_summaries().values()] == run
    assert resumed.chosen is not None
    assert f"robust has run 5 epochs already, and {asked[1]} are asked for" in capsys.readouterr().out


# -- files, from Python -----------------------------------------------------------------------------------------------


def flipped(path: Path) -> None:
    """Flip a byte within the largest tensor."""
    data = bytearray(path.read_bytes())
    at = data.index(bytes(weights(path)["weight"].numpy().tobytes()[:8]))
    data[at + 3] ^= 0x41
    path.write_bytes(bytes(data))


DAMAGE = {
    "flipped": flipped,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no checkpoint"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("use", ["fit", "test", "validate", "load"])
def test_a_damaged_checkpoint_is_refused_from_python_too(
    use: str, damage: str, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    fit(make_trainer, ldmi(), default_root_dir=tmp_path / "runs")
    path = run_folder(tmp_path / "runs") / "last.ckpt"
    DAMAGE[damage](path)
    load = partial(LDMIModule.load_from_checkpoint, backbone=nn.Linear(3, 3), warmup=ce(), robust=dmi())
    run = partial(getattr(make_trainer(), use, load), ldmi(), datamodule=Blobs(), ckpt_path=path)
    with pytest.raises(UserError, match=r"last\.ckpt cannot be used: it (is|holds).*Intact beside it: .*\.ckpt"):
        _ = load(path) if use == "load" else run()


def test_a_missing_checkpoint_is_refused_from_python_too() -> None:
    with pytest.raises(UserError, match="there is no such file"):
        LDMIModule.load_from_checkpoint("nowhere.ckpt")


class Renamed(Blobs):
    """The same clouds under other names, of which two are known."""

    def __init__(self) -> None:
        super().__init__()
        self.class_names = ["cedar", "birch", "oak"]


@pytest.mark.parametrize("use", ["test", "predict", "validate", "loaded"])
def test_a_model_is_not_used_on_data_whose_classes_are_others(
    use: str, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    fit(make_trainer, ldmi(), default_root_dir=tmp_path / "runs")
    path = run_folder(tmp_path / "runs") / "last.ckpt"
    said = "Class 0 of the data is cedar, but the checkpoint was trained with ash"
    if use == "loaded":
        loaded = LDMIModule.load_from_checkpoint(path, backbone=nn.Linear(3, 3), warmup=ce(), robust=dmi())
        make_trainer().test(loaded, Blobs(), verbose=False)
        with pytest.raises(UserError, match=said):
            make_trainer().test(loaded, Renamed(), verbose=False)
        return
    with pytest.raises(UserError, match=said):
        getattr(make_trainer(), use)(ldmi(), datamodule=Renamed(), ckpt_path=path)


# -- backbones --------------------------------------------------------------------------------------------------------


def test_a_subclass_that_builds_its_backbone_need_not_be_given_none(make_trainer: MakeTrainer) -> None:
    class Bare(LDMIModule):
        def build_backbone(self) -> nn.Module:
            return nn.Linear(3, 3)

    module = Bare(num_classes=3, warmup=ce(1))
    assert fit(make_trainer, module).stages == ["warmup"]
    assert isinstance(Own(width=4).backbone, nn.Sequential)


def test_a_batch_of_one_under_batch_norm_is_explained(make_trainer: MakeTrainer) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    with pytest.raises(UserError, match=r"one sample.*BatchNorm.*--data\.batch_size"):
        make_trainer(num_sanity_val_steps=0).fit(LDMIModule(net, 3, ce(1)), Blobs(batch_size=1))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "net.", "model.", "module._orig_mod."])
def test_the_prefixes_of_other_codes_weights_are_taken_off(
    prefix: str, make_trainer: MakeTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = nn.Linear(3, 3)
    torch.save({f"{prefix}{name}": value for name, value in given.state_dict().items()}, tmp_path / "given.pt")
    module = LDMIModule(nn.Linear(3, 3), 3, ce(1), dmi(1), warm_start=str(tmp_path / "given.pt"))
    watch = fit(make_trainer, module, default_root_dir=tmp_path / "runs")
    assert equal(watch.epochs[0].start, given.state_dict())
    assert f"begin with {prefix}, which is taken off" in capsys.readouterr().out


# -- which stage is kept ----------------------------------------------------------------------------------------------


class Forgets(CELoss):
    """Throws away what was known."""

    def step(self, nets: Any, batch: Any, clock: Any) -> torch.Tensor:
        with torch.no_grad():
            for parameter in nets[0].parameters():
                parameter.zero_()
        return super().step(nets, batch, clock) * 0


def test_a_later_stage_that_knows_less_is_not_kept(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    module = ldmi(ce(3), Stage(Forgets(), 2, FROZEN))
    fit(make_trainer, module)
    (found,) = module.choice
    assert (module.chosen, found["stage"], found["against"], found["kept"]) == ("warmup", "robust", "warmup", "warmup")
    assert found["z"] == pytest.approx(found["difference"] / found["standard_error"])
    assert found["z"] < -1
    assert equal(weights(module), weights(run_folder(tmp_path) / "warmup-best.ckpt"))


def test_a_later_stage_that_knows_more_is_kept(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    module = ldmi(Stage(CELoss(), 1, FROZEN), ce(4))
    nn.init.zeros_(module.backbone.weight)  # type: ignore[arg-type]
    fit(make_trainer, module)
    (found,) = module.choice
    assert (module.chosen, found["kept"]) == ("robust", "robust")
    assert found["difference"] > found["standard_error"] > 0


def test_the_choice_is_between_decisions_and_not_outputs(make_trainer: MakeTrainer) -> None:
    class Sharper(CELoss):
        """Changes how sure the outputs are, and no decision."""

        def step(self, nets: Any, batch: Any, clock: Any) -> torch.Tensor:
            with torch.no_grad():
                for parameter in nets[0].parameters():
                    parameter.mul_(1.5)
            return super().step(nets, batch, clock) * 0

    module = ldmi(ce(2), Stage(Sharper(), 1, FROZEN))
    fit(make_trainer, module)
    (found,) = module.choice
    assert (found["difference"], found["z"], module.chosen) == (0, 0, "warmup")


def test_without_a_validation_the_last_stage_is_kept(make_trainer: MakeTrainer) -> None:
    module = ldmi()
    fit(make_trainer, module, limit_val_batches=0)
    assert module.chosen == "robust"
    assert module.choice == [
        {
            "stage": "robust",
            "against": "warmup",
            "difference": None,
            "standard_error": None,
            "z": None,
            "kept": "robust",
        }
    ]


def test_the_best_epochs_matrix_stays_and_judges_the_loaded_model(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    def stages() -> dict[str, Stage]:
        forward = Stage(ForwardLoss("held_out", renew=True), 3, ADAM)
        return {"warmup": ce(2), "robust": dmi(2), "refine": forward}

    pl.seed_everything(1, verbose=False)
    module, data = LDMIModule(nn.Linear(3, 3), 3, **stages()), blobs(batch_size=16)
    watch = fit(make_trainer, module, data)
    path = run_folder(tmp_path) / "refine-best.ckpt"
    saved = torch.load(path, weights_only=True)["state_dict"]["losses.refine.transition"]
    assert torch.equal(module.losses["refine"].transition, saved)
    loaded = LDMIModule.load_from_checkpoint(path, backbone=nn.Linear(3, 3), **stages())
    (found,) = make_trainer().validate(loaded, data, verbose=False)
    best = min(epoch.metrics["val/nll"] for epoch in watch.of("refine"))
    assert found["val/nll"] == pytest.approx(best, rel=1e-6)
    loaded.holds = "warmup"
    (other,) = make_trainer().validate(loaded, data, verbose=False)
    assert abs(other["val/nll"] - best) > 1e-4


def test_the_run_says_from_which_weights_a_stage_begins(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(make_trainer, ldmi(ce(2, optimizer=SGD), Stage(DMILoss(0.9), 1, ADAM)))
    assert re.search(
        r"robust: DMILoss for up to 1 epochs, from the weights of warmup epoch \d, the best by val/acc",
        capsys.readouterr().out,
    )
