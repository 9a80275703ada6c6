"""The rules of the schedule and of the choice, without a Trainer."""

import numpy as np
import pytest
import torch

from ldmi_lightning.training.schedule import following, is_over, total_epochs
from ldmi_lightning.training.selection import Choice, Snapshot, beats

STAGES = {"a": 4, "b": 3, "c": 2}


def test_stages_follow_in_order_and_nothing_follows_the_last() -> None:
    assert [following(list(STAGES), name) for name in STAGES] == ["b", "c", None]


@pytest.mark.parametrize(
    ("epochs", "at_most", "best", "patience", "over"),
    [
        (2, 3, 1, None, False),
        (3, 3, 3, None, True),
        (4, 3, 1, None, True),
        (3, 9, 1, 2, True),
        (2, 9, 1, 2, False),
        (5, 9, None, 1, False),
    ],
)
def test_a_stage_ends_with_its_epochs_or_its_patience(
    epochs: int, at_most: int, best: int | None, patience: int | None, over: bool
) -> None:
    assert is_over(epochs, at_most, best, patience) is over


@pytest.mark.parametrize(
    ("running", "first", "epochs", "over", "total"),
    [
        ("a", 0, 0, False, 9),
        ("a", 0, 2, True, 7),
        ("b", 2, 1, False, 7),
        ("b", 2, 1, True, 5),
        ("c", 5, 2, True, 7),
        ("a", 0, 6, False, 11),
    ],
)
def test_the_whole_lasts_what_was_run_and_what_is_left(
    running: str, first: int, epochs: int, over: bool, total: int
) -> None:
    assert total_epochs(STAGES, running, first, epochs, over) == total


def test_scores_compare_by_mode() -> None:
    assert beats(-1.0, -2.0, "max")
    assert beats(-2.0, -1.0, "min")
    assert not beats(float("nan"), -1.0, "max")


def snapshot(stage: str, right: float, seed: int = 0, n: int = 2000) -> Snapshot:
    """Return decisions of which a share is right, on labels of which 40 % of class 0 are wrong."""
    random = np.random.RandomState(1)
    truth = random.randint(2, size=n)
    y = np.where((truth == 0) & (random.rand(n) < 0.4), 1, truth)
    guess = np.random.RandomState(seed).rand(n) < right
    predicted = np.where(guess, truth, 1 - truth)
    return Snapshot(stage, {"w": torch.zeros(1)}, {}, torch.from_numpy(np.stack([predicted, y])))


def test_the_stage_that_knows_more_about_the_noisy_labels_is_kept() -> None:
    choice = Choice()
    for each in (snapshot("a", 0.8), snapshot("b", 0.97, seed=2), snapshot("c", 0.7, seed=3)):
        choice.consider(each, num_classes=2)
    assert choice.kept is not None
    assert choice.kept.stage == "b"
    assert [(each["stage"], each["against"], each["kept"]) for each in choice.evidence] == [
        ("b", "a", "b"),
        ("c", "b", "b"),
    ]
    assert choice.evidence[0]["z"] > 1
    assert choice.evidence[1]["z"] < -1


def test_names_of_the_outputs_do_not_matter() -> None:
    one, other = Choice(), Choice()
    first, second = snapshot("a", 0.8), snapshot("b", 0.97, seed=2)
    assert second.decisions is not None
    swapped = Snapshot("b", None, {}, torch.stack([1 - second.decisions[0], second.decisions[1]]))
    for each in (first, second):
        one.consider(each, 2)
    for each in (first, swapped):
        other.consider(each, 2)
    assert one.evidence == other.evidence


def test_what_cannot_be_compared_is_not_guessed() -> None:
    choice = Choice()
    choice.consider(snapshot("a", 0.9), 2)
    choice.consider(snapshot("b", 0.9, n=1999), 2)
    assert choice.evidence[0]["z"] is None
    assert choice.kept is not None
    assert choice.kept.stage == "b"


def test_a_choice_survives_a_file_that_may_hold_no_code(tmp_path: object) -> None:
    choice = Choice()
    for each in (snapshot("a", 0.8), snapshot("b", 0.97, seed=2)):
        choice.consider(each, 2)
    torch.save(choice.state_dict(), f"{tmp_path}/choice.pt")
    again = Choice.from_state_dict(torch.load(f"{tmp_path}/choice.pt", weights_only=True))
    assert repr(again) == repr(choice)
