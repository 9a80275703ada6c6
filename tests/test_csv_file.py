"""CSV files: one reader for texts and lists of numbers, and cells that no spreadsheet runs."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldmi_lightning.benchmarking.summary import FIGURES, Row, Spread
from ldmi_lightning.benchmarking.tables import comma_separated
from ldmi_lightning.commands.predict import as_csv
from ldmi_lightning.csv_file import original_text, read_csv, read_numbers, safe_cell
from ldmi_lightning.datamodules.dogs_vs_cats import read_lists
from ldmi_lightning.errors import UserError

BEGIN = "=+-@\t\r"
TEXTS = st.text(st.sampled_from("=+-@\t\r\n'\"., ;|a1e"), max_size=8) | st.text(max_size=8)


def write(folder: Path, content: str) -> Path:
    (folder / "it.csv").write_text(content, newline="")
    return folder / "it.csv"


# -- reading ----------------------------------------------------------------------------------------------------------


def test_empty_lines_and_empty_cells_at_the_end_are_left_out_and_said(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label\n\na,1,\n  \n,,\nb,2, ,\n,\n")
    found = read_csv(path, ["text", "label"])
    assert found.cells == {"text": ["a", "b", ""], "label": ["1", "2", ""]}, "an empty text is a sample"
    assert found.lines == [3, 6, 7]
    assert found.notes == ["it.csv: empty cells at the end of 2 rows, first in line 3, are left out."]
    assert read_csv(path, ["text"], skip_blank=True).lines == [3, 6], "a list of numbers ends with what holds none"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "it.csv is empty: its first line names no column text"),
        (" \r\n", "it.csv is empty"),
        ("text,label\na\n", "line 2 has 1 cell, but the first line names 2 columns"),
        ("text,text\na,b\n", "names the column text 2 times"),
        ('text,label\n"a,1\n', "line 2 cannot be read .unexpected end of data"),
    ],
)
def test_file_at_fault_is_called_by_the_name_that_is_given(tmp_path: Path, content: str, said: str) -> None:
    path = write(tmp_path, content)
    for what, name in ((None, "it.csv"), ("--data.lists it", "--data.lists it")):
        with pytest.raises(UserError, match=said.replace("it.csv", name)) as raised:
            read_csv(path, ["text", "label"], what=what)
        assert str(raised.value).startswith(name)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("option", [None, "--data.encoding"])
def test_encoding_is_named_with_the_option_only_where_there_is_one(tmp_path: Path, option: str | None) -> None:
    path = tmp_path / "it.csv"
    path.write_bytes("text\rcafé\r".encode("latin-1"))
    for read in (read_csv, read_numbers):
        with pytest.raises(UserError, match=r"0xe9 in line 2 .* probably Latin-1 \(which has 'é' there\)") as raised:
            read(path, ["text"], option=option)
        assert ("set --data.encoding latin-1, or save it" in str(raised.value)) == (option is not None)
    with pytest.raises(UserError, match="base64 is not known"):
        read_csv(path, ["text"], "base64")


@pytest.mark.parametrize("encoding", ["ascii", "utf-16"])
def test_utf_8_that_is_read_as_something_else_is_not_called_latin_1(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, "text\ncafé\n")
    with pytest.raises(UserError, match=r"It is UTF-8: leave --data\.encoding out\.$"):
        read_csv(path, ["text"], encoding, option="--data.encoding")
    with pytest.raises(UserError, match=r"It is UTF-8: leave the encoding out\.$"):
        read_csv(path, ["text"], encoding)


@pytest.mark.parametrize("divider", [";", "\t"])
def test_lists_of_dogs_vs_cats_may_be_divided_otherwise(
    tmp_path: Path, divider: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, split in enumerate(("train", "val", "test")):
        (tmp_path / f"{split}.csv").write_text(f"file{divider}index\na,b.jpg{divider}{index}\n{divider}\n")
    assert {name: part.tolist() for name, part in read_lists(tmp_path, 3).items()} == {
        "train": [0],
        "val": [1],
        "test": [2],
    }
    assert f"train.csv: columns are divided by {divider!r}, as its first line shows.\n" in capsys.readouterr().out


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6))
@settings(deadline=None, max_examples=50, derandomize=True)
def test_whatever_is_written_is_read_cell_by_cell(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    found = read_csv(write(tmp_path_factory.mktemp("csv"), text.getvalue()), ["b", "a"])
    assert list(zip(found.cells["a"], found.cells["b"], strict=True)) == rows


# -- writing ----------------------------------------------------------------------------------------------------------


@given(TEXTS)
@settings(deadline=None, max_examples=300, derandomize=True)
def test_safe_cell_begins_as_no_formula_does_and_gives_the_text_back(text: str) -> None:
    cell = safe_cell(text)
    assert original_text(cell) == text
    assert cell in (text, f"'{text}")
    if cell[:1] in tuple(BEGIN):
        float(cell)  # a plain number alone


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
@settings(deadline=None, max_examples=100, derandomize=True)
def test_numbers_stay_as_they_are(number: float) -> None:
    assert safe_cell(f"{number}") == f"{number}"
    assert safe_cell(f"{number:+}") == f"{number:+}"


def test_table_of_a_grid_holds_no_formula() -> None:
    unknown = {figure: Spread(None, None) for figure in FIGURES}
    row = Row("=data", "-noise", -0.5, None, "@method", "", "+Loss", (1,), "", (), unknown, None, ())
    (cells,) = csv.DictReader(io.StringIO(comma_separated([row])))
    assert [cells[name] for name in ("data", "noise", "method", "loss")] == ["'=data", "'-noise", "'@method", "'+Loss"]
    assert cells["rate"] == "-0.5"


def test_predictions_hold_no_formula() -> None:
    lines = as_csv(np.arange(2), np.eye(2), ['=HYPERLINK("a")', "dog"]).splitlines()
    assert [row[2] for row in csv.reader(lines[1:])] == ['\'=HYPERLINK("a")', "dog"]
