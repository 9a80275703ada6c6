"""Folds: rows that stay together, and what cannot be dealt out."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_folds import FOLDS, SPLITS, SomeoneElses, held_out, rows_in

from ldmi_lightning.datamodules import HFDataModule, NoisyDataModule
from ldmi_lightning.datamodules.base import Examples
from ldmi_lightning.datamodules.fold_splits import FOLD, groups_in_column, groups_in_file
from ldmi_lightning.datamodules.folds import Fold
from ldmi_lightning.errors import UserError

# -- groups -----------------------------------------------------------------------------------------------------------


def table(path: Path, persons: list[str]) -> Path:
    lines = [f"text {i},{'ab'[i % 2]},{person}" for i, person in enumerate(persons)]
    path.write_text("\n".join(["text,label,person", *lines]))
    return path


def test_rows_of_one_person_stay_together_by_a_column_or_a_file(tmp_path: Path) -> None:
    persons = [f"p{i // 4}" for i in range(80)]
    source = table(tmp_path / "a.csv", persons)

    def groups_of(group: str) -> list[set[str]]:
        held = []
        for fold in range(1, FOLDS + 1):
            data = held_out(HFDataModule(str(source), text_column="text"), fold, group=group)
            held.append({persons[index] for index in rows_in(data, FOLD)})
            assert held[-1].isdisjoint(persons[index] for index in rows_in(data, *SPLITS))
        return held

    file = tmp_path / "groups.csv"
    file.write_text("\n".join(["index,group", *(f"{i},{person}" for i, person in enumerate(persons))]))
    assert groups_of("person") == groups_of(str(file))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("index,person\n0,a\n", "has no column group"),
        ("index,group\n0,a\n0,b\n", "has the index 0 more than once"),
        ("index,group\nx,a\n", "line 2: index must be a whole number"),
        ("index,group\n0,a\n", "gives no group for 2 of 3 training and validation rows, first for index 1"),
        ("index,group\n0,a\n1,\n2,b\n", "gives no group for 1 of 3"),
    ],
)
def test_a_file_of_groups_that_will_not_do(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "groups.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=said):
        groups_in_file(path, np.arange(3))


def test_numbers_are_names_of_groups(tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    path.write_text("index,group\n2,7\n0,8\n1,7\n5,9\n")
    assert groups_in_file(path, np.arange(3)).tolist() == ["8", "7", "7"]
    assert groups_in_column([7, None, 8], np.array([2, 0]), "person").tolist() == ["8", "7"]


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2", "takes K/N"),
        ("a/b", "takes K/N"),
        ("1/1", "nothing is left to train on"),
        ("0/5", "lies in 1..5"),
        ("6/5", "lies in 1..5"),
    ],
)
def test_a_fold_that_is_none(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Fold.parse(text, 0)


class Few(SomeoneElses):
    """Rows with given labels."""

    def __init__(self, train: list[int], val: list[int], index: NDArray[np.int64] | None = None) -> None:
        super().__init__()
        self.labels, self.index = (train, val), index

    def load(self) -> Mapping[str, Examples]:
        y = np.array([*self.labels[0], *self.labels[1], 0])
        index = np.arange(len(y)) if self.index is None else self.index
        every = Examples(torch.zeros(len(y), 1), y, index)
        ends = [0, len(self.labels[0]), len(y) - 1, len(y)]
        return {name: every.take(slice(*ends[i : i + 2])) for i, name in enumerate(("train", "val", "test"))}


@pytest.mark.parametrize(
    ("data", "group", "said"),
    [
        (Few([0, 0, 0, 0, 1], [0, 1, 1, 1]), None, r"holds all training rows of the class b \(1\)"),
        (Few([0, 1, 0, 1], [0]), None, "holds all 1 validation rows"),
        (Few([0, 1], []), None, "no samples"),
        (Few([0, 1, 0, 1], [0, 1], np.zeros(7, int)), None, "the same original index"),
        (SomeoneElses(), "person", "person is no file, and SomeoneElses no table"),
    ],
)
def test_data_that_cannot_be_dealt_out(data: NoisyDataModule, group: str | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        held_out(data, 1, group=group)


def test_a_group_larger_than_a_fold_and_a_column_that_is_none(tmp_path: Path) -> None:
    source = str(table(tmp_path / "a.csv", ["x"] * 40 + [f"p{i}" for i in range(40)]))
    with pytest.raises(UserError, match=r"x holds \d\d of 72 rows, but one of 3 folds has 24. Divide the group"):
        held_out(HFDataModule(source, text_column="text", test_share=0.1), 1, group="person")
    with pytest.raises(
        UserError, match=r"--group colour is no file, and no column of .*whose columns are text, label, person"
    ):
        held_out(HFDataModule(source, text_column="text"), 1, group="colour")
