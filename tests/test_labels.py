"""Labels as people give them: numbers, names, categories, one-hot; blanks, case, and what stands for nothing."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ldmi_lightning.datamodules import TensorDataModule
from ldmi_lightning.datamodules.class_names import class_indices, cleaned, names_in
from ldmi_lightning.datamodules.labels import given_labels
from ldmi_lightning.errors import UserError

X = np.zeros((12, 2))
SHARES = {"val_share": 0.25, "test_share": 0.25}


def ready(y: Any, **options: Any) -> TensorDataModule:
    data = TensorDataModule(X, y, **{**SHARES, **options})
    data.setup("fit")
    return data


def labels_of(data: TensorDataModule) -> list[str]:
    """Return the name that each sample of ``x`` got, in the order of ``x``."""
    index = torch.cat([split.original_index for split in data.splits.values()])
    y = torch.cat([split.y for split in data.splits.values()])
    return [data.class_names[label] for label in y[index.argsort()].tolist()]


# -- what is taken as it is meant -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "names"),
    [
        (["dog", "cat", "dog"], ["cat", "dog"]),
        (["10", "9", "2"], ["2", "9", "10"]),
        (["02", "01", "02"], ["01", "02"]),
        (["3.0", "1.0", "2"], ["1", "2", "3"]),
        (["1.5", "1.0", "1.5"], ["1.0", "1.5"]),
        ([1.0, 0.0, 2.0], ["0", "1", "2"]),
        ([1, 0, 2], ["0", "1", "2"]),
        (np.array([1, 0, 1], np.uint8), ["0", "1"]),
        (torch.tensor([1, 0, 1]), ["0", "1"]),
        ([True, False, True], ["False", "True"]),
        (pd.Series([1, 0, 1], dtype="Int64"), ["0", "1"]),
        (pd.Series(["b", "a", "b"]), ["a", "b"]),
        (np.array(["b", "a", "b"], object), ["a", "b"]),
        (np.array([b"b", b"a", b"b"]), ["a", "b"]),
        (pd.Categorical(["z", "a", "z"], categories=["z", "a"]), ["z", "a"]),
        (pd.Series(pd.Categorical(["low", "high", "low"], categories=["low", "high"])), ["low", "high"]),
        (pd.Series(pd.Categorical([7, 1, 7], categories=[7, 1])), ["7", "1"]),
    ],
)
def test_classes_are_those_that_the_labels_name_and_each_sample_keeps_its_own(y: Any, names: list[str]) -> None:
    given = given_labels(y, "y")
    assert names_in({"train": given}) == names
    found = [names[place] for place in class_indices(given, names, "y")]
    as_names = {"True": "True", "False": "False"}
    expected = [each.decode() if isinstance(each, bytes) else str(each) for each in list(y)]
    if not isinstance(y, torch.Tensor):
        assert found == [as_names.get(each, each if each in names else each.partition(".")[0]) for each in expected]
    else:
        assert found == ["1", "0", "1"]


def test_labels_of_a_split_reach_its_samples() -> None:
    y = ["cat", "dog", "emu"] * 4
    assert labels_of(ready(y)) == y


@pytest.mark.parametrize(
    ("labels", "class_names", "expected"),
    [
        ([7, 1, 2], ["1", "2", "7"], [2, 0, 1]),
        ([-1, 1, -1], ["-1", "1"], [0, 1, 0]),
        ([1, 0, 1], ["1", "0"], [0, 1, 0]),
        (["1", "0"], ["bad", "good"], [1, 0]),
        (["1", "0"], ["1", "0"], [0, 1]),
        ([1, 0], ["0", "1"], [1, 0]),
    ],
)
def test_numbers_are_positions_unless_classes_are_called_by_other_numbers(
    labels: Any, class_names: list[str], expected: list[int]
) -> None:
    assert class_indices(labels, class_names, "it").tolist() == expected


def test_class_that_no_sample_has_is_refused_also_where_a_categorical_has_it() -> None:
    y = pd.Categorical(["low", "high"] * 6, categories=["low", "middle", "high"])
    with pytest.raises(UserError, match=r"no sample of 1 of its 3 classes \(middle\)"):
        ready(y)


# -- what is refused, in one line that says what to do -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "said"),
    [
        ([1, 2, 7] * 4, r"the numbers 1, 2, 7 .* not 0 to C-1.* class_names \['1', '2', '7'\], or give the labels as str"),
        ([-1, 1] * 6, r"no label for 6 of 12 samples.* label -1 \(sample 0\).* Where -1 is a class, name all in class_names"),
        ([0, 10**8] * 6, r"the numbers 0, 100000000 as labels, which are not 0 to C-1"),
        (list(range(0, 24, 2)), r"the numbers 0, 2, .* … \(12 in all\)"),
        ([0, None] * 6, r"no label for 6 of 12 samples, first the label None \(sample 1\)"),
        (["a", "b", float("nan")] * 4, r"no label for 4 of 12 samples, first the label None \(sample 2\)"),
        (["a", "b", " "] * 4, r"no label for 4 of 12 samples"),
        (pd.Series([0, None, 1] * 4, dtype="Int64"), r"no label for 4 of 12 samples, first the label None \(sample 1\)"),
        (pd.Categorical(["a", None, "b"] * 4), r"no label for 4 of 12"),
        ([None] * 12, r"no label for 12 of 12 samples"),
        (np.eye(3)[[0, 1, 2] * 4], r"shape \(12, 3\).* look one-hot: give y.argmax\(1\)"),
        (np.full((12, 2), 0.5), r"look like shares of the classes: give y.argmax\(1\)"),
        (np.zeros((12, 1), int), r"shape \(12, 1\).* Give y\[:, 0\]"),
        (np.zeros((12, 2), int), r"Choose one label for each sample"),
        ([["a"], ["a", "b"]] * 6, r"several labels for a sample, \['a'\] \(sample 0\)"),
        ([0.5, 1.0] * 6, r"the label 0.5 \(sample 0\).* not measurements or shares"),
        ([0.0, np.inf] * 6, r"the label inf \(sample 1\)"),
        (["a", 3] * 6, r"mixes names with numbers, such as 3 \(sample 1\)"),
        (np.array(["2020-01-01"] * 12, "datetime64[D]"), "neither a whole number nor a name"),
        (["pos", "Pos", "neg"] * 4, r"blanks or case alone: 'pos' and 'Pos'. Set --data.clean_labels true"),
        (["pos", "pos ", "neg"] * 4, r"'pos' and 'pos '"),
        (["a", "nan"] * 6, r"the label 'nan', which looks like no label.*--data.clean_labels true"),
        (["a", "NaN"] * 6, r"the label 'NaN', which looks like no label"),
        (["a", "None"] * 6, r"the label 'None', which looks like no label"),
        (pd.Categorical(["a", "A "] * 6), r"'A ' and 'a'|'a' and 'A '"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_meant_are_refused(y: Any, said: str) -> None:
    begun = time.monotonic()
    with pytest.raises(UserError, match=said) as caught:
        ready(y)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begun < 2  # an id of 10⁸ makes no 10⁸ classes


@pytest.mark.parametrize(
    ("y_test", "said"),
    [
        ([0, 10**8], "y_test has the label 100000000, but y has 0 to 1"),
        ([0, None], r"y_test has no label for 1 of 2 samples, first the label None \(sample 1\)"),
        ([None, None], "y_test has no labels, so there is nothing to test"),
        (["a", "b"], "mix numbers with names"),
    ],
)
def test_labels_of_a_test_set_must_be_those_of_the_training_set(y_test: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        TensorDataModule(X, [0, 1] * 6, X[:2], y_test)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("Pos", "differs from the class 'pos' by blanks or case alone"),
        ("none", "looks like no label"),
        ("x", "nor one of"),
    ],
)
def test_label_that_names_no_class_that_is_given_is_refused_with_the_reason(label: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        class_indices(["pos", label], ["neg", "pos"], "it")


def test_names_that_are_given_may_differ_by_case_and_may_look_like_nothing() -> None:
    assert labels_of(ready(["a", "A", "none"] * 4, class_names=["a", "A", "none"])) == ["a", "A", "none"] * 4


# -- cleaning ---------------------------------------------------------------------------------------------------------


def test_clean_labels_takes_the_most_frequent_spelling_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    y = ["Pos", "pos", "pos ", "pos", "neg", "neg"] * 2
    data = ready(y, clean_labels=True)
    assert data.class_names == ["neg", "pos"]
    assert labels_of(data) == [label.strip().lower() for label in y]
    assert capsys.readouterr().out == "clean_labels: 'Pos' (2) and 'pos ' (2) are taken for 'pos'.\n"


def test_clean_labels_takes_the_spelling_of_the_class_names(capsys: pytest.CaptureFixture[str]) -> None:
    data = ready(["pos", "NEG ", "neg"] * 4, clean_labels=True, class_names=["Pos", "Neg"])
    assert labels_of(data) == ["Pos", "Neg", "Neg"] * 4
    assert "'pos' (4) is taken for 'Pos'" in capsys.readouterr().out


def test_clean_labels_takes_words_for_nothing_as_none_unless_a_class_is_called_so() -> None:
    given = {"train": given_labels(["None", "some", "nan"], "y")}
    parts, notes = cleaned(given, None)
    assert parts["train"].missing.tolist() == [True, False, True]
    assert notes == ["clean_labels: 'None' (1) and 'nan' (1) are taken for no label."]
    parts, _ = cleaned(given, ["None", "some"])
    assert parts["train"].missing.tolist() == [False, False, True]


def test_clean_labels_merges_categories_where_the_first_stands() -> None:
    y = pd.Categorical(["low", "Low", "high"], categories=["Low", "low", "high"])
    parts, _ = cleaned({"train": given_labels(y, "y")}, None)
    assert names_in(parts) == ["Low", "high"]  # of equally frequent ones the first in alphabetical order


def test_clean_labels_leaves_clean_ones_alone_and_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert labels_of(ready(["a", "b"] * 6, clean_labels=True)) == ["a", "b"] * 6
    assert capsys.readouterr().out == ""


# -- few samples ------------------------------------------------------------------------------------------------------


def test_class_of_one_sample_is_trained_on_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    for at in range(12):
        y = np.where(np.arange(12) == at, "rare", np.where(np.arange(12) % 2, "a", "b"))
        data = ready(y)
        assert data.class_counts("train")[2] == 1
        assert capsys.readouterr().out == (
            "Few samples: validation has none of rare (1 in all), by which no epoch is selected; "
            "the test has none of rare (1 in all), which balanced accuracy leaves out.\n"
        )


def test_nothing_is_said_where_every_class_is_in_every_split(capsys: pytest.CaptureFixture[str]) -> None:
    ready(["a", "b"] * 6)
    assert capsys.readouterr().out == ""


Make = Callable[[], TensorDataModule]


# -- inputs -----------------------------------------------------------------------------------------------------------


def test_table_goes_to_the_net_as_floats_and_keeps_the_names_of_its_columns() -> None:
    table = pd.DataFrame({"age": range(12), "paid": [True, False] * 6, "height": np.linspace(1, 2, 12)})
    data = TensorDataModule(table, pd.Series(["a", "b"] * 6), **SHARES)
    data.setup("fit")
    assert data.columns == ["age", "paid", "height"]
    split = data.splits["train"]
    assert split.x.dtype == torch.float32
    np.testing.assert_allclose(split.x, table.to_numpy(np.float32)[split.original_index])


FRAME = pd.DataFrame({"age": range(12), "height": 1.5})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TensorDataModule(FRAME.assign(city="Ulm"), [0, 1] * 6), "hold no numbers: city.*ColumnTransformer"),
        (lambda: TensorDataModule(FRAME.assign(height=[1.0] * 11 + [np.nan]), [0, 1] * 6), r"column height \(sample 11\)"),
        (lambda: TensorDataModule(FRAME, [0, 1] * 6, FRAME[["height", "age"]], [0, 1] * 6), "give x_test.x.columns."),
        (lambda: TensorDataModule(FRAME, pd.Series([0, 1] * 6, index=FRAME.index[::-1])), "in another order: give y.loc"),
        (lambda: TensorDataModule(np.array(["word"] * 12, object), [0, 1] * 6), "type object.* HFDataModule"),
        (lambda: TensorDataModule({"a": X, "b": X[:3]}, [0, 1] * 6), "share their first dimension.*x.a 12, x.b 3"),
    ],
)  # fmt: skip
def test_inputs_that_cannot_be_used_are_refused(make: Make, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


@pytest.mark.parametrize("kind", [dict, tuple])
def test_several_inputs_stay_together_and_each_gets_its_own_transform(kind: type) -> None:
    grey = np.repeat(np.arange(12, dtype=np.uint8), 16).reshape(12, 4, 4)
    parts = {"image": grey, "row": np.arange(24.0).reshape(12, 2), "ids": np.arange(12, dtype=np.int16).reshape(12, 1)}
    data = TensorDataModule(parts if kind is dict else tuple(parts.values()), ["a", "b"] * 6, **SHARES, batch_size=4)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert isinstance(batch.x, kind)
    image, row, ids = batch.x.values() if kind is dict else batch.x
    where = data.splits["train"].original_index[batch.index]
    assert torch.equal(ids, where[:, None])
    assert torch.equal(row[:, 0], 2.0 * where)
    torch.testing.assert_close(image[:, 0, 0, 0], where / 255 * 2 - 1)
