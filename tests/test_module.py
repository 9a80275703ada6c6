"""One fit walks the stages, selects by the noisy validation set, and refuses what cannot work."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import MakeTrainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, Timer
from pytorch_lightning.loggers import CSVLogger
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, TensorDataset

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.datamodules.base import Examples, NoisyDataModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import CELoss, DMILoss
from ldmi_lightning.noise import PairFlipNoise

SGD = partial(torch.optim.SGD, lr=0.4)
ADAM = partial(torch.optim.Adam, lr=0.05)
FROZEN = partial(torch.optim.SGD, lr=0.0)
LEARN_TWICE_THEN_UNLEARN = partial(LambdaLR, lr_lambda=lambda epoch: 1.0 if epoch < 2 else -9.0)
NO_WORKERS = "ignore:The '.*_dataloader' does not have many workers"  # true of a tiny test, and no matter


class Blobs(NoisyDataModule):
    """Three overlapping Gaussian clouds: 120 points to train on, 50 for validation, 50 for the test."""

    def __init__(self, rate: float = 0.2, batch_size: int = 30) -> None:
        super().__init__(3, ["ash", "birch", "cedar"], PairFlipNoise(rate, seed=0), batch_size)

    def load(self) -> Mapping[str, Examples]:
        random = np.random.RandomState(0)

        def examples(n: int) -> Examples:
            y = np.arange(n) % 3
            return Examples(torch.from_numpy(2 * np.eye(3)[y] + random.randn(n, 3)).float(), y, np.arange(n))

        return {"train": examples(120), "val": examples(50), "test": examples(50)}


def blobs(**arguments: Any) -> Blobs:
    """Return data that is set up already, so that a test can spoil it."""
    data = Blobs(**arguments)
    data.setup("fit")
    return data


def foreign_loaders(batch_size: int = 30) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return plain (x, y) loaders over the training and the validation set."""
    splits = blobs().splits
    train, val = (TensorDataset(splits[name].x, splits[name].y) for name in ("train", "val"))
    return DataLoader(train, batch_size), DataLoader(val, batch_size)


def ce(epochs: int = 2, **arguments: Any) -> Stage:
    return Stage(CELoss(), epochs, **{"optimizer": SGD, **arguments})


def dmi(epochs: int = 2, memory: float = 0.5, **arguments: Any) -> Stage:
    return Stage(DMILoss(memory), epochs, **{"optimizer": ADAM, **arguments})


def ldmi(warmup: Stage | None = None, robust: Stage | None = None, seed: int = 1) -> LDMIModule:
    """Return a linear classifier; CE and then DMI, two epochs each, unless told otherwise."""
    pl.seed_everything(seed, verbose=False)
    both = warmup is None and robust is None
    return LDMIModule(nn.Linear(3, 3), 3, warmup or ce(), dmi() if both else robust)


def weights(source: LDMIModule | Path) -> dict[str, Tensor]:
    """Return the backbone's weights in a module or in a checkpoint, which must load without running code."""
    if isinstance(source, LDMIModule):
        return {name: value.clone() for name, value in source.backbone.state_dict().items()}
    saved = torch.load(source, weights_only=True)["state_dict"]
    return {name.removeprefix("backbone."): value for name, value in saved.items() if name.startswith("backbone.")}


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def run_folder(root: Path) -> Path:
    """Return the one run folder, beside which nothing may lie."""
    (folder,) = root.iterdir()
    return folder


@dataclass(eq=False)
class Epoch:
    stage: str
    optimizer: torch.optim.Optimizer
    lr: float
    start: dict[str, Tensor]
    loss_state: dict[str, Tensor]
    batches: int = 0
    end: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


