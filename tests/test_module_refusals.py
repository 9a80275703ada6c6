"""Someone else's data trains too; what cannot work is refused before training."""

from typing import Any

import numpy as np
import pytest
import torch
from blobs import NO_WORKERS, Blobs, Foreign, Watch, blobs, ce, dmi, equal, fit, foreign_loaders, ldmi, weights
from conftest import MakeTrainer
from torch import nn

from ldmi_lightning import LDMIModule
from ldmi_lightning.errors import UserError

# -- someone else's data --------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (
            nn.Linear(5, 3),
            r"The backbone Linear cannot take this data, float32 of shape \((30|25), 3\): .*mat1 and mat2.*--model\.backbone",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten()),
            r"The backbone Sequential cannot take this data, .*Expected 3D",
        ),
    ],
    ids=["width", "images"],
)
@pytest.mark.parametrize("sanity", [0, 1])
def test_a_backbone_for_other_inputs_is_named_in_one_line(
    make_trainer: MakeTrainer, net: nn.Module, said: str, sanity: int
) -> None:
    with pytest.raises(UserError, match=said):
        make_trainer(num_sanity_val_steps=sanity).fit(LDMIModule(net, 3, ce()), Blobs())
