"""One fit walks the stages, each with its own optimizer and scheduler, and ends when they do."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from blobs import FROZEN, LEARN_TWICE_THEN_UNLEARN, Blobs, Watch, blobs, ce, dmi, equal, fit, ldmi, run_folder, weights
from conftest import MakeTrainer
from pytorch_lightning.callbacks import EarlyStopping, Timer
from pytorch_lightning.loggers import CSVLogger
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from ldmi_lightning.errors import UserError

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
