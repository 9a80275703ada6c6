"""Labels from CSV and NPY files: found by original index, refused where they belong to other data, and nothing is run."""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_cases import CLEAN, NOISY, Hostile
from numpy.typing import NDArray

from ldmi_lightning.commands.predict import as_csv
from ldmi_lightning.csv_file import read_numbers
from ldmi_lightning.datamodules import TensorDataModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import LabelFileNoise

pytestmark = pytest.mark.usefixtures("in_own_folder")

INDEX = np.array([7, 3, 12, 0])


def read(path: str, index: NDArray[np.int64] = INDEX, num_classes: int = 3) -> list[int]:
    return LabelFileNoise(path)(CLEAN[: len(index)], num_classes, index=index).tolist()


def refused(path: str, content: str) -> str:
    """Write a file that must be refused, and return the one line that says why."""
    Path(path).write_text(content)
    with pytest.raises(UserError) as raised:
        read(path)
    assert "\n" not in str(raised.value)
    assert f"--data.noise.path {path}" in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    "content",
    [
        "index,label\n0,2\n3,0\n7,2\n12,1\n",
        "index,label\n12,1\n7,2\n0,2\n3,0\n99,0\n",  # any order, and samples of other splits
        "label,index,clean\n2,7,1\n0,3,0\n1,12,2\n2,0,2\n",
        'file,"index","label"\n"a, b",7,2\nx,3,0\nx,12,1\nx,0,2\n',
        "\ufeffindex,label\r\n0,2\r\n3,0\r\n7,2\r\n12,1\r\n",
    ],
)
def test_a_csv_file_is_keyed_by_original_index(content: str) -> None:
    Path("labels.csv").write_text(content, encoding="utf-8")
    assert read("labels.csv") == NOISY


def test_an_npy_file_holds_the_label_of_each_original_index() -> None:
    labels = np.full(20, -1, np.int16)
    labels[INDEX] = NOISY
    np.save("labels.npy", labels)
    assert read("labels.npy") == NOISY


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 2)), min_size=1, max_size=30, unique_by=lambda row: row[0])
)
@settings(deadline=None, max_examples=50, derandomize=True)
def test_each_sample_finds_its_own_label(rows: list[tuple[int, int]]) -> None:
    Path("labels.csv").write_text("index,label\n" + "".join(f"{index},{label}\n" for index, label in rows))
    index = np.array([index for index, _ in rows][::-1])
    noise = LabelFileNoise("labels.csv")
    assert noise(np.zeros_like(index), 3, index=index).tolist() == [label for _, label in rows][::-1]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (
            "index,label\n0,2\n3,0\n7,2\n",
            "no label for 1 of 4 samples, the first of which is original index 12: it holds 3",
        ),
        ("index,label\n0,2\n3,0\n7,2\n12,1\n3,1\n", "original index 3 more than once"),
        ("index,label\n-1,2\n3,0\n7,2\n12,1\n", "the index -1"),
        ("index,label\n0,2\n3,0\n7,5\n12,1\n", r"the label 5 at original index 7, .* 0..2"),
        ("index,label\n0,2\n3,-1\n7,2\n12,1\n", "the label -1 at original index 3"),
        (
            "index,label,clean\n0,2,2\n3,0,1\n7,2,0\n12,1,2\n",
            r"another data set.* at 2 of 4 samples, first at original index 7 \(0 in the file, 1 in the data\)",
        ),
        ("index,label\n0,two\n", "two"),
        ("index,label\n0,2.5\n", "2.5"),
        ("index,label\n0\n", "line 2 has 1 cell, but the first line names 2 columns"),
        ("index:label\n0:2\n", "names no column index"),
        ("index,noisy\n0,2\n", "names no column label"),
        ("0,2\n3,0\n", "names no column index"),
        ("index,label\n", "has no labels"),
        ("", "names no column index"),
    ],
)
def test_a_csv_file_that_does_not_fit_is_refused_with_the_place(content: str, named: str) -> None:
    assert re.search(named, refused("labels.csv", content))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_at_line_ends_alone(end: str) -> None:
    """U+2028, a form feed and the like are part of a text, and a quoted text may hold whole lines."""
    texts = ["one\u2028two", "a\u0085b\x0c\x1cc", '"of, two\r\nlines"', "\u2029"]
    rows = [f"{text},{index},{label}" for text, index, label in zip(texts, INDEX, NOISY, strict=True)]
    Path("labels.csv").write_bytes(end.join(["text,index,label", *rows, ""]).encode())
    assert read("labels.csv") == NOISY


def test_whole_numbers_may_be_written_as_floats() -> None:
    Path("labels.csv").write_text("index,label,clean\n7.0,2.0,1.0\n3.0, 0.0,0.0\n12,1.,2\n0.0,2.00,2.0\n")
    assert read("labels.csv") == NOISY


