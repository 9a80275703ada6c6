"""Validation selects by the whole noisy set, test repeats scikit-learn's figures, and true labels are never used."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from blobs import FROZEN, Blobs, blobs, ce, equal, fit, ldmi, run_folder, weights
from conftest import MakeTrainer
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score
from torch import nn

from ldmi_lightning import LDMIModule

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
    assert logged["test/balanced_acc"] == pytest.approx(balanced_accuracy_score(test.y.numpy(), predicted.numpy()))
    assert abs(logged["test/acc"] - logged["test/balanced_acc"]) > 0.01


def test_balanced_accuracy_is_the_mean_recall_of_the_classes_in_the_test_set(make_trainer: MakeTrainer) -> None:
    module, data = ldmi(), blobs()
    test = data.splits["test"]
    test.y[test.y == 2] = 0
    fit(make_trainer, module, data)
    (logged,) = make_trainer().test(module, data, verbose=False)
    predicted = module(test.x).argmax(1)
    assert 2 in predicted
    recalls = recall_score(test.y.numpy(), predicted.numpy(), labels=[0, 1], average=None)
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
