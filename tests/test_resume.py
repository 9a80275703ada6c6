"""A run that was stopped and taken up again ends where the uninterrupted one ends, bit for bit."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import MakeTrainer
from pytorch_lightning.callbacks import EarlyStopping, Timer
from stops import StopAt, Stopped, same
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, TensorDataset

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.datamodules import DigitsDataModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import CELoss, DMILoss
from ldmi_lightning.noise import PairFlipNoise

MOMENTUM = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=1e-3)
FROZEN = partial(torch.optim.SGD, lr=0.0)
STEP = partial(StepLR, step_size=1, gamma=0.7)
# Nothing is ever better by 9, so the rate falls after each epoch but a stage's first.
PLATEAU = partial(ReduceLROnPlateau, mode="max", factor=0.7, patience=0, threshold=9.0, threshold_mode="abs")
FILES = [f"{name}.ckpt" for name in ("last", "robust-best", "robust-last", "warmup-best", "warmup-last")]


class Batches(pl.Callback):
    """Counts the training batches of each stage."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.of[pl_module.progress.stage] = self.of.get(pl_module.progress.stage, 0) + 1


def ldmi(warmup: Stage, robust: Stage | None, weight_seed: int = 1) -> LDMIModule:
    """Return a small network with dropout; all but its first weights follows from the run's seed."""
    pl.seed_everything(1, verbose=False)
    torch.manual_seed(weight_seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10))
    return LDMIModule(net, 10, warmup, robust)


def three_and_three(
    schedulers: tuple[Any, Any] = (STEP, PLATEAU), epochs: int = 3, **of_both: Any
) -> tuple[Stage, Stage]:
    return (
        Stage(CELoss(), epochs, **{"optimizer": MOMENTUM, "scheduler": schedulers[0], "patience": 2, **of_both}),
        Stage(DMILoss(memory=0.9), epochs, **{"optimizer": ADAM, "scheduler": schedulers[1], "patience": 2, **of_both}),
    )


def digits() -> DigitsDataModule:
    """Return ten digits with wrong labels, six batches an epoch."""
    return DigitsDataModule(PairFlipNoise(0.3, seed=0), batch_size=199)


def stop_and_resume(
    make_trainer: MakeTrainer,
    root: Path,
    stop: StopAt,
    stages: Callable[[], tuple[Stage, Stage]],
    more: Callable[[], list[pl.Callback]] = list,
) -> tuple[LDMIModule, dict[str, int]]:
    """Interrupt a run, resume it with new objects, and return the module and the batches since."""
    with pytest.raises(Stopped):
        make_trainer(default_root_dir=root, callbacks=[stop, *more()]).fit(ldmi(*stages()), digits())
    (folder,) = root.iterdir()
    resumed, batches = ldmi(*stages(), weight_seed=2), Batches()
    trainer = make_trainer(default_root_dir=root, callbacks=[batches, *more()])
    trainer.fit(resumed, digits(), ckpt_path=folder / "last.ckpt")
    return resumed, batches.of


def uninterrupted(make_trainer: MakeTrainer, root: Path, stages: tuple[Stage, Stage]) -> LDMIModule:
    module = ldmi(*stages)
    make_trainer(default_root_dir=root).fit(module, digits())
    return module


def assert_same_run(one: LDMIModule, one_root: Path, other: LDMIModule, other_root: Path) -> None:
    """Compare weights, memory, best epochs and scores, and all that the files say but Lightning's own counters."""
    assert same(one.state_dict(), other.state_dict())
    assert same(one.stage_summaries(), other.stage_summaries())
    (one_folder,), (other_folder,) = one_root.iterdir(), other_root.iterdir()
    for name in FILES:
        saved, other_saved = (torch.load(folder / name, weights_only=True) for folder in (one_folder, other_folder))
        for key in ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "ldmi_lightning"):
            assert same(saved[key], other_saved[key]), f"{name} differs in {key}"


