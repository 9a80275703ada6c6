"""LDMIClassifier: what it learns under noise, from labels, rows and nets of any kind, and which rows it holds out."""

import warnings
from copy import deepcopy
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from estimators import blobs, flip, make_net, quick
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.estimator.classifier import suited_lr
from ldmi_lightning.estimator.held_out import repeated, split_rows
from ldmi_lightning.likelihood import fit_transition
from ldmi_lightning.losses import CELoss, ForwardLoss
from ldmi_lightning.method import Method

TRUE = np.array([[1.0, 0.0], [0.6, 0.4]])


# -- what it learns ---------------------------------------------------------------------------------------------------


def test_dmi_finds_the_classes_and_the_matrix_where_cross_entropy_follows_the_labels() -> None:
    X, y = blobs(3000)
    clean_x, clean_y = blobs(5000, seed=9)
    best = NormalDist().cdf(np.sqrt(2))  # 0.921: the centres are 2 sqrt(2) apart, and the deviation is 1
    dmi, ce = (quick(loss=loss, warmup_epochs=4, epochs=4, lr=0.02).fit(X, flip(y)) for loss in ("dmi", "ce"))
    assert dmi.score(clean_x, clean_y) > best - 0.02
    assert ce.score(clean_x, clean_y) < best - 0.2
    assert abs(dmi.transition_ - TRUE).max() < 0.08
    assert dmi.chosen_ == "robust"
    assert [(each["stage"], each["kept"]) for each in dmi.choice_] == [("robust", "robust")]
    assert dmi.choice_[0]["z"] > 1
    assert {name: (said["loss"], said["selected_by"]) for name, said in dmi.stages_.items()} == {
        "warmup": ("CELoss", "val/nll"),
        "robust": ("DMILoss", "val/log_dmi"),
    }


def test_the_matrix_comes_from_dmi_also_where_the_warm_up_is_kept_to_predict() -> None:
    X, y = blobs(1500)
    # A matrix with a dominant diagonal misleads no decision, so that the warm-up is as good.
    symmetric = np.where(np.random.RandomState(0).rand(len(y)) < 0.3, 1 - y, y)
    model = quick(warmup_epochs=3, epochs=3, lr=0.02).fit(X, symmetric)
    assert model.chosen_ == "warmup"
    assert abs(model.transition_ - [[0.7, 0.3], [0.3, 0.7]]).max() < 0.1
    # The warm-up's outputs are noisy posteriors, to which a matrix near the identity is the most likely.
    wrong = fit_transition(model.predict_proba(X), symmetric).transition
    assert abs(wrong - np.eye(2)).max() < 0.15


def test_refine_has_its_own_matrix_and_another_loss_without_one_says_so() -> None:
    X, y = blobs(1500)
    model = quick(refine=True, warmup_epochs=3, epochs=3, lr=0.02).fit(X, flip(y))
    assert list(model.stages_) == ["warmup", "robust", "refine"]
    assert model.stages_["refine"]["selected_by"] == "val/nll"
    assert abs(model.transition_ - TRUE).max() < 0.1
    known = quick(loss=ForwardLoss(TRUE.tolist())).fit(X, flip(y))
    assert known.transition_.tolist() == TRUE.tolist()
    gce = quick(loss="gce").fit(X, y)
    assert not hasattr(gce, "transition_")
    with pytest.raises(AttributeError, match=r"loss='gce' implies no transition_.*Use loss='dmi'"):
        gce.transition_  # noqa: B018


def test_a_line_of_few_features_is_learnt_as_well_as_of_many() -> None:
    assert (suited_lr(4), suited_lr(600)) == (pytest.approx(0.0098, abs=1e-4), 1e-3)
    X, y = blobs(200, classes=3, spread=0.5)
    scores = [quick(lr=lr, warmup_epochs=4).fit(X, y).score(X, y) for lr in (None, 1e-3)]
    assert scores[0] > 0.95 > scores[1]


def test_probabilities_are_those_of_the_chosen_net_on_standardised_rows() -> None:
    X, y = blobs()
    model = quick().fit(X, y)
    (net,) = model._nets
    rows = (X - model.scaler_.mean_) / model.scaler_.scale_
    logits = rows @ net.weight.detach().double().numpy().T + net.bias.detach().double().numpy()
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.allclose(model.predict_proba(X), expected, atol=1e-6)
    assert np.allclose(model.predict_proba(X).sum(axis=1), 1, atol=1e-15)
    train = split_rows(y, 0.2, int(np.random.RandomState(0).randint(2**31))).train
    assert np.allclose(model.scaler_.mean_, X[train].mean(axis=0))  # of the rows that are trained on alone


def test_many_rows_are_predicted_in_parts_that_make_no_difference() -> None:
    X, y = blobs()
    model = quick().fit(X, y)
    many = np.tile(X, (25, 1))
    assert np.allclose(model.predict_proba(many), np.tile(model.predict_proba(X), (25, 1)), atol=1e-6)


