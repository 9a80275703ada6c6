"""DMIHealth in real fits: its figures against independent sums, when it says something, and that each remedy helps."""

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import MakeTrainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.callbacks import DMIHealth, health
from ldmi_lightning.commands import main
from ldmi_lightning.datamodules import DigitsDataModule
from ldmi_lightning.joint import joint_matrix
from ldmi_lightning.losses import CELoss, DMILoss
from ldmi_lightning.noise import ClassDependentNoise, Noise, SymmetricNoise

REPO = Path(__file__).parents[1]
FLIPS = {9: 1, 2: 0, 4: 7, 3: 5}
NAMES = {"rank", "smallest_singular_value", "dmi_normalised", "det_sign", "missing_classes"}


# -- a fit in stages --------------------------------------------------------------------------------------------------


class Rows(pl.Callback):
    """Keeps what was logged of each epoch, and an independent list of the U of each step of L_DMI."""

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self.rows: list[tuple[str, dict[str, float]]] = []
        self.joints: list[np.ndarray] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        def keep(loss: DMILoss, args: Sequence[Tensor], output: Tensor) -> None:
            joint = (
                loss.joint_memory if self.memory else joint_matrix(args[0].detach().double().softmax(dim=1), args[1])
            )
            self.joints.append(joint.numpy().copy())

        pl_module.stages["robust"].loss.register_forward_hook(keep)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.rows.append((pl_module.progress.stage, found))

    def of(self, stage: str, name: str) -> list[float]:
        return [row[f"health/{name}"] for own, row in self.rows if own == stage]