class Watch(pl.Callback):
    """Notes what each epoch began with, and its weights and metrics at its validation."""

    def __init__(self) -> None:
        self.epochs: list[Epoch] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            optimizer, stage = trainer.optimizers[0], pl_module.progress.stage
            loss_state = deepcopy(pl_module.stages[stage].loss.state_dict())
            lr = optimizer.param_groups[0]["lr"]
            self.epochs.append(Epoch(stage, optimizer, lr, weights(pl_module), loss_state))
        self.epochs[-1].batches += 1

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.epochs[-1].end = weights(pl_module)
            self.epochs[-1].metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}

    @property
    def stages(self) -> list[str]:
        return [epoch.stage for epoch in self.epochs]

    def of(self, stage: str) -> list[Epoch]:
        return [epoch for epoch in self.epochs if epoch.stage == stage]

    def best(self, stage: str, monitor: str) -> Epoch:
        """Return the stage's epoch that its curve says is best: the first of the greatest."""
        return max(self.of(stage), key=lambda epoch: epoch.metrics[monitor])


def fit(make_trainer: MakeTrainer, module: LDMIModule, data: Any = None, **flags: Any) -> Watch:
    """Fit on the blobs, and return what was seen."""
    watch = Watch()
    make_trainer(callbacks=[watch, *flags.pop("callbacks", [])], **flags).fit(module, datamodule=data or Blobs())
    return watch


# -- stages, optimizers, schedulers ---------------------------------------------------------------------------------


def test_fit_walks_the_stages_each_with_a_new_optimizer(make_trainer: MakeTrainer) -> None:
    module = ldmi()
    watch = fit(make_trainer, module)
    assert watch.stages == ["warmup"] * 2 + ["robust"] * 2
    assert [type(epoch.optimizer).__name__ for epoch in watch.epochs] == ["SGD"] * 2 + ["Adam"] * 2
    assert len({id(epoch.optimizer) for epoch in watch.epochs}) == 2
    assert [epoch.lr for epoch in watch.epochs] == [0.4] * 2 + [0.05] * 2
    assert [epoch.batches for epoch in watch.epochs] == [4] * 4


