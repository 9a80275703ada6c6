"""LDMIClassifier: scikit-learn's own checks, what it learns under noise, what it leaves alone, and what it refuses."""

import logging
import os
import pickle
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.ensemble import BaggingClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import Tensor, nn

from ldmi_lightning import LDMIClassifier
from ldmi_lightning.errors import UserError
from ldmi_lightning.estimator import held_out
from ldmi_lightning.estimator.classifier import suited_lr
from ldmi_lightning.estimator.held_out import repeated, split_rows
from ldmi_lightning.estimator.quiet_fit import isolated
from ldmi_lightning.likelihood import fit_transition
from ldmi_lightning.losses import CELoss, DMILoss, ForwardLoss
from ldmi_lightning.method import Method

REPO = Path(__file__).parents[1]
TRUE = np.array([[1.0, 0.0], [0.6, 0.4]])


def quick(**settings: Any) -> LDMIClassifier:
    return LDMIClassifier(**{"warmup_epochs": 1, "epochs": 1, "lr": 0.05, "random_state": 0, **settings})


def blobs(n: int = 400, seed: int = 0, classes: int = 2, spread: float = 1.0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return rows around a centre for each class, on features of very different scales, and their classes."""
    rng = np.random.RandomState(seed)
    y = np.arange(n) % classes
    centres = 2 * np.eye(classes, 5)
    return (centres[y] + spread * rng.randn(n, 5)) * [1, 10, 1e3, 1e-3, 1] + [0, 5, 0, 0, -1e2], y


def flip(y: NDArray[Any], rate: float = 0.6, seed: int = 1) -> NDArray[Any]:
    """Give label 0 to that share of class 1: T = [[1, 0], [rate, 1 - rate]]."""
    return np.where((y == 1) & (np.random.RandomState(seed).rand(len(y)) < rate), 0, y)


# Nothing is expected to fail: `fit` does not name sample_weight, so that scikit-learn makes no promise of it.
@pytest.mark.filterwarnings(
    "ignore:LDMIClassifier. of .* rows:UserWarning", "ignore:The number of unique classes:UserWarning"
)
@parametrize_with_checks([LDMIClassifier(warmup_epochs=1, epochs=1, lr=0.05)])
def test_scikit_learns_own_checks(estimator: LDMIClassifier, check: Callable[..., None]) -> None:
    check(estimator)


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


def make_net(features: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(features, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, classes))


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


# -- what it leaves alone ---------------------------------------------------------------------------------------------


def state_of_the_process() -> tuple[Any, ...]:
    levels = [logging.getLogger(name).level for name in ("pytorch_lightning", "lightning_fabric")]
    seeds = [os.environ.get("PL_GLOBAL_SEED"), random.getstate(), *map(str, np.random.get_state())]
    return (*levels, *seeds, torch.random.get_rng_state().tolist(), list(warnings.filters))


@pytest.mark.parametrize("seed", [None, "3"])
def test_a_fit_says_and_writes_nothing_and_puts_back_what_it_used(
    seed: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    if seed is not None:
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
    X, y = blobs()
    before = state_of_the_process()
    quick().fit(X, y)
    assert state_of_the_process() == before
    with pytest.raises(UserError, match="are NaN in epoch 1"):
        quick(lr=1e30).fit(X, y)
    assert state_of_the_process() == before
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_state_gives_the_same_weights_twice_and_another_one_others() -> None:
    X, y = blobs()
    one, same, other = (quick(random_state=seed).fit(X, y).predict_proba(X) for seed in (1, 1, 2))
    torch.manual_seed(5)
    again = quick(random_state=np.random.RandomState(1)).fit(X, y).predict_proba(X)
    assert (one == same).all()
    assert (one == again).all()
    assert (one != other).any()
    np.random.seed(0)
    first, second = (quick(random_state=None).fit(X, y).predict_proba(X) for _ in range(2))
    assert (first != second).any()  # None draws from NumPy's global state, as everywhere in scikit-learn


@pytest.mark.parametrize(
    "settings", [{}, {"hidden": 3}, {"loss": "fw"}, {"backbone": make_net}], ids=lambda settings: "".join(settings)
)
def test_what_is_fitted_can_be_pickled_copied_and_cloned(settings: dict[str, Any]) -> None:
    X, y = blobs()
    model = quick(**settings).fit(X, flip(y))
    for again in (pickle.loads(pickle.dumps(model)), deepcopy(model)):
        assert (again.predict_proba(X) == model.predict_proba(X)).all()
        assert again.stages_ == model.stages_
    bare = clone(model)
    assert not hasattr(bare, "classes_")
    assert (bare.fit(X, flip(y)).predict_proba(X) == model.predict_proba(X)).all()
    assert len(pickle.dumps(model)) < 60_000


class Interrupted(CELoss):
    """Ctrl-C in the middle of a step."""

    def forward(self, logits: Tensor, y: Tensor, index: Tensor) -> Tensor:
        raise KeyboardInterrupt


def test_an_interrupt_is_an_interrupt_and_no_exit_of_the_program() -> None:
    X, y = blobs()
    before = state_of_the_process()
    with pytest.raises(KeyboardInterrupt):
        quick(loss=Interrupted()).fit(X, y)
    assert state_of_the_process() == before


def test_it_is_imported_when_it_is_asked_for() -> None:
    code = "import sys, ldmi_lightning as it; assert 'LDMIClassifier' in dir(it); print({'torch', 'sklearn'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


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


# -- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"loss": "dmm"},
            "loss must be one of dmi, ce, gce, fw, sce, .*, or a loss of ldmi_lightning.losses as an object, but is 'dmm'",
        ),
        ({"loss": None}, "loss must be one of .* but is None"),
        ({"refine": True, "loss": "gce"}, "refine=True takes the T that L_DMI implies, but loss is 'gce'"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, but is 0"),
        ({"warmup_epochs": 1.5}, "warmup_epochs must be a whole number of at least 1, but is 1.5"),
        ({"batch_size": True}, "batch_size must be a whole number of at least 1, but is True"),
        ({"hidden": -1}, "hidden must be a whole number of at least 0, but is -1"),
        ({"lr": 0}, "lr must be above 0, or None .* but is 0"),
        ({"val_share": 1.0}, "val_share must lie between 0 and 1, but is 1.0"),
        ({"device": "tpu"}, "device must be one of cpu, gpu, cuda, mps, auto, but is 'tpu'"),
        ({"loss": DMILoss(0.0), "batch_size": 1}, r"Use loss=DMILoss\(0.99\), or a larger batch_size"),
        ({"lr": 1e30}, r"Lower lr, or look for NaN|lower the learning rate"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused_in_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        quick(**settings).fit(*blobs(100))
    assert "\n" not in str(error.value)
    assert "--" not in str(error.value)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is such a device")
def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"device='mps' cannot be used here \(.*\)\. Use 'cpu', or 'auto'"):
        quick(device="mps").fit(*blobs(100))


def test_sample_weights_are_refused_in_one_line_and_promised_to_nobody() -> None:
    X, y = blobs(100)
    with pytest.raises(UserError, match=r"^LDMIClassifier.fit takes no sample_weight: no loss weighs samples.*[^\n]$"):
        quick().fit(X, y, sample_weight=np.ones(100))
    with pytest.raises(UserError, match="takes no sample_weight"):
        make_pipeline(StandardScaler(), quick()).fit(X, y, ldmiclassifier__sample_weight=np.ones(100))
    # It would weigh its rows where an estimator names the argument, and draws them where it does not.
    assert BaggingClassifier(quick(), n_estimators=2, random_state=0).fit(X, y).score(X, y) > 0.8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda X, y: (X, np.zeros_like(y)), r"y has one class \(0\)"),
        (lambda X, y: (np.where(X[3] == X, np.nan, X), y), "Input X contains NaN"),
        (lambda X, y: (sparse.csr_matrix(X), y), "Sparse data was passed"),
        (lambda X, y: (X, y + 0.5 * (y == 1) + np.linspace(0, 0.1, len(y))), "Unknown label type: continuous"),
        (lambda X, y: (X, np.where(y == 1, "a", None)), "Unknown label type|None|NaN"),
        (lambda X, y: (X, np.where(y == 1, 1, np.nan)), "Input y contains NaN"),
        (lambda X, y: (X, np.eye(2, dtype=int)[y]), "Unknown label type: multilabel|1d array"),
        (lambda X, y: (X[:50], y), "inconsistent numbers of samples"),
    ],
)
def test_rows_and_labels_are_checked_as_everywhere_in_scikit_learn(change: Any, said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        quick().fit(*change(*blobs(100)))


# -- among other estimators -------------------------------------------------------------------------------------------


def test_a_table_in_a_pipeline_with_column_names() -> None:
    X, y = blobs(300)
    table = pd.DataFrame(X, columns=list("abcde")).assign(kind=np.asarray(["up", "down"])[y], other="x")
    columns = make_column_transformer(
        (StandardScaler(), list("abcde")),
        (OneHotEncoder(sparse_output=False), ["kind"]),
        verbose_feature_names_out=False,
    )
    model = make_pipeline(columns, quick()).set_output(transform="pandas").fit(table, y)
    assert model[-1].feature_names_in_.tolist() == [*"abcde", "kind_down", "kind_up"]
    assert model[-1].n_features_in_ == 7
    assert model.score(table, y) > 0.95
    with pytest.raises(ValueError, match="feature names"):
        model[-1].predict(columns.transform(table)[["kind_up", *"abcde", "kind_down"]])


def test_out_of_fold_probabilities_and_a_search() -> None:
    X, y = blobs(300)
    probs = cross_val_predict(quick(), X, y, method="predict_proba", cv=3)
    assert probs.shape == (300, 2)
    assert log_loss(y, probs) < 0.5
    search = GridSearchCV(quick(), {"epochs": np.array([1, 2])}, cv=2, error_score="raise").fit(X, y)
    assert search.best_score_ > 0.8


def test_threads_wait_for_each_other_and_give_what_one_alone_gives() -> None:
    import joblib

    X, y = blobs(300)
    with joblib.parallel_config(backend="threading", n_jobs=2):
        together = cross_val_predict(quick(), X, y, method="predict_proba", cv=2)
    assert (together == cross_val_predict(quick(), X, y, method="predict_proba", cv=2)).all()


@pytest.mark.slow
def test_processes_give_what_one_alone_gives() -> None:
    X, y = blobs(300)
    one, two = (GridSearchCV(quick(), {"hidden": [0, 4]}, cv=2, n_jobs=jobs).fit(X, y) for jobs in (1, 2))
    assert (one.predict_proba(X) == two.predict_proba(X)).all()
    assert one.cv_results_["mean_test_score"].tolist() == two.cv_results_["mean_test_score"].tolist()


def test_what_stands_in_the_page_is_short_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (REPO / "docs" / "scikit-learn.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 2
    assert all(len(block.strip().splitlines()) <= 12 for block in blocks)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(held_out, "BATCHES_AN_EPOCH", 8)  # to be quick
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "scikit-learn.md", "exec"), names)
    assert names["model"].score(names["table"], names["truth"]) > 0.9
    assert list(tmp_path.iterdir()) == []


def test_isolated_puts_the_seed_back_after_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "4")
    with pytest.raises(ZeroDivisionError), isolated(1, "cpu"):
        print(1 / (os.environ["PL_GLOBAL_SEED"] != "1"))
    assert os.environ["PL_GLOBAL_SEED"] == "4"


# -- which labels are wrong -------------------------------------------------------------------------------------------


def test_each_label_is_judged_by_a_copy_that_never_saw_it() -> None:
    X, truth = blobs(900, classes=3, spread=0.7)
    names = np.array(["ape", "bee", "cow"])
    y = np.where((truth == 1) & (np.random.RandomState(1).rand(900) < 0.6), 2, truth)
    table = pd.DataFrame(X, columns=list("abcde"), index=np.arange(900) + 7)
    model = quick(warmup_epochs=3, epochs=3)
    found = model.find_label_issues(table, names[y], folds=2)
    assert list(found.columns) == [
        *("given_label", "predicted_label", "label_quality", "confidence", "is_label_issue", "rank"),
    ]
    assert found.index.equals(table.index)
    assert found.given_label.tolist() == names[y].tolist()
    wrong = y != truth
    assert found.label_quality[wrong].mean() < 0.2
    assert found.label_quality[~wrong].mean() > 0.8
    assert (found.predicted_label.to_numpy() == names[truth]).mean() > 0.93
    assert found.is_label_issue.equals(found.given_label != found.predicted_label)
    assert sorted(found["rank"]) == list(range(1, 901))
    assert found.label_quality[found["rank"].sort_values().index].is_monotonic_increasing
    assert found.attrs["wrong"]["value"] == pytest.approx(wrong.sum(), rel=0.15)
    assert "of 900 labels" in found.attrs["advice"]
    assert not hasattr(model, "classes_"), "the classifier itself is left as it is"


def test_outputs_of_noisy_labels_are_taken_for_what_they_are() -> None:
    X, y = blobs(300)
    found, again = (quick(loss="gce").find_label_issues(X, y, folds=2) for _ in range(2))
    assert "labels as given" in found.attrs["advice"]
    pd.testing.assert_frame_equal(found, again)
    assert found.index.equals(pd.RangeIndex(300))


@pytest.mark.parametrize(
    ("folds", "labels", "said"),
    [
        (1, [0, 1] * 10, "folds must be a whole number of at least 2, but is 1"),
        (2.0, [0, 1] * 10, "folds must be a whole number of at least 2, but is 2.0"),
        (5, [0] * 16 + [1] * 4, "folds=5 needs as many rows of each class, but y has 4 of 1. Take fewer folds"),
    ],
)
def test_folds_that_cannot_be_are_refused_in_one_line(folds: Any, labels: list[int], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        quick().find_label_issues(np.random.RandomState(0).randn(20, 2), labels, folds)