def test_labels_may_be_class_names() -> None:
    Path("labels.csv").write_text('index,label,clean\n7,"a, b",fox\n3,cat,cat\n12, fox ,"a, b"\n0,2,2\n')
    noise = LabelFileNoise("labels.csv")
    noise.class_names = ["cat", "fox", "a, b"]
    assert noise(CLEAN, 3, index=INDEX).tolist() == NOISY


def test_a_data_set_tells_which_class_names_a_file_may_hold() -> None:
    names = ["cat", "dog"] * 20
    others = [*names[1:], "dog"]
    lines = [f"{index},{name}" for index, name in enumerate(others)]
    Path("labels.csv").write_text("\n".join(["index,label", *lines]))
    data = TensorDataModule(np.zeros((40, 2), np.float32), names, noise=LabelFileNoise("labels.csv"))
    data.setup("fit")
    split = data.splits["train"]
    assert [names[label] for label in split.y.tolist()] == [others[index] for index in split.original_index.tolist()]


@pytest.mark.parametrize(
    ("names", "label", "said"),
    [
        (["cat", "fox", "owl"], "Fox", r"'Fox' at original index 3, which is neither .* class: 'cat', 'fox', 'owl'\.$"),
        (["cat", "fox", "owl"], "2.5", "'2.5' at original index 3, which is neither"),
        (["cat", "fox", "owl"], "nan", "'nan' at original index 3, which is none: write one, or leave the line out"),
        (
            [],
            "fox",
            "'fox' at original index 3, which is no whole number, and nobody has told the names of the classes",
        ),
        (["1", "2", "7"], "1", "called by other ones .1, 2, 7, ….: it is unclear whether 1 is the second class"),
    ],
)
def test_label_that_names_no_class_is_named(names: list[str], label: str, said: str) -> None:
    Path("labels.csv").write_text(f"index,label\n7,0\n3,{label}\n12,0\n0,0\n")
    noise = LabelFileNoise("labels.csv")
    noise.class_names = names
    with pytest.raises(UserError, match=said):
        noise(CLEAN, 3, index=INDEX)


def test_clean_labels_prove_that_numbers_are_positions() -> None:
    Path("labels.csv").write_text("index,label,clean\n7,2,1\n3,0,0\n12,1,2\n0,2,2\n")
    noise = LabelFileNoise("labels.csv")
    noise.class_names = ["1", "2", "7"]
    assert noise(CLEAN, 3, index=INDEX).tolist() == NOISY


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty: its first line names no column index"),
        (b"\r\n  \n", "is empty"),
        (b"index,label\n", "has no labels"),
        (b"index,label,label\n0,1,2\n", "names the column label 2 times"),
        (b"index,label\n0,1\n3,\n", "line 3 has no label"),
        (b"index,label\n0,1\n,2\n", "line 3 has the index '', which is no whole number"),
        (b"index,label\nnan,1\n", "line 2 has the index 'nan', which is no whole number"),
        (b"index,label\n99999999999999999999,1\n", "which is no whole number"),
        (b"text,index,label\na, b,0,1\n", "line 2 has 4 cells, but the first line names 3 columns"),
        (b"index,label\n0,1\n2\n", "line 3 has 1 cell, but the first line names 2 columns"),
        (b'index,label\n0,"1\n2,1\n', "line 2 cannot be read .unexpected end of data.. Put a text"),
        (
            "index,label,text\n0,1,ok\n3,1,Füchse\n".encode("latin-1"),
            "byte 0xfc in line 3 .* probably Latin-1 .which has 'ü' there.: set --data.noise.encoding latin-1, or save it",
        ),
        (
            "index,label\n0,1\n".encode("utf-16"),
            "probably UTF-16: set --data.noise.encoding utf-16, or save it as UTF-8",
        ),
    ],
)
def test_csv_file_that_cannot_be_read_says_what_it_is(content: bytes, said: str) -> None:
    Path("labels.csv").write_bytes(content)
    with pytest.raises(UserError, match=said) as raised:
        LabelFileNoise("labels.csv")
    assert "\n" not in str(raised.value)


@given(
    st.lists(st.tuples(st.integers(0, 2**40), st.integers(-1, 9)), min_size=1, max_size=9, unique_by=lambda row: row[0])
)
@settings(deadline=None, max_examples=30, derandomize=True)
def test_quick_way_through_numbers_gives_what_the_slow_one_does(rows: list[tuple[int, int]]) -> None:
    Path("quick.csv").write_text("index,x,label\n" + "".join(f"{i},{i + 1},{label}\n" for i, label in rows))
    Path("slow.csv").write_text("index,x,label\n" + "".join(f'{i},"",{label}\n' for i, label in rows))
    assert read_numbers(Path("quick.csv"), ["index", "label"]) is not None
    assert read_numbers(Path("slow.csv"), ["index", "label"]) is None
    quick, slow = (LabelFileNoise(name).written for name in ("quick.csv", "slow.csv"))
    assert np.array_equal(quick.index, slow.index)
    assert np.array_equal(quick.label, slow.label)


