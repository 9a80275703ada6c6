"""Votes on their way: from a file through every kind of data to batches, to what a stage is prepared with, and to the screen."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import photographs
import pytest
import pytorch_lightning as pl
import torch
from blobs import Blobs, ce
from conftest import MakeTrainer
from features import encoded, numbers
from numpy.typing import NDArray
from photographs import files, loader
from PIL import Image
from torch import nn

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.batch import Batch
from ldmi_lightning.commands import main
from ldmi_lightning.commands.noise_run import write_posterior
from ldmi_lightning.crowds import majority_vote
from ldmi_lightning.datamodules import HFDataModule, ImageFolderDataModule, TensorDataModule
from ldmi_lightning.datamodules.fold_splits import hold_out
from ldmi_lightning.datamodules.folds import Fold
from ldmi_lightning.datamodules.loaders import ResidentLoader, Split
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import CELoss
from ldmi_lightning.method import Predictions
from ldmi_lightning.noise import CrowdLabels
from ldmi_lightning.training.predictions import predict_split

pytestmark = pytest.mark.usefixtures("in_own_folder")
folder = photographs.folder  # a fixture


def draw(items: int, num_classes: int = 2, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw true classes and the votes of four people, some of which are missing; the first gives one on each item."""
    random = np.random.default_rng(seed)
    true = np.arange(items) % num_classes
    votes = np.where(random.random((items, 4)) < 0.7, true[:, None], random.integers(num_classes, size=(items, 4)))
    votes[random.random((items, 4)) < [0, 0.3, 0.3, 0.3]] = -1
    return true, votes


TRUE, VOTES = draw(200)


def tables(**options: Any) -> TensorDataModule:
    options = {"noise": CrowdLabels(VOTES), "batch_size": 32, **options}
    return TensorDataModule(numbers(n=200), TRUE, **options)


def check(batches: Any, split: Split, votes: NDArray[np.int64] = VOTES) -> int:
    """Compare each batch's votes with those of its samples' original indices; return how many samples there are."""
    seen = 0
    for batch in batches:
        expected = votes[split.original_index[batch.index.cpu()].numpy()]
        np.testing.assert_array_equal(batch.votes, expected)
        np.testing.assert_array_equal(batch.y, split.y[batch.index])
        seen += len(batch.y)
    return seen


# -- batches ----------------------------------------------------------------------------------------------------------


def test_training_and_validation_batches_hold_votes_and_labels_that_they_come_to() -> None:
    data = tables()
    data.setup("fit")
    assert check(data.train_dataloader(), data.splits["train"]) == 160
    assert check(data.val_dataloader(), data.splits["val"]) == 20
    assert check(data.train_eval_dataloader(50), data.splits["train"]) == 50
    data.views = 2
    (batch, *_) = data.train_dataloader()
    assert batch.second_view is not None
    check([batch], data.splits["train"])
    expected = majority_vote(VOTES, 2).labels
    for name in ("train", "val"):
        index = data.splits[name].original_index.numpy()
        np.testing.assert_array_equal(data.splits[name].y, expected[index])
        np.testing.assert_array_equal(data.splits[name].y_clean, TRUE[index])
    for batch in data.test_dataloader():
        assert batch.votes is None
        np.testing.assert_array_equal(batch.y, batch.y_clean)


def test_data_without_votes_has_none() -> None:
    data = tables(noise=None)
    data.setup("fit")
    assert all(batch.votes is None for batch in data.train_dataloader())
    assert data.splits["train"].votes is None
    assert "votes" not in data.noise_report()


def test_streamed_batches_hold_votes(folder: Path) -> None:
    images = files(folder)
    batches = loader(images)
    votes = torch.arange(2 * len(images)).view(-1, 2)
    batches.split.votes = votes
    for batch in batches:
        assert torch.equal(batch.votes, votes[batch.index])


@pytest.mark.parametrize("passes", [0, 2])
def test_encoded_features_keep_the_votes(tmp_path: Path, passes: int) -> None:
    true, votes = draw(200)
    inner = TensorDataModule(numbers(n=200), true, batch_size=50, augmentation=nn.Dropout(0.1))
    data = encoded(tmp_path, data=inner, noise=CrowdLabels(votes), passes=passes)
    assert check(data.train_dataloader(), data.splits["train"]) == 150
    assert check(data.val_dataloader(), data.splits["val"]) == 20
    assert data.identity()["data.noise (sha256)"] == data.noise_report()["sha256"]


def test_votes_move_with_their_split() -> None:
    split = Split(torch.zeros(3, 2), *[torch.arange(3)] * 3, votes=torch.ones(3, 2, dtype=torch.int64))
    assert split.to(torch.device("meta")).votes.device.type == "meta"  # type: ignore[union-attr]
    assert ResidentLoader(split, 2, nn.Identity()).split.votes is not None


def test_a_fold_takes_its_votes_along() -> None:
    data = tables()
    hold_out(data, Fold(1, 3, seed=0))
    data.setup("fit")
    assert check(data.split_dataloader("fold"), data.splits["fold"]) == 60
    assert check(data.split_dataloader("train"), data.splits["train"]) + len(data.splits["val"]) == 120


