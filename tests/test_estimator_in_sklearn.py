"""LDMIClassifier among scikit-learn's: its own checks, pipelines and searches, and what a fit leaves alone."""

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
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from estimators import blobs, flip, make_net, quick
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import Tensor

from ldmi_lightning import LDMIClassifier
from ldmi_lightning.errors import UserError
from ldmi_lightning.estimator import held_out
from ldmi_lightning.estimator.quiet_fit import isolated
from ldmi_lightning.losses import CELoss

REPO = Path(__file__).parents[1]


# Nothing is expected to fail: `fit` does not name sample_weight, so that scikit-learn makes no promise of it.
@pytest.mark.filterwarnings(
    "ignore:LDMIClassifier. of .* rows:UserWarning", "ignore:The number of unique classes:UserWarning"
)
@parametrize_with_checks([LDMIClassifier(warmup_epochs=1, epochs=1, lr=0.05)])
def test_scikit_learns_own_checks(estimator: LDMIClassifier, check: Callable[..., None]) -> None:
    check(estimator)


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
