"""The figures of U that DMIHealth logs, against closed forms and NumPy, and what it says of them."""

from typing import Any

import numpy as np
import pytest
import torch

from ldmi_lightning.callbacks import health
from ldmi_lightning.callbacks.health import Health, Signs, Steps, complaints, health_of

# -- figures ----------------------------------------------------------------------------------------------------------


def test_a_perfect_model_under_noise_has_the_figures_of_its_transition() -> None:
    transition = torch.tensor([[0.6, 0.4], [0.2, 0.8]]).double()
    found = health_of(transition.T * 50, torch.tensor([50, 50]))  # row = noisy label, column = true class
    det, shares = 0.25 * (0.6 * 0.8 - 0.4 * 0.2), (0.4, 0.6)
    assert found.rank == 2
    assert found.det_sign == 1
    assert found.dmi_normalised == pytest.approx((det / (shares[0] * shares[1])) ** 0.5)
    assert found.smallest_singular_value == pytest.approx(np.linalg.svd(transition.numpy() / 2)[1][-1])
    assert health_of(transition.T.flip(1) * 50, torch.tensor([50, 50])).det_sign == -1  # two outputs exchanged


def test_a_class_without_a_label_is_judged_neither_as_missing_nor_in_the_rank() -> None:
    counts = torch.diag(torch.tensor([5.0, 0.0, 5.0])).double()
    assert health_of(counts, torch.tensor([5, 0, 5])) == Health(2, 0.5, 1.0, 1, ())
    assert health_of(counts, torch.tensor([10, 0, 0])).missing == (2,)


def test_outputs_that_are_not_finite_are_no_error_here() -> None:
    found = health_of(torch.full((2, 2), torch.nan).double(), torch.tensor([3, 0]))
    assert (found.rank, found.det_sign, found.missing) == (0, 0, ())
    assert np.isnan(found.dmi_normalised)


def test_rank_goes_by_the_projects_threshold() -> None:
    for small, rank in ((1e-7, 3), (1e-9, 2)):
        counts = torch.diag(torch.tensor([1.0, 1.0, small]).double())
        assert health_of(counts, torch.ones(3)).rank == rank


@pytest.mark.parametrize("entries", [1, 60, 2**16])
def test_flipped_signs_are_those_of_numpy_however_they_are_put_together(
    entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "KEPT_ENTRIES", entries)
    generator = torch.Generator().manual_seed(0)
    joints = torch.rand(40, 3, 3, generator=generator, dtype=torch.float64) + 0.3 * torch.eye(3)
    joints[7, 1] = 0  # a class that the batch misses: no sign
    signs = Signs()
    for joint in joints:
        signs.add(joint, is_global=False)
    dets = np.linalg.det(joints.numpy())
    wrong = np.sign(dets) == -np.sign(np.linalg.det(joints.numpy().sum(axis=0)))
    assert 0 < wrong.sum() < 39
    assert signs.share_flipped() == pytest.approx(wrong.sum() / 39)
    assert Signs().share_flipped() is None


def test_a_memory_of_a_class_without_labels_has_a_sign() -> None:
    signs = Signs()
    signs.add(torch.diag(torch.tensor([0.5, 0.5, 0.0])).double(), is_global=True)
    assert signs.share_flipped() == 0


# -- lines ------------------------------------------------------------------------------------------------------------

GOOD = Health(10, 0.05, 0.5, 1, ())


@pytest.mark.parametrize(
    ("changed", "steps", "kind", "says"),
    [
        (
            {},
            Steps(0.5, 0.4, 0.0),
            "singular",
            "50% of the steps had a singular U and taught nothing. Try DMILoss(memory=0.9)",
        ),
        ({}, Steps(0.0, 0.4, 0.0), "flipped", "in 40% of the steps det U had the wrong sign"),
        (
            {"missing": (2, 3)},
            Steps(0.0, 0.0, 0.9),
            "missing",
            "no validation sample is predicted to be two, three. Try a lo",
        ),
        (
            {"dmi_normalised": 0.2},
            Steps(0.0, 0.0, 0.9),
            "fallen",
            "normalised DMI has fallen from 0.5 to 0.2. Try a tenth",
        ),
        ({"dmi_normalised": 0.2, "missing": (2,)}, Steps(0.0, 0.0, 0.9), "fallen", "normalised DMI has fallen"),
    ],
)
def test_each_ill_has_its_line(changed: dict[str, Any], steps: Steps, kind: str, says: str) -> None:
    (found,) = complaints(GOOD._replace(**changed), steps, 0.5, ["zero", "one", "two", "three"]).items()
    assert found[0] == kind
    assert found[1].startswith(says)


def test_a_remedy_that_is_in_use_is_not_named_and_other_losses_are_let_be() -> None:
    assert complaints(GOOD, Steps(0.5, 0.4, 0.9), 0.5) == {
        "singular": "50% of the steps had a singular U and taught nothing."
    }
    lost = GOOD._replace(missing=tuple(range(12)))
    assert "0, 1, 2, 3, 4 and 7 more" in complaints(lost, Steps(0.0, 0.0, 0.9), 0.5)["missing"]
    assert complaints(lost, Steps(flipped=0.5), 0.5) == {}