class OneVoted(TensorDataModule):
    """Data whose validation labels were made by hand, as Clothing1M's are."""

    noisy_splits = ("train",)


def test_a_fold_of_data_of_which_one_split_has_votes_has_none_for_the_rest() -> None:
    data = OneVoted(numbers(n=200), TRUE, noise=CrowdLabels(VOTES), batch_size=32)
    data.setup("fit")
    by_hand = data.splits["val"].original_index
    assert data.splits["val"].votes is None
    hold_out(data, Fold(1, 3, seed=0))
    data.leave_out()
    fold = data.splits["fold"]
    assert fold.votes is not None
    none = (fold.votes == -1).all(dim=1)
    assert torch.equal(none, torch.isin(fold.original_index, by_hand))
    assert 0 < int(none.sum()) < len(fold)


# -- what samples are called, and which have votes -----------------------------------------------------------------------


def test_images_are_found_by_their_paths_below_the_root(tmp_path: Path) -> None:
    lines = ["item,annotator,label"]
    for place, name in enumerate(["cat", "dog"] * 15):
        path = tmp_path / "shots" / name / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), place * 8).save(path)
        lines += [f"{name}/{place}.png,al,dog", f"{name}/{place}.png,bo,dog", f"{name}/{place}.png,cy,{name}"]
    (tmp_path / "votes.csv").write_text("\n".join(lines))
    data = ImageFolderDataModule("shots", 4, noise=CrowdLabels("votes.csv"), batch_size=8)
    data.setup("fit")
    for name in ("train", "val"):
        split = data.splits[name]
        assert split.votes is not None
        assert split.y.unique().tolist() == [1]
        assert torch.equal(split.votes[:, 2], split.y_clean)


def test_rows_of_a_table_are_found_by_a_column(hub_of_its_own: None, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(f"text {row} of {'good' if row % 2 else 'bad'}", row % 2, 1000 + 3 * row) for row in range(60)]
    Path("texts.csv").write_text("text,label,id\n" + "".join(f"{text},{label},{id_}\n" for text, label, id_ in rows))
    Path("votes.csv").write_text(
        "item,annotator,label\n" + "".join(f"{id_},al,{1 - label}\n" for _, label, id_ in rows[::-1]) + "7,al,0\n"
    )
    options = {"text_column": "text", "label_column": "label", "batch_size": 8}
    data = HFDataModule("texts.csv", noise=CrowdLabels("votes.csv", item_column="id"), **options)  # type: ignore[arg-type]
    data.setup("fit")
    split = data.splits["train"]
    assert torch.equal(split.y, 1 - split.y_clean)
    assert "the data has no sample of 1 of 61 items, first '7'" in capsys.readouterr().out
    lacking = HFDataModule("texts.csv", noise=CrowdLabels("votes.csv", item_column="key"), **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"--data.noise.item_column key is no file, and no column of texts.csv"):
        lacking.setup("fit")


def test_data_that_is_no_table_has_no_column_of_items() -> None:
    Path("votes.csv").write_text("item,annotator,label\n0,al,1\n")
    with pytest.raises(UserError, match=r"--data.noise.item_column id: TensorDataModule is no table"):
        tables(noise=CrowdLabels("votes.csv", item_column="id")).setup("fit")


def test_samples_without_a_vote_are_refused_or_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    votes = VOTES.copy()
    votes[::5] = -1
    with pytest.raises(UserError, match=r"no vote on \d+ of 160 samples, the first of which is original index"):
        tables(noise=CrowdLabels(votes)).setup("fit")
    data = tables(noise=CrowdLabels(votes, unvoted="drop"))
    data.setup("fit")
    sizes = {name: len(split) for name, split in data.splits.items()}
    assert sizes["test"] == 20
    assert sizes["train"] == check(data.split_dataloader("train"), data.splits["train"], votes) < 160
    out = capsys.readouterr().out
    assert f"CrowdLabels: {160 - sizes['train']} of 160 train samples have no label and are left out." in out
    votes[:] = -1
    votes[data.splits["test"].original_index[0]] = 1
    with pytest.raises(UserError, match="No sample of the train split has a label"):
        tables(noise=CrowdLabels(votes, unvoted="drop")).setup("fit")


def test_labels_of_the_datas_own_are_true_unless_they_are_unknown() -> None:
    data = tables(noise=CrowdLabels(VOTES, own_labels="unknown"))
    data.setup("fit")
    assert data.splits["train"].y_clean.unique().tolist() == [-1]
    assert data.noise_report()["train_rate"] is None
    np.testing.assert_array_equal(data.splits["test"].y, TRUE[data.splits["test"].original_index])


