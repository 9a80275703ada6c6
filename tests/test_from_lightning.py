"""What people bring from Lightning: each works in every stage, or is refused in one line that names the alternative."""

import importlib.util
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from blobs import Blobs, ce, dmi, fit, ldmi, run_folder
from conftest import MakeTrainer
from pytorch_lightning.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    BatchSizeFinder,
    EMAWeightAveraging,
    LearningRateFinder,
    RichProgressBar,
    StochasticWeightAveraging,
)
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.tuner import Tuner
from stops import StopAt, Stopped
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ldmi_lightning import Batch, LDMIModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.training.stage_loop import NOTHING_KEPT, StageCheckpoint

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


# -- callbacks and tuners ---------------------------------------------------------------------------------------------


class Unfreezes(BaseFinetuning):
    """Someone's own way to train the backbone later."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer)


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        (
            EMAWeightAveraging,
            "EMAWeightAveraging averages weights .*leave it out; the best epoch of each stage is what is kept",
        ),
        (partial(StochasticWeightAveraging, swa_lrs=0.1), "StochasticWeightAveraging averages weights"),
        (Unfreezes, r"Unfreezes changes which parameters are trained.*--model\.freeze.*--model\.lr_factors"),
        (BackboneFinetuning, r"BackboneFinetuning changes which parameters.*--model\.freeze"),
        (LearningRateFinder, r"LearningRateFinder trains before.*--model\.warmup\.optimizer\.lr"),
        (BatchSizeFinder, r"BatchSizeFinder trains before.*--data\.batch_size"),
    ],
)
def test_what_works_behind_the_stages_back_is_refused_before_it_changes_anything(
    callback: Any, said: str, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    module = ldmi()
    with pytest.raises(UserError, match=said) as caught:
        fit(make_trainer, module, callbacks=[callback()])
    assert "\n" not in str(caught.value)
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tune", [Tuner.lr_find, Tuner.scale_batch_size])
def test_the_tuner_is_refused_and_leaves_the_module_as_it_was(tune: Any, make_trainer: MakeTrainer) -> None:
    module = ldmi()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(UserError, match=r"trains before the stages begin, also for Tuner\.\w+:.*Trainer of its own"):
        tune(Tuner(make_trainer()), module, datamodule=Blobs())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    fit(make_trainer, module)


def test_the_tuner_finds_the_batch_size_of_a_test(make_trainer: MakeTrainer) -> None:
    module, data = ldmi(), Blobs()
    found = Tuner(make_trainer()).scale_batch_size(module, datamodule=data, method="test", max_trials=2)
    assert found == data.batch_size == 4


@pytest.mark.skipif(importlib.util.find_spec("rich") is None, reason="RichProgressBar needs the package rich")
def test_the_rich_progress_bar_works_in_each_stage(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    stops = StopAt(3)
    with pytest.raises(Stopped):
        fit(make_trainer, ldmi(), callbacks=[RichProgressBar(), stops], enable_progress_bar=True)
    module, bar = ldmi(), RichProgressBar()
    trainer = make_trainer(callbacks=[bar], enable_progress_bar=True)
    trainer.fit(module, Blobs(), ckpt_path=run_folder(tmp_path) / "last.ckpt")
    trainer.test(module, Blobs(), verbose=False)
    assert module.course.has_ended


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="MLFlowLogger needs the package mlflow")
def test_mlflow_takes_each_epochs_figures(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    from pytorch_lightning.loggers import MLFlowLogger

    logger = MLFlowLogger(tracking_uri=f"file:{tmp_path / 'mlruns'}")
    fit(make_trainer, ldmi(), logger=logger)
    assert logger.run_id is not None
    history = logger.experiment.get_metric_history(logger.run_id, "train/loss")
    assert len(history) == 4


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_run_that_asks_for_no_files_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    trainer, module = pl.Trainer(**QUIET), ldmi()
    trainer.fit(module, Blobs())
    assert capsys.readouterr().out.count(NOTHING_KEPT) == 1
    trainer.test(module, Blobs(), verbose=False)
    trainer.predict(module, Blobs())
    assert module.course.has_ended
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Stopped):
        pl.Trainer(**QUIET, callbacks=[StopAt(1)]).fit(ldmi(), Blobs())
    assert list(tmp_path.iterdir()) == []
    assert "stopped early" not in capsys.readouterr().out


@pytest.mark.parametrize("asks", ["default_root_dir", "logger", "callback", "resumed"])
def test_a_run_that_asks_for_files_keeps_its_checkpoints(
    asks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    flags: dict[str, Any] = {
        "default_root_dir": {"default_root_dir": "runs"},
        "logger": {"logger": CSVLogger("logs"), "log_every_n_steps": 1},
        "callback": {"callbacks": [StageCheckpoint()]},
        "resumed": {"default_root_dir": "runs", "callbacks": [StopAt(2)]},
    }[asks]
    trainer, module = pl.Trainer(**{**QUIET, **flags}), ldmi()
    if asks == "resumed":
        with pytest.raises(Stopped):
            trainer.fit(module, Blobs())
        again = ldmi()
        pl.Trainer(**QUIET).fit(again, Blobs(), ckpt_path=run_folder(Path("runs")) / "last.ckpt")
    else:
        trainer.fit(module, Blobs())
    assert (run_folder(Path("runs")) / "robust-last.ckpt").is_file()
    assert NOTHING_KEPT not in capsys.readouterr().out


# -- predict, with somebody's loader ----------------------------------------------------------------------------------


class Given:
    """A loader of these batches."""

    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Pair(nn.Module):
    """A net of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Any) -> Tensor:
        one, other = x.values() if isinstance(x, dict) else x
        out: Tensor = self.linear(one + other.float())
        return out


