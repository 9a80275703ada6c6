"""Folds: which rows a run never sees, and that nothing else is different."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ldmi_lightning.benchmarking.cells import content_key
from ldmi_lightning.datamodules import DigitsDataModule, EncodedDataModule, NoisyDataModule
from ldmi_lightning.datamodules.base import Examples
from ldmi_lightning.datamodules.fold_splits import FOLD, hold_out
from ldmi_lightning.datamodules.folds import Fold, deal, fold_of_rows
from ldmi_lightning.datamodules.image_files import ImageFiles
from ldmi_lightning.inputs import in_memory, num_samples
from ldmi_lightning.noise import PairFlipNoise

FOLDS = 3
SPLITS = ("train", "val")


# -- which row is in which fold ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    strata=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    folds=st.integers(2, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_two_folds_differ_by_more_than_a_row_of_a_stratum(strata: list[int], folds: int, seed: int) -> None:
    rows = np.array(strata)
    dealt = deal(rows, folds, seed)
    assert (dealt == deal(rows, folds, seed)).all()
    counts = np.array([np.bincount(rows[dealt == fold], minlength=5) for fold in range(folds)])
    assert np.ptp(counts, axis=0).max() <= 1
    assert np.ptp(counts.sum(axis=1)) <= 1


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=60),
    folds=st.integers(2, 4),
    seed=st.integers(0, 9),
)
def test_rows_of_one_group_are_in_one_fold(rows: list[tuple[int, int]], folds: int, seed: int) -> None:
    strata, groups = np.array(rows).T
    dealt = deal(strata, folds, seed, groups)
    for group in np.unique(groups):
        assert len(set(dealt[groups == group])) == 1


def test_groups_are_spread_by_their_most_common_label() -> None:
    groups = np.repeat(np.arange(40), 5)
    labels = np.repeat(np.arange(4), 50)
    dealt = deal(labels, 5, 0, groups)
    assert [np.bincount(labels[dealt == fold]).tolist() for fold in range(5)] == [[10, 10, 10, 10]] * 5


def of_rows(order: Any, folds: int = FOLDS, seed: int = 0) -> dict[int, int]:
    """Return the fold of each original index; the rows of the splits stand in an order."""
    labels = np.arange(20) % 3
    train, val = np.array(order)[:14], np.array(order)[14:]
    index = {"train": np.sort(train)[np.argsort(train[::-1])], "val": val}
    dealt = fold_of_rows({name: labels[each] for name, each in index.items()}, index, Fold(1, folds, seed))
    return {int(i): int(f) for name in SPLITS for i, f in zip(index[name], dealt[name], strict=True)}


def test_the_order_of_rows_does_not_count_but_the_seed_does() -> None:
    reordered = [*range(13, -1, -1), *range(19, 13, -1)]
    assert of_rows(range(20)) == of_rows(reordered)
    assert of_rows(range(20)) != of_rows(range(20), seed=1)


# -- a datamodule without a fold --------------------------------------------------------------------------------------


def digits(fold: int | None = None, **options: Any) -> NoisyDataModule:
    return held_out(DigitsDataModule(PairFlipNoise(0.3, seed=0)), fold, **options)


def held_out(data: NoisyDataModule, fold: int | None, seed: int = 1, group: str | None = None) -> NoisyDataModule:
    if fold is not None:
        hold_out(data, Fold(fold, FOLDS, seed, group))
    data.prepare_data()
    data.setup("fit")
    data.setup("test")  # which changes nothing
    return data


def rows_in(data: NoisyDataModule, *names: str) -> dict[int, tuple[int, int]]:
    """Return label and true label by original index."""
    found: dict[int, tuple[int, int]] = {}
    for name in names:
        split = data.splits[name]
        columns = (split.original_index.tolist(), split.y.tolist(), split.y_clean.tolist())
        found |= {index: (y, clean) for index, y, clean in zip(*columns, strict=True)}
        assert (num_samples(split.x) if in_memory(split.x) else len(split.x)) == len(split)
    return found


@pytest.fixture(scope="module")
def whole() -> NoisyDataModule:
    return digits()


def test_each_row_is_held_out_once_with_the_label_that_it_has_without_folds(whole: NoisyDataModule) -> None:
    labels, held = rows_in(whole, *SPLITS), dict[int, tuple[int, int]]()
    for fold in range(1, FOLDS + 1):
        data = digits(fold)
        out, rest = rows_in(data, FOLD), rows_in(data, *SPLITS)
        assert out.keys().isdisjoint(rest)
        assert out | rest == labels
        assert rows_in(data, "test") == rows_in(whole, "test")
        assert data.noise_report() == whole.noise_report()
        held |= out
    assert held == labels


def test_inputs_follow_their_labels(whole: NoisyDataModule) -> None:
    pixels = {
        int(index): x
        for name in SPLITS
        for index, x in zip(whole.splits[name].original_index, whole.splits[name].x, strict=True)
    }
    out = digits(2).splits[FOLD]
    assert all(torch.equal(x, pixels[int(index)]) for index, x in zip(out.original_index, out.x, strict=True))


def test_the_fold_is_part_of_what_a_run_is(whole: NoisyDataModule) -> None:
    one, again, two = digits(1).identity(), digits(1).identity(), digits(2).identity()
    assert one == again
    assert (one["fold"], two["fold"]) == ("1/3", "2/3")
    assert one["fold (rows, SHA-256)"] != two["fold (rows, SHA-256)"]
    assert not any(key.startswith("fold") for key in whole.identity())


def test_without_a_fold_the_key_of_a_cell_is_as_it_was() -> None:
    config = {"seed_everything": 1, "data": {"class_path": "DigitsDataModule"}}
    assert content_key({**config, "fold": None, "group": None}) == content_key(config)
    assert content_key({**config, "fold": "1/5"}) != content_key({**config, "fold": "2/5"})


class SomeoneElses(NoisyDataModule):
    """A subclass whose setup does more after that of its base, as one may."""

    def __init__(self) -> None:
        super().__init__(2, ["a", "b"], batch_size=4)

    def load(self) -> Mapping[str, Examples]:
        x = torch.arange(30.0)[:, None]
        y = np.arange(30) % 2
        every = Examples({"a": x, "b": (x + 1, x + 2)}, y, np.arange(30))
        return {"train": every.take(slice(0, 16)), "val": every.take(slice(16, 24)), "test": every.take(slice(24, 30))}

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.splits["val"] = self.splits["val"]


def test_a_subclass_of_ones_own_works_unchanged() -> None:
    data = held_out(SomeoneElses(), 1)
    assert len(data.splits[FOLD]) == 8
    assert rows_in(data, *SPLITS, FOLD).keys() == set(range(24))
    for batch in data.split_dataloader(FOLD):
        index = data.splits[FOLD].original_index[batch.index].float()
        assert torch.equal(batch.x["a"][:, 0], index)
        assert torch.equal(batch.x["b"][1][:, 0], index + 2)


class Files(SomeoneElses):
    """Images that are read from files."""

    def load(self) -> Mapping[str, Examples]:
        files = ImageFiles([f"{i}.png" for i in range(30)], 4, root="somewhere")
        return {name: Examples(files[each.index], each.y, each.index) for name, each in super().load().items()}


def test_files_follow_their_labels() -> None:
    split = held_out(Files(), 2).splits[FOLD]
    assert [split.x.path(i).name for i in range(len(split))] == [f"{i}.png" for i in split.original_index.tolist()]


# -- encoded data -----------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """An encoder that says how many samples it has seen."""

    seen = 0

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Flatten()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        type(self).seen += len(x)
        return self.flat(x)


def encoded(cache: Path, fold: int | None) -> NoisyDataModule:
    data = EncodedDataModule(DigitsDataModule(PairFlipNoise(0.3, seed=0)), Counting(), str(cache))
    return held_out(data, fold)


def test_features_are_computed_once_for_all_folds(tmp_path: Path) -> None:
    whole = encoded(tmp_path, None)
    whole.encode("train", "val")
    features = {
        int(index): x
        for name in SPLITS
        for index, x in zip(whole.splits[name].original_index, whole.splits[name].x, strict=True)
    }
    seen, folders = Counting.seen, sorted(path.name for path in tmp_path.iterdir())
    for fold in (1, 2):
        data = encoded(tmp_path, fold)
        data.encode("train", "val", FOLD)
        out = data.splits[FOLD]
        assert len(out) == len(digits(fold).splits[FOLD])
        assert all(torch.equal(x, features[int(i)]) for i, x in zip(out.original_index, out.x, strict=True))
        assert rows_in(data, *SPLITS, FOLD) == rows_in(whole, *SPLITS)
        assert data.identity()["fold"] == f"{fold}/3"
    assert Counting.seen == seen
    assert sorted(path.name for path in tmp_path.iterdir()) == folders