def test_votes_may_be_all_that_there_is() -> None:
    data = TensorDataModule({"a": numbers(n=200)}, None, class_names=["1", "7"], noise=CrowdLabels(VOTES))
    data.setup("fit")
    expected = majority_vote(VOTES, 2).labels
    for split in data.splits.values():
        np.testing.assert_array_equal(split.y, expected[split.original_index.numpy()])
    assert data.splits["train"].y_clean.unique().tolist() == [-1]
    assert check(data.val_dataloader(), data.splits["val"]) == 20
    for options in ({"class_names": ["1", "7"]}, {"noise": CrowdLabels(VOTES)}):
        with pytest.raises(UserError, match="y=None takes labels from votes"):
            TensorDataModule(numbers(n=200), None, **options)  # type: ignore[arg-type]


# -- stages, resume and commands --------------------------------------------------------------------------------------


class Remembers(CELoss):
    """Keeps what it was prepared with."""

    needs_predictions = True
    given: tuple[Predictions, Predictions]

    def prepare(self, train: Predictions, held_out: Predictions) -> None:
        self.given = train, held_out


def module(loss: CELoss) -> LDMIModule:
    pl.seed_everything(1, verbose=False)
    return LDMIModule(nn.Linear(5, 2), 2, ce(1), Stage(loss, 1))


def test_a_stage_is_prepared_with_votes_and_a_resumed_run_refuses_others(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    pl.seed_everything(1, verbose=False)
    data, loss = tables(), Remembers()
    make_trainer(default_root_dir=tmp_path / "runs").fit(module(loss), data)
    for told, name in zip(loss.given, ("train", "val"), strict=True):
        assert told.index.tolist() == list(range(len(data.splits[name])))
        assert told.votes is not None
        assert told.votes.dtype == torch.int64
        np.testing.assert_array_equal(told.votes, VOTES[data.splits[name].original_index])
        assert len(told.probs) == len(told.votes)
    others = np.concatenate([VOTES, VOTES[:, :1] * 0 - 1], axis=1)  # one more person, who gave no vote: equal labels
    other = tables(noise=CrowdLabels(others))
    other.setup("fit")
    assert torch.equal(other.splits["train"].y, data.splits["train"].y)
    (last,) = tmp_path.glob("runs/*/last.ckpt")
    with pytest.raises(UserError, match=r"data.noise \(sha256\)"):
        make_trainer(default_root_dir=tmp_path / "runs").fit(module(Remembers()), other, ckpt_path=last)


def test_data_without_votes_prepares_a_stage_without(make_trainer: MakeTrainer) -> None:
    loss = Remembers()
    pl.seed_everything(1, verbose=False)
    make_trainer().fit(LDMIModule(nn.Linear(3, 3), 3, ce(1), Stage(loss, 1)), Blobs())
    assert loss.given[0].votes is None


def test_batches_of_which_some_have_votes_are_refused(make_trainer: MakeTrainer) -> None:
    trained = module(CELoss())
    make_trainer().fit(trained, tables())
    rows = torch.arange(3)
    some = [Batch(torch.zeros(3, 5), rows, rows, rows, votes=votes) for votes in (None, rows[:, None])]
    with pytest.raises(UserError, match="Some batches of a split have votes, but not all alike"):
        predict_split(trained, some)


@pytest.fixture
def votes_csv() -> str:
    """Votes of two people on the digits: one names their true class, the other the next one on each fourth."""
    from sklearn.datasets import load_digits

    true = load_digits().target
    lines = [f"{item},al,{label}\n{item},bo,{(label + (item % 4 == 0)) % 10}\n" for item, label in enumerate(true)]
    Path("votes.csv").write_text("item,annotator,label\n" + "".join(lines))
    return "votes.csv"


def test_ldmi_noise_says_what_the_votes_are_and_writes_what_they_come_to(
    votes_csv: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data.noise", "CrowdLabels", "--data.noise.file", votes_csv]
    assert main(["noise", *given, "--output", "out"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "CrowdLabels(file='votes.csv')" in shown
    assert (
        "Votes: 2 annotators gave 3,594 on 1,797 items, 2 each; of two votes on one item 75.0% agree; labels are by majority, "
        "and 450 ties (25.0% of the items) are decided by lot." in shown
    )
    assert "Probability of each class by the votes: out/posterior.npz" in shown
    written = np.load("out/posterior.npz")
    labels = np.loadtxt("out/labels.csv", np.int64, delimiter=",", skiprows=1)
    np.testing.assert_array_equal(written["index"], labels[:, 0])
    np.testing.assert_allclose(written["posterior"].sum(axis=1), 1)
    assert (written["posterior"][np.arange(len(labels)), labels[:, 1]] >= 0.5).all()
    assert not write_posterior(tables(noise=None), Path("out/posterior.npz"))
    assert not Path("out/posterior.npz").exists(), "it is that of other labels"


def test_mistakes_in_votes_are_one_line(votes_csv: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Path(votes_csv).open("a") as file:
        file.write("5,al,9\n")
    assert main(["noise", "--data.noise", "CrowdLabels", "--data.noise.file", votes_csv]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(r"--data.noise.file votes.csv, lines 12 and 3596 are two votes of 'al' on the item '5'", line)
