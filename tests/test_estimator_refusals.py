"""What LDMIClassifier refuses: settings, devices, weights, rows and labels, each in one line."""

from typing import Any

import numpy as np
import pytest
import torch
from estimators import blobs, quick
from scipy import sparse
from sklearn.ensemble import BaggingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import DMILoss


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