def test_trailing_commas_and_a_byte_order_mark_change_nothing() -> None:
    Path("labels.csv").write_text("\ufeffindex,label\n7,2,\n3,0,,\n12,1\n0,2\n,,\n", encoding="utf-8")
    assert read("labels.csv") == NOISY


@pytest.mark.parametrize("divider", [";", "\t", "|"])
def test_divider_other_than_a_comma_is_said_once(divider: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["index,label", "7,2", "", "3,0", "12,1", "0,2", ","]
    Path("labels.csv").write_text("\n".join(lines).replace(",", divider))
    noise = LabelFileNoise("labels.csv")
    for _ in range(2):
        assert noise(CLEAN, 3, index=INDEX).tolist() == NOISY
    said = f"--data.noise.path labels.csv: columns are divided by {divider!r}, as its first line shows.\n"
    assert capsys.readouterr().out == said


def test_trailing_cells_that_are_left_out_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    Path("labels.csv").write_text("index,label\n7,2,\n3,0,,\n12,1\n0,2\n")
    assert read("labels.csv") == NOISY
    assert "empty cells at the end of 2 rows, first in line 2, are left out.\n" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "cp1252"])
def test_label_file_is_read_in_the_encoding_that_is_named(encoding: str) -> None:
    Path("labels.csv").write_text("index,label\n7,über\n3,cat\n12,fox\n0,über\n", encoding=encoding)
    noise = LabelFileNoise("labels.csv", encoding)
    noise.class_names = ["cat", "fox", "über"]
    assert noise(CLEAN, 3, index=INDEX).tolist() == NOISY
    with pytest.raises(UserError, match=r"--data\.noise\.encoding latin-9000 is not known"):
        LabelFileNoise("labels.csv", "latin-9000")


def test_class_names_that_a_spreadsheet_would_run_are_read_back_from_predictions() -> None:
    names = ["=cat", "'=fox", "-3"]
    written = as_csv(INDEX, np.eye(3)[NOISY], names)
    assert [line.split(",")[2] for line in written.splitlines()[1:]] == ["-3", "'=cat", "''=fox", "-3"]
    Path("labels.csv").write_text(written.replace("name", "label"), newline="")
    noise = LabelFileNoise("labels.csv")
    noise.class_names = names
    assert noise(CLEAN, 3, index=INDEX).tolist() == NOISY
    noise.class_names = ["=cat", "other", "-3"]
    with pytest.raises(UserError, match="which is neither a whole number nor the name of a class"):
        noise(CLEAN, 3, index=INDEX)


def test_name_that_two_classes_may_mean_is_refused() -> None:
    Path("labels.csv").write_text("index,label\n7,'=a\n3,0\n12,1\n0,2\n")
    noise = LabelFileNoise("labels.csv")
    noise.class_names = ["=a", "'=a", "b"]
    with pytest.raises(UserError, match="original index 7, which is a class, and what is written for the class '=a'"):
        noise(CLEAN, 3, index=INDEX)


def test_other_files_are_refused_without_running_anything() -> None:
    assert "must be a .csv or a .npy file" in refused("labels.txt", "index,label\n")
    assert "cannot be read" in refused("labels.npy", "no array")
    assert "cannot be read" in refused("labels.npy", "")
    np.save("labels.npy", np.array([Hostile()], dtype=object), allow_pickle=True)
    for write in (lambda: None, lambda: Path("labels.npy").write_bytes(pickle.dumps(Hostile()))):
        write()
        with pytest.raises(UserError, match="cannot be read"):
            LabelFileNoise("labels.npy")
    assert not Path("ran").exists()
    Path("labels.csv").write_bytes(b"index,label\n\xff\xfe0,1\n")
    with pytest.raises(UserError, match="is not UTF-8"):
        LabelFileNoise("labels.csv")
    with pytest.raises(UserError, match="is no file"):
        LabelFileNoise("nowhere.csv")


@pytest.mark.parametrize(
    ("array", "named"),
    [
        (np.zeros((3, 2), np.int64), r"shape \(3, 2\) of int64"),
        (np.zeros(13), "float64"),
        (np.full(13, -1), "has no labels"),
        (np.zeros(12, np.int64), "original index 12"),
    ],
)
def test_an_npy_file_of_another_form_is_refused(array: NDArray[Any], named: str) -> None:
    np.save("labels.npy", array)
    with pytest.raises(UserError, match=named):
        read("labels.npy")