def predicted(make_trainer: MakeTrainer, net: nn.Module, loader: Any) -> tuple[Tensor, Tensor]:
    rows = make_trainer().predict(LDMIModule(net, 3, ce(1)), loader)
    assert rows is not None
    index, probs = zip(*rows, strict=True)
    return torch.cat(index), torch.cat(probs)


def test_predict_takes_a_loader_of_plain_x(make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    x, y, net = torch.randn(7, 3), torch.arange(7) % 3, nn.Linear(3, 3)
    expected = net(x).softmax(dim=1).detach()
    labelled: Any = Given(Batch(x, y, torch.arange(7), y))
    plain: Any = x
    for loader in (DataLoader(plain, 4), DataLoader(TensorDataset(x), 4), DataLoader(TensorDataset(x, y), 4), labelled):
        index, probs = predicted(make_trainer, net, loader)
        torch.testing.assert_close(probs, expected)
        assert index.tolist() == (list(range(7)) if loader is labelled else [-1] * 7)
    assert "taken for inputs alone" not in capsys.readouterr().out


def test_predict_tells_inputs_of_two_tensors_from_a_labelled_pair(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    x, other, net = torch.randn(7, 3), torch.randint(0, 5, (7, 3)), Pair()
    expected = net((x, other)).softmax(dim=1).detach()
    as_dict, labelled = Given({"one": x, "other": other}), Given(((x, other), torch.zeros(7, dtype=torch.int64)))
    for loader in (DataLoader(TensorDataset(x, other), 4), as_dict, labelled):
        torch.testing.assert_close(predicted(make_trainer, net, loader)[1], expected)
    said = "predict: a batch of 2 tensors, of which the last is no row of labels, is taken for inputs alone."
    assert capsys.readouterr().out.splitlines() == [said]


def test_what_is_no_batch_at_all_is_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match=r"A batch must be \(x, y\) or ldmi_lightning\.Batch.*but got a str"):
        predicted(make_trainer, nn.Linear(3, 3), Given("a text"))
    with pytest.raises(UserError, match="Inputs must share their first dimension"):
        predicted(make_trainer, Pair(), Given((torch.zeros(2, 3), torch.zeros(3, 3))))


# -- sample weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", ["fit", "train", "validate", "test", "predict"])
def test_weights_of_samples_are_refused_wherever_a_batch_is_taken(use: str, make_trainer: MakeTrainer) -> None:
    x, y = torch.randn(6, 3), torch.arange(6) % 3
    plain, weighted = (Given(Batch(x, y, torch.arange(6), y, weights=each)) for each in (None, torch.ones(6)))
    trainer = make_trainer(num_sanity_val_steps=0 if use == "train" else 2)
    loaders = {"fit": (plain, weighted), "train": (weighted, plain)}.get(use, (weighted,))
    run = getattr(trainer, use, trainer.fit)
    with pytest.raises(UserError, match=r"A batch has weights.*leave Batch\.weights out"):
        run(ldmi(ce(1), dmi(1)), *loaders)
