"""What a stage accepts, and how progress selects the best epoch and ends a stage."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ldmi_lightning import Stage
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import CELoss, DMILoss
from ldmi_lightning.training.stages import Progress

NAN = float("nan")


def selected(stage: Stage, *scores: float, patience_epochs: bool = False) -> Progress:
    """Show a stage one score an epoch; the weights of epoch k are filled with k, and the epochs end if asked."""
    progress = Progress("warmup")
    for epoch, score in enumerate(scores):
        weights = {"w": torch.full((2,), epoch + 1.0)}
        progress.select(stage, score, epoch, weights, torch.eye(2) * score)
        if patience_epochs:
            progress.end_epoch(stage, epoch, stage.epochs)
    return progress


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"loss": torch.nn.CrossEntropyLoss(), "epochs": 1},
            r"must be an ldmi_lightning.losses.Loss.*CrossEntropyLoss",
        ),
        ({"loss": CELoss(), "epochs": 0}, "at least 1, but epochs is 0"),
        ({"loss": CELoss(), "epochs": 1, "patience": 0}, "patience must be at least 1.*got 0"),
        ({"loss": CELoss(), "epochs": 1, "monitor": "val/dmi"}, "monitor and mode go together.*'val/dmi'.*None"),
        ({"loss": CELoss(), "epochs": 1, "mode": "min"}, "monitor and mode go together.*None.*'min'"),
    ],
)
def test_stage_refuses_what_cannot_work_and_names_the_value(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Stage(**arguments)


def test_loss_names_the_monitor_unless_the_stage_does() -> None:
    assert Stage(CELoss(), 1).selected_by == "val/acc"
    assert Stage(DMILoss(), 1).selected_by == "val/log_dmi"
    assert Stage(DMILoss(), 1, monitor="val/acc", mode="max").selected_by == "val/acc"


@pytest.mark.parametrize(
    ("mode", "scores", "best"),
    [
        ("max", [0.1, 0.3, 0.2], 2),
        ("min", [0.3, 0.1, 0.2], 2),
        ("max", [0.3, 0.3, 0.3], 1),
        ("min", [0.3, 0.3, 0.3], 1),
        ("max", [NAN, 0.1, NAN], 2),
        ("min", [NAN, 0.1, NAN], 2),
        ("max", [-1e300, -7.0, -8.0], 2),
    ],
)
def test_best_epoch_is_the_earliest_of_the_best_and_never_nan(mode: Any, scores: list[float], best: int) -> None:
    progress = selected(Stage(CELoss(), 3, monitor="m", mode=mode), *scores)
    assert progress.best_epoch == best
    assert progress.best_score == scores[best - 1]
    assert progress.best_weights is not None
    assert progress.best_weights["w"].tolist() == [best, best]
    assert progress.best_joint is not None
    assert progress.best_joint[0, 0] == torch.tensor(scores[best - 1])


def test_nan_alone_selects_nothing() -> None:
    progress = selected(Stage(CELoss(), 2), NAN, NAN)
    assert progress.best_epoch is None
    assert progress.best_weights is None


def test_select_says_whether_it_was_the_best() -> None:
    stage, progress, weights = Stage(CELoss(), 3), Progress("warmup"), {"w": torch.zeros(1)}
    told = [progress.select(stage, score, 0, weights, torch.eye(2)) for score in (0.1, 0.1, 0.2)]
    assert told == [True, False, True]


def test_best_weights_are_a_snapshot_that_later_training_leaves_alone() -> None:
    progress, weight, joint = Progress("warmup"), torch.nn.Parameter(torch.ones(2)), torch.eye(2)
    progress.select(Stage(CELoss(), 3), 0.1, 0, {"w": weight}, joint)
    with torch.no_grad():
        weight.add_(1)
    assert progress.best_weights is not None
    assert progress.best_weights["w"].tolist() == [1, 1]
    assert not progress.best_weights["w"].requires_grad


def test_stage_is_over_after_its_last_epoch() -> None:
    stage, progress = Stage(CELoss(), 3), Progress("robust", first_epoch=5)
    over = []
    for epoch in (5, 6, 7):
        progress.end_epoch(stage, epoch, stage.epochs)
        over.append((progress.epochs, progress.over))
    assert over == [(1, False), (2, False), (3, True)]


@pytest.mark.parametrize(
    ("scores", "over"),
    [([0.3, 0.2], False), ([0.3, 0.2, 0.3], True), ([0.3, 0.2, 0.4], False), ([NAN, NAN, NAN], False)],
)
def test_patience_counts_epochs_since_the_best(scores: list[float], over: bool) -> None:
    progress = selected(Stage(CELoss(), 9, patience=2), *scores, patience_epochs=True)
    assert progress.over is over


def test_next_stage_begins_anew_and_remembers_the_one_before() -> None:
    first = selected(Stage(CELoss(), 3), 0.1, 0.3, 0.2, patience_epochs=True)
    first.lr = 0.5
    following = first.following("robust", epoch=3)
    assert following.finished == {"warmup": first.summary()}
    assert following.finished["warmup"]["best_epoch"] == 2
    assert following.finished["warmup"]["lr"] == 0.5
    assert following == Progress("robust", first_epoch=3, finished=following.finished)
    assert list(following.following("refine", epoch=6).finished) == ["warmup", "robust"]


def test_best_epoch_counts_from_one_within_its_stage() -> None:
    progress = Progress("robust", first_epoch=5)
    progress.select(Stage(CELoss(), 3), 0.1, 6, {}, torch.eye(2))
    assert progress.best_epoch == 2


def test_progress_survives_a_file_that_may_hold_no_code(tmp_path: Path) -> None:
    before = selected(Stage(CELoss(), 3), 0.1, 0.3, 0.2, patience_epochs=True).following("robust", 3)
    before.select(Stage(CELoss(), 3), 0.4, 3, {"w": torch.arange(2.0)}, torch.eye(2))
    torch.save(before.state_dict(), tmp_path / "progress.pt")
    after = Progress(**torch.load(tmp_path / "progress.pt", weights_only=True))
    assert repr(after) == repr(before)  # == cannot compare tensors within dictionaries