# -- labels, rows and nets of any kind --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [["no", "yes"], [False, True], [7, -1], [1.0, 2.0], np.array(["b", "a"], dtype=object)],
    ids=["strings", "bools", "ints", "floats", "objects"],
)
def test_labels_of_any_kind_come_back(names: Any) -> None:
    X, y = blobs()
    labels = np.asarray(names)[y]
    model = quick().fit(X, labels)
    assert model.classes_.tolist() == sorted(np.asarray(names).tolist())
    predicted = model.predict(X)
    assert predicted.dtype == labels.dtype
    assert (predicted == labels).mean() > 0.8
    assert model.score(X, labels) == (predicted == labels).mean()
    assert (model.classes_[model.predict_proba(X).argmax(axis=1)] == predicted).all()


def test_pandas_labels_and_half_precision_features() -> None:
    X, y = blobs(200)
    scaled = StandardScaler().fit_transform(X)
    series = pd.Series(pd.Categorical(np.asarray(["cat", "dog"])[y]), index=np.arange(200)[::-1])
    half = quick().fit(scaled.astype(np.float16), series)
    full = quick().fit(scaled, series)
    assert half.classes_.tolist() == ["cat", "dog"]
    assert half.scaler_.mean_ == pytest.approx(full.scaler_.mean_, abs=1e-3)
    assert (half.predict(scaled.astype(np.float16)) == full.predict(scaled)).mean() > 0.98


def test_nets_of_ones_own_by_function_or_as_an_object() -> None:
    X, y = blobs()
    assert quick(hidden=6).fit(X, y)._nets[0][0].weight.shape == (6, 5)
    assert quick(backbone=make_net).fit(X, y).score(X, y) > 0.8
    given = make_net(5, 2)
    before = deepcopy(given.state_dict())
    model = quick(backbone=given).fit(X, y)
    assert model.score(X, y) > 0.8
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())  # a copy is trained
    assert not torch.equal(model._nets[0][0].weight, given[0].weight)
    with pytest.raises(UserError, match=r"must return logits of shape \(N, 2\).*returned shape \(64, 3\)"):
        quick(backbone=make_net(5, 3), batch_size=64).fit(X, y)


class TwoNets(Method):
    """Cross-entropy of two nets."""

    networks = 2

    def step(self, nets: Any, batch: Any, clock: Any) -> Tensor:
        return sum(nn.functional.cross_entropy(net(batch.x), batch.y) for net in nets)  # type: ignore[return-value]


class TwoViews(CELoss):
    """Cross-entropy that wants two views."""

    views = 2


def test_a_method_of_two_nets_predicts_with_both() -> None:
    X, y = blobs()
    model = quick(loss=TwoNets(), epochs=3).fit(X, y)
    assert len(model._nets) == {"warmup": 1, "robust": 2}[model.chosen_]
    assert model.score(X, y) > 0.8
    with pytest.raises(UserError, match="TwoViews wants 2 augmented views"):
        quick(loss=TwoViews()).fit(X, y)


# -- rows that are held out -------------------------------------------------------------------------------------------


def test_rows_are_held_out_class_by_class_with_each_class_present() -> None:
    y = np.repeat([0, 1, 2], [900, 97, 3])
    split = split_rows(y, 0.2, seed=3)
    assert np.bincount(y[split.val]).tolist() == [180, 19, 1]
    assert sorted([*split.train, *split.val]) == list(range(1000))
    assert split.said == ""
    assert np.array_equal(split.val, split_rows(y, 0.2, seed=3).val)
    assert not np.array_equal(split.val, split_rows(y, 0.2, seed=4).val)
    assert np.bincount(y[split_rows(y, 0.99, seed=3).train]).tolist() == [9, 1, 1]


def test_a_class_of_one_row_is_trained_on_and_selects_and_a_line_says_so() -> None:
    X, y = blobs(100)
    y[-1] = 2
    names = np.asarray(["a", "b", "{rare}"])
    with pytest.warns(UserWarning, match=r"a single row has the label '\{rare\}': it is trained on, and selects too"):
        model = quick().fit(X, names[y])
    assert model.predict_proba(X).shape == (100, 3)
    split = split_rows(y, 0.2, seed=0)
    assert 99 in split.train
    assert 99 in split.val


def test_too_few_rows_select_by_the_training_rows_and_a_line_says_so() -> None:
    X, y = blobs(40)
    with pytest.warns(
        UserWarning, match=r"of 40 rows, val_share=0.2 holds out 8, too few to select by \(5 for each of 2"
    ):
        model = quick().fit(X, y)
    assert model.score(X, y) > 0.8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick(val_share=0.25).fit(X, y)


def test_few_rows_are_passed_over_often_enough_and_many_once() -> None:
    assert np.bincount(repeated(np.arange(40), batch_size=128)).tolist() == [64] * 40
    assert len(repeated(np.arange(8193), batch_size=128)) == 8193