def test_best_weights_are_handed_over_kept_and_left_in_the_module(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    module = ldmi(ce(4, scheduler=LEARN_TWICE_THEN_UNLEARN), dmi(4, scheduler=LEARN_TWICE_THEN_UNLEARN))
    watch = fit(make_trainer, module)
    best = {"warmup": watch.best("warmup", "val/acc"), "robust": watch.best("robust", "val/log_dmi")}
    folder = run_folder(tmp_path)
    for name in ("warmup", "robust"):
        last = watch.of(name)[-1]
        assert not equal(best[name].end, last.end), "the test proves nothing where the best epoch is the last"
        assert equal(weights(folder / f"{name}-best.ckpt"), best[name].end)
        assert equal(weights(folder / f"{name}-last.ckpt"), last.end)
        assert module.stage_summaries()[name]["best_epoch"] == watch.of(name).index(best[name]) + 1
    assert equal(watch.of("robust")[0].start, best["warmup"].end)
    assert module.chosen is not None
    assert equal(weights(module), best[module.chosen].end)


def test_checkpoints_of_a_run_are_five(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    watch = fit(make_trainer, ldmi())
    folder = run_folder(tmp_path)
    names = ["last", "robust-best", "robust-last", "warmup-best", "warmup-last"]
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.ckpt" for name in names]
    assert equal(weights(folder / "last.ckpt"), watch.epochs[-1].end)


def test_best_means_the_chosen_stages_selected_weights(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    module, data, trainer = ldmi(), Blobs(), make_trainer()
    trainer.fit(module, data)
    selected = weights(module)
    with torch.no_grad():
        module.backbone.weight.zero_()  # type: ignore[operator]
    trainer.test(module, data, ckpt_path="best", verbose=False)
    assert trainer.ckpt_path == str(run_folder(tmp_path) / f"{module.chosen}-best.ckpt")
    assert equal(weights(module), selected)


def test_run_without_a_robust_stage_is_the_warmup_alone(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    module = ldmi(ce(3, scheduler=LEARN_TWICE_THEN_UNLEARN))
    watch = fit(make_trainer, module)
    assert watch.stages == ["warmup"] * 3
    assert equal(weights(module), watch.best("warmup", "val/acc").end)
    assert sorted(path.stem for path in run_folder(tmp_path).iterdir()) == ["last", "warmup-best", "warmup-last"]


def test_epochwise_scheduler_steps_once_an_epoch_and_begins_anew(make_trainer: MakeTrainer) -> None:
    halve = partial(StepLR, step_size=1, gamma=0.5)
    watch = fit(make_trainer, ldmi(ce(3, scheduler=halve), dmi(3, scheduler=halve)))
    rates = [epoch.lr for epoch in watch.epochs]
    assert rates == pytest.approx([0.4, 0.2, 0.1, 0.05, 0.025, 0.0125])


def test_plateau_scheduler_steps_once_an_epoch_and_begins_anew(make_trainer: MakeTrainer) -> None:
    # Nothing is ever better by 9, so the rate is halved after each epoch but the first.
    halve = partial(ReduceLROnPlateau, mode="max", factor=0.5, patience=0, threshold=9.0, threshold_mode="abs")
    watch = fit(make_trainer, ldmi(ce(3, scheduler=halve), dmi(3, scheduler=halve)))
    assert [epoch.lr for epoch in watch.epochs] == pytest.approx([0.4, 0.4, 0.2, 0.05, 0.05, 0.025])


def test_plateau_scheduler_waits_for_a_validation(make_trainer: MakeTrainer) -> None:
    halve = partial(ReduceLROnPlateau, mode="max", factor=0.5, patience=0, threshold=9.0, threshold_mode="abs")
    watch = fit(make_trainer, ldmi(ce(6, scheduler=halve)), check_val_every_n_epoch=2)
    assert [epoch.lr for epoch in watch.epochs] == pytest.approx([0.4] * 4 + [0.2] * 2)


def test_logged_learning_rate_is_that_of_the_epoch(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path / "logs")
    stages = ce(2, scheduler=partial(StepLR, step_size=1, gamma=0.5)), dmi(1)
    watch = fit(make_trainer, ldmi(*stages), logger=logger, log_every_n_steps=1)
    rows = np.genfromtxt(Path(logger.log_dir) / "metrics.csv", delimiter=",", names=True)
    assert rows["lr"][~np.isnan(rows["lr"])] == pytest.approx([epoch.lr for epoch in watch.epochs])


@pytest.mark.parametrize("scheduler", [None, partial(StepLR, step_size=1, gamma=0.5)])
def test_stage_without_optimizer_inherits_at_the_last_rate(make_trainer: MakeTrainer, scheduler: Any) -> None:
    watch = fit(make_trainer, ldmi(ce(2, scheduler=scheduler), dmi(2, optimizer=None)))
    last, first = watch.of("warmup")[-1], watch.of("robust")[0]
    assert type(first.optimizer) is torch.optim.SGD
    assert first.optimizer is not last.optimizer
    assert first.lr == last.lr


def test_first_stage_without_optimizer_takes_adam(make_trainer: MakeTrainer) -> None:
    watch = fit(make_trainer, ldmi(ce(1, optimizer=None)))
    assert (type(watch.epochs[0].optimizer), watch.epochs[0].lr) == (torch.optim.Adam, 1e-3)


def test_memory_begins_as_u_of_the_training_set_under_the_best_warmup(make_trainer: MakeTrainer) -> None:
    data = blobs()
    watch = fit(make_trainer, ldmi(), data)
    train, best = data.splits["train"], watch.best("warmup", "val/acc").end
    probs = (train.x @ best["weight"].T + best["bias"]).softmax(1).numpy()
    u = np.eye(3)[train.y.numpy()].T @ probs / len(probs)
    first = watch.of("robust")[0]
    np.testing.assert_allclose(first.loss_state["joint_memory"].numpy(), u, rtol=1e-5)


def test_best_weights_survive_a_second_validation_within_the_epoch(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    module = ldmi(ce(2, scheduler=LEARN_TWICE_THEN_UNLEARN))
    fit(make_trainer, module, val_check_interval=0.5)
    assert module.stage_summaries()["warmup"]["epochs"] == 2
    assert equal(weights(run_folder(tmp_path) / "warmup-best.ckpt"), weights(module))


# -- what ends a stage or a run -------------------------------------------------------------------------------------


def test_patience_ends_a_stage(make_trainer: MakeTrainer) -> None:
    watch = fit(make_trainer, ldmi(ce(9, optimizer=FROZEN, patience=2), dmi(9, optimizer=FROZEN, patience=1)))
    assert watch.stages == ["warmup"] * 3 + ["robust"] * 2


def test_users_early_stopping_moves_on_and_starts_over(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    stopping = EarlyStopping("val/acc", mode="max", patience=2)
    module = ldmi(ce(9, optimizer=FROZEN), dmi(9, optimizer=FROZEN))
    watch = fit(make_trainer, module, callbacks=[stopping])
    assert watch.stages == ["warmup"] * 3 + ["robust"] * 3
    assert (run_folder(tmp_path) / "robust-last.ckpt").is_file()


class TimeIsUp(pl.Callback):
    """Lets the Trainer's ``max_time`` run out in the second epoch."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            (timer,) = (callback for callback in trainer.callbacks if isinstance(callback, Timer))
            timer.load_state_dict({"time_elapsed": {"train": 7200.0}})


def test_max_time_ends_the_run_and_names_the_file_to_go_on(
    make_trainer: MakeTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = fit(make_trainer, ldmi(ce(5), dmi(5)), callbacks=[TimeIsUp()], max_time={"hours": 1})
    assert watch.stages == ["warmup"] * 2
    last = run_folder(tmp_path) / "last.ckpt"
    assert f"ckpt_path={last}" in capsys.readouterr().out
    assert last.is_file()


def test_finished_run_does_not_say_how_to_go_on(make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    fit(make_trainer, ldmi())
    assert "ckpt_path" not in capsys.readouterr().out


@pytest.mark.parametrize("length", [{"max_epochs": 3}, {"max_steps": 5}])
def test_length_given_to_the_trainer_is_refused(make_trainer: MakeTrainer, length: dict[str, int]) -> None:
    ((name, value),) = length.items()
    with pytest.raises(UserError, match=rf"{name}={value}.*--model\.warmup\.epochs"):
        fit(make_trainer, ldmi(), **length)


def test_fast_dev_run_runs_its_batches_of_each_stage_and_leaves_nothing(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    module = ldmi(ce(3), dmi(3))
    watch = fit(make_trainer, module, fast_dev_run=2)
    assert [(epoch.stage, epoch.batches) for epoch in watch.epochs] == [("warmup", 2), ("robust", 2)]
    assert list(tmp_path.iterdir()) == []
    assert [stage.epochs for stage in module.stages.values()] == [3, 3]


def test_same_module_can_be_fitted_again(make_trainer: MakeTrainer) -> None:
    module = ldmi()
    fit(make_trainer, module)
    first = weights(module)
    again = fit(make_trainer, module)
    assert again.stages == ["warmup"] * 2 + ["robust"] * 2
    assert equal(again.epochs[0].start, first)


def test_fit_after_a_validation_and_a_test_is_as_a_fit_alone(make_trainer: MakeTrainer) -> None:
    alone, after = ldmi(), ldmi()
    fit(make_trainer, alone)
    make_trainer().validate(after, Blobs(), verbose=False)
    make_trainer().test(after, Blobs(), verbose=False)
    fit(make_trainer, after)
    assert equal(weights(alone), weights(after))


def test_same_trainer_can_fit_again(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    watch = Watch()
    trainer, modules = make_trainer(callbacks=[watch]), [ldmi(seed=1), ldmi(seed=2)]
    for module in modules:
        trainer.fit(module, Blobs())
    assert watch.stages == (["warmup"] * 2 + ["robust"] * 2) * 2
    assert [module.progress.epochs for module in modules] == [2, 2]
    assert len(list(tmp_path.iterdir())) == 2, "each run has a folder of its own"


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


# -- validation and selection ---------------------------------------------------------------------------------------


class AtSanityCheck(pl.Callback):
    """Notes what the sanity check has left in the module."""

    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.selected = pl_module.progress.best_epoch, pl_module.improved


def test_sanity_check_never_selects(make_trainer: MakeTrainer) -> None:
    checked, unchecked, at = ldmi(), ldmi(), AtSanityCheck()
    with_check = fit(make_trainer, checked, callbacks=[at], num_sanity_val_steps=2)
    without = fit(make_trainer, unchecked, num_sanity_val_steps=0)
    assert at.selected == (None, False)
    assert equal(weights(checked), weights(unchecked))
    assert [epoch.metrics for epoch in with_check.epochs] == [epoch.metrics for epoch in without.epochs]


def test_without_validation_a_stage_keeps_its_last_weights_and_says_so(
    make_trainer: MakeTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = ldmi()
    watch = fit(make_trainer, module, limit_val_batches=0)
    folder = run_folder(tmp_path)
    assert equal(watch.of("robust")[0].start, weights(folder / "warmup-last.ckpt"))
    assert equal(weights(module), weights(folder / "robust-last.ckpt"))
    assert sorted(path.stem for path in folder.iterdir()) == ["last", "robust-last", "warmup-last"]
    said = capsys.readouterr().out
    assert "the last weights of warmup, which never saw a validation" in said
    assert "the last weights of robust, which never saw a validation" in said


def by_hand(module: LDMIModule, data: Blobs) -> dict[str, float]:
    """Compute the validation metrics anew, with NumPy, from the predictions over the whole validation set."""
    val = data.splits["val"]
    with torch.no_grad():
        probs = module(val.x).softmax(1).double().numpy()
    u = np.eye(3)[val.y.numpy()].T @ probs / len(probs)
    det = abs(np.linalg.det(u))
    return {
        "val/acc": float((probs.argmax(1) == val.y.numpy()).mean()),
        "val/nll": float(np.mean([-np.log(row[label]) for row, label in zip(probs, val.y.tolist(), strict=True)])),
        "val/log_dmi": float(np.log(det)),
        "val/dmi": float(det),
        "val/dmi_normalised": float((det / u.sum(1).prod()) ** (1 / 3)),
    }


def test_validation_metrics_are_those_of_the_whole_noisy_validation_set(make_trainer: MakeTrainer) -> None:
    module, data = ldmi(), blobs(batch_size=16)
    watch = fit(make_trainer, module, data)
    (logged,) = make_trainer().validate(module, data, verbose=False)
    assert logged == pytest.approx(by_hand(module, data), rel=1e-5)
    best = watch.best("robust", "val/log_dmi") if module.chosen == "robust" else watch.best("warmup", "val/acc")
    assert {name: best.metrics[name] for name in logged} == pytest.approx(logged, rel=1e-6)
    assert not torch.equal(data.splits["val"].y, data.splits["val"].y_clean)


def test_test_metrics_are_those_of_scikit_learn(make_trainer: MakeTrainer) -> None:
    module, data = ldmi(), blobs(batch_size=16)
    test = data.splits["test"]
    test.y[test.y == 2] = torch.where(torch.arange(16) < 12, 0, 2)  # classes of unequal size
    fit(make_trainer, module, data)
    (logged,) = make_trainer().test(module, data, verbose=False)
    predicted = module(test.x).argmax(1)
    assert logged["test/acc"] == pytest.approx(accuracy_score(test.y, predicted))
    assert logged["test/balanced_acc"] == pytest.approx(balanced_accuracy_score(test.y, predicted))
    assert abs(logged["test/acc"] - logged["test/balanced_acc"]) > 0.01


def test_balanced_accuracy_is_the_mean_recall_of_the_classes_in_the_test_set(make_trainer: MakeTrainer) -> None:
    module, data = ldmi(), blobs()
    test = data.splits["test"]
    test.y[test.y == 2] = 0
    fit(make_trainer, module, data)
    (logged,) = make_trainer().test(module, data, verbose=False)
    predicted = module(test.x).argmax(1)
    assert 2 in predicted
    recalls = recall_score(test.y, predicted, labels=[0, 1], average=None)
    assert logged["test/balanced_acc"] == pytest.approx(recalls.mean())


def test_constant_outputs_log_a_finite_log_dmi(make_trainer: MakeTrainer) -> None:
    module = ldmi(ce(1, optimizer=FROZEN, monitor="val/log_dmi", mode="max"))
    nn.init.zeros_(module.backbone.weight)  # type: ignore[arg-type]
    nn.init.zeros_(module.backbone.bias)  # type: ignore[arg-type]
    (epoch,) = fit(make_trainer, module).epochs
    assert np.isfinite(list(epoch.metrics.values())).all()
    assert epoch.metrics["val/log_dmi"] < -30
    assert module.progress.best_epoch == 1


def test_testing_changes_neither_selection_nor_progress(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    module, data = ldmi(), Blobs()
    fit(make_trainer, module, data)
    progress, before = module.progress, repr(module.progress)
    file = run_folder(tmp_path) / "warmup-best.ckpt"
    make_trainer().test(module, data, ckpt_path=file, verbose=False)
    assert module.progress is progress
    assert repr(progress) == before
    assert equal(weights(module), weights(file))


def test_true_labels_are_never_used(make_trainer: MakeTrainer) -> None:
    honest, poisoned, spoilt = ldmi(), ldmi(), blobs()
    for split in spoilt.splits.values():
        split.y_clean.fill_(-7)
    fit(make_trainer, honest)
    fit(make_trainer, poisoned, spoilt)
    assert equal(weights(honest), weights(poisoned))
    assert repr(honest.progress) == repr(poisoned.progress)


def test_same_seed_gives_the_same_weights_and_another_gives_others(make_trainer: MakeTrainer) -> None:
    one, same, other = ldmi(seed=1), ldmi(seed=1), ldmi(seed=2)
    for module, seed in ((one, 1), (same, 1), (other, 2)):
        pl.seed_everything(seed, verbose=False)
        fit(make_trainer, module)
    assert equal(weights(one), weights(same))
    assert not equal(weights(one), weights(other))


def test_order_and_dropout_depend_on_the_seed_and_not_on_what_was_drawn_before(make_trainer: MakeTrainer) -> None:
    one, same = ldmi(), ldmi()
    fit(make_trainer, one)
    torch.rand(7)
    fit(make_trainer, same)
    assert equal(weights(one), weights(same))


# -- someone else's data --------------------------------------------------------------------------------------------


class Foreign(pl.LightningDataModule):
    """Someone else's datamodule."""

    def train_dataloader(self) -> DataLoader[Any]:
        return foreign_loaders()[0]

    def val_dataloader(self) -> DataLoader[Any]:
        return foreign_loaders()[1]


@pytest.mark.filterwarnings(NO_WORKERS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_plain_loaders_train_and_prepare_the_memory(make_trainer: MakeTrainer, wrapped: bool) -> None:
    watch, loaders = Watch(), foreign_loaders()
    trainer = make_trainer(callbacks=[watch])
    if wrapped:
        trainer.fit(ldmi(), datamodule=Foreign())
    else:
        trainer.fit(ldmi(), *loaders)
    assert watch.stages == ["warmup"] * 2 + ["robust"] * 2
    x, y = loaders[0].dataset.tensors  # type: ignore[attr-defined]
    best, memory = watch.best("warmup", "val/acc").end, watch.of("robust")[0].loss_state["joint_memory"]
    probs = (x @ best["weight"].T + best["bias"]).softmax(1).numpy()
    np.testing.assert_allclose(memory.numpy(), np.eye(3)[y.numpy()].T @ probs / len(y), rtol=1e-5)


@pytest.mark.filterwarnings(NO_WORKERS)
def test_foreign_validation_without_a_class_is_refused_at_the_first_full_validation(make_trainer: MakeTrainer) -> None:
    train, val = foreign_loaders()
    labels = val.dataset.tensors[1]  # type: ignore[attr-defined]
    labels[labels == 2] = 0
    watch = Watch()
    with pytest.raises(UserError, match="no sample labelled 2"):
        make_trainer(callbacks=[watch]).fit(ldmi(), train, val)
    assert watch.stages in (["warmup"], ["warmup", "warmup", "robust"])


@pytest.mark.filterwarnings(NO_WORKERS)
def test_foreign_batch_too_small_for_a_determinant_is_refused_before_training(make_trainer: MakeTrainer) -> None:
    watch = Watch()
    with pytest.raises(UserError, match=r"batch of at least 3.*batch_size is 2"):
        make_trainer(callbacks=[watch]).fit(ldmi(ce(), dmi(memory=0)), *foreign_loaders(batch_size=2))
    assert watch.epochs == []


# -- refusals -------------------------------------------------------------------------------------------------------


def refused_before_training(
    make_trainer: MakeTrainer, message: str, module: LDMIModule, data: Any, **flags: Any
) -> None:
    watch = Watch()
    before = weights(module)
    with pytest.raises(UserError, match=message):
        make_trainer(callbacks=[watch], **flags).fit(module, data)
    assert equal(weights(module), before)
    assert sum(epoch.batches for epoch in watch.epochs) <= 1


def test_validation_set_without_a_class_is_refused_before_training(make_trainer: MakeTrainer) -> None:
    data = blobs()
    labels = data.splits["val"].y
    labels[labels == 2] = 0
    refused_before_training(make_trainer, "no sample labelled cedar.*robust.monitor val/acc", ldmi(), data)


def test_missing_class_is_no_matter_where_accuracy_selects(make_trainer: MakeTrainer) -> None:
    data = blobs()
    labels = data.splits["val"].y
    labels[labels == 2] = 0
    module = ldmi(ce(), dmi(monitor="val/acc", mode="max"))
    assert fit(make_trainer, module, data).stages == ["warmup"] * 2 + ["robust"] * 2


@pytest.mark.parametrize("sanity", [0, 2])
def test_backbone_of_the_wrong_width_is_refused_before_training(make_trainer: MakeTrainer, sanity: int) -> None:
    module = LDMIModule(nn.Linear(3, 4), 3, ce())
    refused_before_training(
        make_trainer, r"shape \(N, 3\).*shape \(\d+, 4\)", module, Blobs(), num_sanity_val_steps=sanity
    )


def test_number_of_classes_that_the_data_does_not_have_is_refused(make_trainer: MakeTrainer) -> None:
    module = LDMIModule(nn.Linear(3, 4), 4, ce())
    refused_before_training(make_trainer, "data has 3 classes.*num_classes=4", module, Blobs())


def test_batch_too_small_for_a_determinant_is_refused_before_training(make_trainer: MakeTrainer) -> None:
    module = ldmi(ce(), dmi(memory=0))
    refused_before_training(make_trainer, "batch of at least 3.*--data.batch_size is 2", module, Blobs(batch_size=2))


@pytest.mark.parametrize("split", ["train", "val"])
def test_nan_in_the_inputs_ends_the_run_in_the_first_epoch(make_trainer: MakeTrainer, split: str) -> None:
    data, watch = blobs(), Watch()
    data.splits[split].x[7, 1] = torch.nan
    with pytest.raises(UserError, match=r"(?i)nan"):
        make_trainer(callbacks=[watch], num_sanity_val_steps=0).fit(ldmi(), data)
    assert watch.stages == ["warmup"]


def test_unknown_monitor_is_refused_with_the_names_there_are(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match=r"warmup\.monitor is 'val/f1'.*val/acc.*val/dmi.*val/log_dmi"):
        fit(make_trainer, ldmi(ce(monitor="val/f1", mode="max")))


# -- backbones and loading ------------------------------------------------------------------------------------------


class Own(LDMIModule):
    """A user's own subclass, whose arguments say all."""

    def __init__(self, width: int = 8) -> None:
        self.width = width
        super().__init__(None, 3, ce(1), dmi(1))

    def build_backbone(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, self.width), nn.ReLU(), nn.Linear(self.width, 3))


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