def fit_digits(
    make: Any,
    *,
    memory: float,
    warmup: int = 1,
    robust: int = 1,
    batch_size: int = 64,
    lr: float = 1e-3,
    noise: Noise | None = None,
    seed: int = 1,
) -> tuple[Rows, LDMIModule, DigitsDataModule]:
    pl.seed_everything(seed, verbose=False)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    first = Stage(CELoss(), warmup, partial(torch.optim.Adam, lr=1e-3))
    second = Stage(DMILoss(memory), robust, partial(torch.optim.Adam, lr=lr))
    data = DigitsDataModule(noise or ClassDependentNoise(0.6, flips=FLIPS, seed=1), batch_size)
    module, rows = LDMIModule(net, 10, first, second), Rows(memory)
    make(callbacks=[DMIHealth(), rows], enable_checkpointing=False).fit(module, data)
    return rows, module, data


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_a_fit_logs_what_its_steps_and_its_validation_were(
    memory: float, make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, module, _ = fit_digits(make_trainer, memory=memory, batch_size=20)
    (_, first), (_, last) = rows.rows
    assert {name for name in first if name.startswith("health/")} == {f"health/{name}" for name in NAMES}
    assert last["health/dmi_normalised"] == pytest.approx(last["val/dmi_normalised"])
    assert last["health/singular_share"] == pytest.approx(module.progress.history[-1]["train/singular_steps"] / 59)
    signs = np.array(
        [0 if np.linalg.matrix_rank(joint) < 10 else np.sign(np.linalg.det(joint)) for joint in rows.joints]
    )
    assert len(signs) == 59
    wrong = signs == -np.sign(np.linalg.det(sum(rows.joints)))
    assert last["health/sign_flips"] == pytest.approx(wrong.sum() / (signs != 0).sum())
    assert not any(isinstance(hook.__self__, DMIHealth) for hook in _own_hooks(module))
    out = capsys.readouterr().out
    assert ("robust 1/1: 9" in out and "had a singular U" in out) == (memory == 0)
    assert "robust 1/1: no validation sample is predicted to be" in out  # one epoch of warm-up is too short
    assert "warmup 1/1: " not in out


def _own_hooks(module: nn.Module) -> list[Any]:
    return [hook for each in module.modules() for hook in each._forward_hooks.values() if hasattr(hook, "__self__")]


def best_of(module: LDMIModule, data: DigitsDataModule, make: Any) -> float:
    """Return the test accuracy of the last stage's best epoch, whichever stage was chosen."""
    assert module.progress.best_weights is not None
    module.backbone.load_state_dict(module.progress.best_weights)
    return float(make().test(module, data, verbose=False)[0]["test/acc"])


SYMMETRIC = partial(SymmetricNoise, 0.5, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ill", "remedy", "name"),
    [
        ({"memory": 0.0, "batch_size": 20, "warmup": 5, "robust": 2}, {"memory": 0.9}, "singular_share"),
        ({"memory": 0.0, "noise": SYMMETRIC(), "warmup": 15, "robust": 15}, {"memory": 0.9}, "sign_flips"),
        ({"memory": 0.0, "warmup": 2, "robust": 8}, {"memory": 0.9}, "missing_classes"),
        ({"memory": 0.9, "warmup": 2, "robust": 8}, {"warmup": 5}, "missing_classes"),
        ({"memory": 0.9, "lr": 0.1, "warmup": 15, "robust": 6}, {"lr": 0.01}, "dmi_normalised"),
        ({"memory": 0.9, "lr": 0.1, "noise": SYMMETRIC(), "warmup": 15, "robust": 6}, {"lr": 0.01}, "dmi_normalised"),
    ],
)
def test_each_remedy_helps(ill: dict[str, Any], remedy: dict[str, Any], name: str, make_trainer: MakeTrainer) -> None:
    accuracies, figures = [], []
    for setting in (ill, {**ill, **remedy}):
        for seed in (1, 2, 3):
            rows, module, data = fit_digits(make_trainer, **setting, seed=seed)
            accuracies.append(best_of(module, data, make_trainer))
            figures.append(np.array(rows.of("robust", name)))
            print({**setting, "seed": seed, "test_acc": accuracies[-1], name: figures[-1]})
    assert np.mean(accuracies[3:]) > np.mean(accuracies[:3])
    before, after = figures[:3], figures[3:]
    if name in ("singular_share", "sign_flips"):
        limit = {"singular_share": health.SINGULAR_SHARE, "sign_flips": health.FLIPPED_SHARE}[name]
        assert min(each.max() for each in before) >= limit
        assert max(each.max() for each in after) == 0
    elif name == "missing_classes":
        assert min(each.max() for each in before) > 0
        assert max(each[-1] for each in after) == 0
    else:
        assert max(each.max() for each in before) < health.FALLEN * min(each.max() for each in after)


# -- in anyone's Trainer ----------------------------------------------------------------------------------------------


class Plain(pl.LightningModule):
    """Somebody else's module."""

    def __init__(self, loss: nn.Module | None, lr: float = 0.0) -> None:
        super().__init__()
        self.net, self.loss, self.lr = nn.Linear(4, 3), loss, lr
        with torch.no_grad():
            self.net.weight.copy_(torch.arange(12.0).reshape(3, 4).sin())
            self.net.bias.zero_()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.net(batch[0])
        if self.loss is not None:
            return self.loss(logits, batch[1], torch.full_like(batch[1], -1))
        loss = nn.functional.cross_entropy(logits, batch[1])
        return {"loss": loss, "probs": logits.softmax(dim=1), "y": batch[1]}

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        return {"probs": self.net(batch[0]).softmax(dim=1), "y": batch[1]}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def loader(batch_size: int) -> Any:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(240, 4, generator=generator), torch.randint(3, (240,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=batch_size)


def own_figures(trainer: pl.Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("health/")}


def test_it_works_without_stages_and_counts_only_the_epochs_own_steps(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for loss in (DMILoss(), None):
        trainer = make_trainer(max_epochs=3, callbacks=[DMIHealth()], enable_checkpointing=False)
        trainer.fit(Plain(loss), loader(6), loader(60))
        found.append(own_figures(trainer))
        if loss is not None:
            assert int(loss.steps) == 120  # nobody ends its epochs, so that it counts on
            share = int(loss.singular_steps) / 120
            assert 0 < share < 1
            assert found[0]["health/singular_share"] == pytest.approx(share)
    assert found[0].pop("health/singular_share") > 0.1
    assert found[0] == pytest.approx(found[1])  # the signs of the same outputs, returned by `training_step`
    assert set(found[1]) == {f"health/{name}" for name in NAMES | {"sign_flips"}}
    out = capsys.readouterr().out
    assert out.count("had a singular U") == 1  # and not in each of three epochs
    assert "epoch 1: " in out


def test_a_resumed_run_says_nothing_twice_and_a_new_one_does(
    tmp_path: Path, make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    def fit(epochs: int, ckpt_path: str | None) -> str:
        trainer = make_trainer(max_epochs=epochs, callbacks=[callback], enable_checkpointing=False)
        trainer.fit(Plain(DMILoss()), loader(6), loader(60), ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / "end.ckpt")
        return capsys.readouterr().out

    callback = DMIHealth()
    assert "had a singular U" in fit(1, None)
    assert "had a singular U" in fit(1, None)  # another fit with the same object
    callback = DMIHealth()
    assert "had a singular U" not in fit(2, str(tmp_path / "end.ckpt"))


def test_an_error_in_training_leaves_no_hook_behind(make_trainer: MakeTrainer) -> None:
    class Failing(Plain):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if batch_idx == 1:
                raise RuntimeError("stopped")

    module = Failing(DMILoss())
    trainer = make_trainer(max_epochs=1, callbacks=[DMIHealth()], enable_checkpointing=False)
    with pytest.raises(RuntimeError, match="stopped"):
        trainer.fit(module, loader(60), loader(60))
    assert not _own_hooks(module)


def test_in_mixed_precision_it_counts_what_the_loss_saw(make_trainer: MakeTrainer) -> None:
    found = []
    for precision in ("32-true", "bf16-mixed"):
        trainer = make_trainer(max_epochs=1, callbacks=[DMIHealth()], enable_checkpointing=False, precision=precision)
        trainer.fit(Plain(DMILoss()), loader(12), loader(60))
        found.append(own_figures(trainer))
    assert found[0].keys() == found[1].keys()
    assert found[1]["health/dmi_normalised"] == pytest.approx(found[0]["health/dmi_normalised"], rel=0.1)
    assert found[1]["health/rank"] == 3


class InOrder(Plain):
    """Its global batches hold the same samples however many ranks there are; Lightning would shuffle those of two."""

    def train_dataloader(self) -> Any:
        data, ranks = loader(1).dataset, self.trainer.world_size
        sampler: Any = DistributedSampler(data, ranks, self.trainer.global_rank, shuffle=False)
        return DataLoader(data, batch_size=12 // ranks, sampler=sampler)


@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_two_ranks_log_what_one_process_logs(memory: float, make_trainer: MakeTrainer) -> None:
    found = []
    for ranks in ({"strategy": "auto"}, {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}):
        loss = DMILoss(memory)
        loss.joint_memory = torch.eye(3).flip(0).double() / 30 + 0.1
        trainer = make_trainer(max_epochs=1, callbacks=[DMIHealth()], enable_checkpointing=False, **ranks)
        trainer.fit(InOrder(loss), val_dataloaders=[loader(60)])
        found.append(own_figures(trainer))
    assert 0 < found[0]["health/sign_flips"] < 1
    assert found[1] == pytest.approx(found[0], rel=1e-6)


def test_from_the_command_line_its_figures_stand_in_the_csv_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    short = ["--model.warmup.epochs", "1", "--model.robust.epochs", "1", "--model.robust.loss.memory", "0"]
    own = ["--trainer.callbacks+=ldmi_lightning.callbacks.DMIHealth", "--trainer.default_root_dir", str(tmp_path)]
    main(["fit", "--config", str(REPO / "configs/quickstart.yaml"), "--data.batch_size", "20", *short, *own])
    assert "had a singular U" in capsys.readouterr().out
    (table,) = tmp_path.glob("*/metrics.csv")
    with table.open() as file:
        rows = [row for row in csv.DictReader(file) if row["health/rank"]]
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert not rows[0]["health/singular_share"]
    assert float(rows[1]["health/singular_share"]) > 0.8