@pytest.mark.parametrize("epoch", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("schedulers", [(STEP, PLATEAU), (PLATEAU, STEP)], ids=["step-plateau", "plateau-step"])
def test_run_stopped_after_any_epoch_ends_as_the_uninterrupted_one(
    make_trainer: MakeTrainer, tmp_path: Path, schedulers: tuple[Any, Any], epoch: int
) -> None:
    stages = partial(three_and_three, schedulers)
    whole = uninterrupted(make_trainer, tmp_path / "whole", stages())
    resumed, batches = stop_and_resume(make_trainer, tmp_path / "stopped", StopAt(epoch), stages)
    run = {"warmup": 6 * max(0, 3 - epoch), "robust": 6 * min(3, 6 - epoch)}
    assert batches == {name: count for name, count in run.items() if count}
    assert_same_run(resumed, tmp_path / "stopped", whole, tmp_path / "whole")


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_end", "on_train_epoch_end"])
@pytest.mark.parametrize("epoch", [2, 4])
def test_run_stopped_within_an_epoch_repeats_it(
    make_trainer: MakeTrainer, tmp_path: Path, epoch: int, hook: str
) -> None:
    whole = uninterrupted(make_trainer, tmp_path / "whole", three_and_three())
    resumed, _ = stop_and_resume(make_trainer, tmp_path / "stopped", StopAt(epoch, hook), three_and_three)
    assert_same_run(resumed, tmp_path / "stopped", whole, tmp_path / "whole")


@pytest.mark.parametrize("stage", ["warmup", "robust"])
@pytest.mark.parametrize("schedulers", [(STEP, STEP), (PLATEAU, PLATEAU)], ids=["step", "plateau"])
def test_best_checkpoint_can_be_resumed_too(
    make_trainer: MakeTrainer, tmp_path: Path, schedulers: tuple[Any, Any], stage: str
) -> None:
    whole = uninterrupted(make_trainer, tmp_path, three_and_three(schedulers))
    (folder,) = tmp_path.iterdir()
    resumed = ldmi(*three_and_three(schedulers), weight_seed=2)
    make_trainer().fit(resumed, digits(), ckpt_path=folder / f"{stage}-best.ckpt")
    assert same(resumed.state_dict(), whole.state_dict())


class Streamed(pl.LightningDataModule):
    """Someone else's datamodule, with PyTorch's own loaders."""

    def __init__(self, shuffle: bool, workers: int) -> None:
        super().__init__()
        self.shuffle, self.workers = shuffle, workers
        self.data = digits()
        self.data.setup("fit")

    def _loader(self, split: str, shuffle: bool) -> DataLoader[Any]:
        part = self.data.splits[split]
        return DataLoader(TensorDataset(part.x / 16, part.y), 199, shuffle=shuffle, num_workers=self.workers)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train", self.shuffle)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader("val", False)


@pytest.mark.parametrize("epoch", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("shuffle", "workers"), [(False, 0), (True, 0), (True, 2)])
def test_run_on_pytorchs_own_loaders_resumes_too(
    make_trainer: MakeTrainer, tmp_path: Path, shuffle: bool, workers: int, epoch: int
) -> None:
    stages, data = partial(three_and_three, patience=None), partial(Streamed, shuffle, workers)
    whole = ldmi(*stages())
    make_trainer(default_root_dir=tmp_path / "whole").fit(whole, data())
    stopped = make_trainer(default_root_dir=tmp_path / "stopped", callbacks=[StopAt(epoch)])
    with pytest.raises(Stopped):
        stopped.fit(ldmi(*stages()), data())
    resumed = ldmi(*stages(), weight_seed=2)
    make_trainer().fit(resumed, data(), ckpt_path=next(tmp_path.glob("stopped/*/last.ckpt")))
    assert_same_run(resumed, tmp_path / "stopped", whole, tmp_path / "whole")


class TimeIsUp(pl.Callback):
    """Lets the Trainer's ``max_time`` run out in an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            (timer,) = (callback for callback in trainer.callbacks if isinstance(callback, Timer))
            timer.load_state_dict({"time_elapsed": {"train": 7200.0}})


@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_run_ended_by_max_time_within_an_epoch_goes_on_as_the_uninterrupted_one(
    make_trainer: MakeTrainer, tmp_path: Path, epoch: int
) -> None:
    whole = uninterrupted(make_trainer, tmp_path / "whole", three_and_three())
    root = tmp_path / "stopped"
    trainer = make_trainer(default_root_dir=root, callbacks=[TimeIsUp(epoch)], max_time={"hours": 1})
    trainer.fit(ldmi(*three_and_three()), digits())
    (folder,) = root.iterdir()
    resumed = ldmi(*three_and_three(), weight_seed=2)
    make_trainer(default_root_dir=root, max_time={"hours": 9}).fit(resumed, digits(), ckpt_path=folder / "last.ckpt")
    assert_same_run(resumed, root, whole, tmp_path / "whole")


@pytest.mark.parametrize("epoch", [1, 2, 3, 4, 5])
def test_patience_goes_on_counting(make_trainer: MakeTrainer, tmp_path: Path, epoch: int) -> None:
    stages = partial(three_and_three, epochs=9, optimizer=FROZEN)  # nothing gets better: 1 + 2 epochs a stage
    resumed, _ = stop_and_resume(make_trainer, tmp_path, StopAt(epoch), stages)
    assert [summary["epochs"] for summary in resumed.stage_summaries().values()] == [3, 3]


@pytest.mark.parametrize("epoch", [2, 3, 4])
def test_users_early_stopping_goes_on_counting(make_trainer: MakeTrainer, tmp_path: Path, epoch: int) -> None:
    stages = partial(three_and_three, epochs=9, optimizer=FROZEN, patience=None)
    stopping: Callable[[], list[pl.Callback]] = lambda: [EarlyStopping("val/acc", mode="max", patience=2)]  # noqa: E731
    resumed, _ = stop_and_resume(make_trainer, tmp_path, StopAt(epoch), stages, stopping)
    assert [summary["epochs"] for summary in resumed.stage_summaries().values()] == [3, 3]


def test_interrupted_run_says_how_to_go_on_and_goes_on_in_its_folder(
    make_trainer: MakeTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_and_resume(make_trainer, tmp_path, StopAt(4), three_and_three)
    (folder,) = tmp_path.iterdir()
    assert capsys.readouterr().out.count(f"ckpt_path={folder / 'last.ckpt'}") == 1
    assert sorted(path.name for path in folder.iterdir()) == FILES


def test_resuming_a_finished_run_trains_nothing_and_leaves_the_best_weights_in(
    make_trainer: MakeTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unlearn = partial(LambdaLR, lr_lambda=lambda epoch: 1.0 if epoch == 0 else -3.0)
    stages = partial(three_and_three, (unlearn, unlearn), patience=None)
    whole = uninterrupted(make_trainer, tmp_path, stages())
    (folder,) = tmp_path.iterdir()
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    resumed, batches = ldmi(*stages(), weight_seed=2), Batches()
    make_trainer(callbacks=[batches]).fit(resumed, digits(), ckpt_path=folder / "last.ckpt")
    assert batches.of == {}
    assert resumed.progress.best_epoch == 1, "the test proves nothing where the best epoch is the last"
    assert same(resumed.backbone.state_dict(), whole.backbone.state_dict())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == written
    assert list(tmp_path.iterdir()) == [folder]
    assert "stopped early" not in capsys.readouterr().out


@pytest.mark.parametrize(("epochs", "run"), [(5, [5, 5]), (1, [2, 1])])
def test_epochs_of_an_unfinished_stage_may_change(
    make_trainer: MakeTrainer, tmp_path: Path, epochs: int, run: list[int]
) -> None:
    with pytest.raises(Stopped):
        make_trainer(callbacks=[StopAt(2)]).fit(ldmi(*three_and_three(patience=None)), digits())
    (folder,) = tmp_path.iterdir()
    resumed = ldmi(*three_and_three(epochs=epochs, patience=None))
    make_trainer().fit(resumed, digits(), ckpt_path=folder / "last.ckpt")
    assert [summary["epochs"] for summary in resumed.stage_summaries().values()] == run


def test_checkpoint_that_was_moved_starts_a_folder_of_its_own(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    whole = uninterrupted(make_trainer, tmp_path / "whole", three_and_three())
    moved = tmp_path / "moved.ckpt"
    with pytest.raises(Stopped):
        make_trainer(default_root_dir=tmp_path / "a", callbacks=[StopAt(4)]).fit(ldmi(*three_and_three()), digits())
    shutil.copy(next(tmp_path.glob("a/*/last.ckpt")), moved)
    resumed = ldmi(*three_and_three(), weight_seed=2)
    make_trainer(default_root_dir=tmp_path / "b").fit(resumed, digits(), ckpt_path=moved)
    assert same(resumed.state_dict(), whole.state_dict())
    assert next(tmp_path.glob("b/*/robust-best.ckpt")).is_file()


def test_checkpoint_of_another_module_is_refused(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    foreign: dict[str, Any] = {"pytorch-lightning_version": "2.6.0", "epoch": 3, "global_step": 7}
    foreign |= {"state_dict": nn.Linear(2, 2).state_dict(), "loops": {}, "callbacks": {}}
    torch.save({**foreign, "optimizer_states": [], "lr_schedulers": []}, tmp_path / "foreign.ckpt")
    with pytest.raises(UserError, match=r"cannot be resumed: it is none of LDMIModule's.*last\.ckpt"):
        make_trainer().fit(ldmi(*three_and_three()), digits(), ckpt_path=tmp_path / "foreign.ckpt")


def test_checkpoint_in_a_stage_that_the_module_does_not_have_is_refused(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    uninterrupted(make_trainer, tmp_path, three_and_three())
    (folder,) = tmp_path.iterdir()
    alone = ldmi(three_and_three()[0], None)
    with pytest.raises(UserError, match="model\\.robust\\.loss is None, but was DMILoss"):
        make_trainer().fit(alone, digits(), ckpt_path=folder / "last.ckpt")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"limit_train_batches": 2}, r"trainer\.limit_train_batches is 2, but was 1\.0"),
        ({"gradient_clip_val": 0.1}, r"trainer\.gradient_clip_val is 0\.1, but was None"),
        ({"precision": "bf16-mixed"}, r"trainer\.precision is bf16-mixed, but was 32-true"),
    ],
)
def test_a_run_with_other_settings_is_refused(
    make_trainer: MakeTrainer, tmp_path: Path, flags: dict[str, Any], named: str
) -> None:
    stages = three_and_three()
    make_trainer(limit_val_batches=1.0).fit(ldmi(*stages), digits())
    (folder,) = tmp_path.iterdir()
    with pytest.raises(UserError, match=named):
        make_trainer(**flags).fit(ldmi(*three_and_three()), digits(), ckpt_path=folder / "warmup-last.ckpt")


def test_the_epochs_of_a_finished_stage_may_not_change(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer().fit(ldmi(*three_and_three()), digits())
    (folder,) = tmp_path.iterdir()
    warmup, robust = three_and_three()
    warmup.epochs = 5
    with pytest.raises(UserError, match=r"model\.warmup\.epochs is 5, but was 3"):
        make_trainer().fit(ldmi(warmup, robust), digits(), ckpt_path=folder / "last.ckpt")


def test_a_run_that_is_stopped_in_its_first_epoch_says_that_nothing_is_kept(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Stopped):
        make_trainer(callbacks=[StopAt(0)]).fit(ldmi(*three_and_three()), digits())
    assert capsys.readouterr().out.count("there is no checkpoint to go on from") == 1
