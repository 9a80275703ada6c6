"""Each mistake with `ldmi predict --input` is one line, and leaves nothing behind."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import new_samples
import numpy as np
import pytest
from new_samples import predict

from ldmi_lightning.datamodules import DigitsDataModule
from ldmi_lightning.datamodules.new_data import NewData
from ldmi_lightning.datamodules.new_files import open_place
from ldmi_lightning.errors import UserError

pytestmark = pytest.mark.usefixtures("hub_of_its_own")
# fixtures
here, digits = new_samples.here, new_samples.digits
flowers, importable = new_samples.flowers, new_samples.importable
texts, sentences = new_samples.texts, new_samples.sentences


def saved(array: Any, **options: Any) -> Callable[[], Path]:
    def write() -> Path:
        np.save("x.npy", array, **options)
        return Path("x.npy")

    return write


def text(name: str, content: str) -> Callable[[], Path]:
    def write() -> Path:
        Path(name).write_text(content)
        return Path(name)

    return write


def empty_folder() -> Path:
    Path("empty/in").mkdir(parents=True)
    Path("empty/a.txt").touch()
    return Path("empty")


MISTAKES: dict[str, tuple[str, Callable[[], Path], str]] = {
    "nowhere": (
        "digits",
        lambda: Path("nowhere"),
        "--input nowhere is not there. Give a folder of images, one image, or an",
    ),
    "empty folder": ("digits", empty_folder, "--input empty holds no image .*, but 1 .txt. Give a folder that does."),
    "a table for images": (
        "digits",
        text("x.csv", "a\n1\n"),
        "--input x.csv is a table, but the run reads images. Give a",
    ),
    "another kind of file": (
        "digits",
        text("x.zip", "a"),
        "--input x.zip is none of the kinds of files that are read. Give a",
    ),
    "floats for images": (
        "digits",
        saved(np.zeros((2, 8, 8))),
        r"reads images of type uint8 and shape \(1, 8, 8\) .* float32",
    ),
    "images of another size": (
        "digits",
        saved(np.zeros((2, 9, 9), np.uint8)),
        r"but got type uint8 and shape \(1, 9, 9\)",
    ),
    "images too bright": ("digits", saved(np.full((2, 8, 8), 17, np.uint8)), "values from 0 to 16, but got 17"),
    "an array of objects": (
        "digits",
        saved(np.array([{}]), allow_pickle=True),
        "cannot be read .it holds Python objects",
    ),
    "no array": ("digits", text("x.npy", "hello"), "--input x.npy cannot be read"),
    "a single number": ("digits", saved(np.array(1.0)), "has shape .., but needs one entry for each sample"),
    "a folder for texts": (
        "texts",
        lambda: Path(),
        "--input . is a folder, but the run reads texts. Give a CSV, TSV",
    ),
    "an array for texts": ("texts", saved(np.zeros(3)), "--input x.npy is an array, but the run reads texts"),
    "no such column": (
        "texts",
        text("x.csv", "a,b\n1,2\n"),
        "--input x.csv has no column text, which the run reads, but a, b.",
    ),
    "a column twice": ("texts", text("x.csv", "text,text\n1,2\n"), "names the column text more than once"),
    "an empty table": ("texts", text("x.csv", ""), "--input x.csv is empty"),
    "rows of another length": ("texts", text("x.csv", "text,b\na,b\na\n"), "--input x.csv, line 3 has 1 cell, but"),
    "another encoding": ("texts", lambda: latin(), "--input x.csv is not UTF-8: the byte 0xe4 in line 2 .*"),
    "open quotation marks": ("texts", text("x.csv", 'text\n"a\n'), "--input x.csv, line 2 cannot be read"),
    "no JSON": ("texts", text("x.jsonl", "hello\n"), "--input x.jsonl cannot be read"),
    "no parquet": ("texts", text("x.parquet", "hello"), "--input x.parquet "),
    "an unknown label": (
        "texts",
        text("x.csv", "text,label\na,maybe\n"),
        "has the label maybe .* classes are no, yes.",
    ),
    "numbers for texts": ("texts", text("x.jsonl", '{"text": 3}\n'), "The run reads texts, one a sample, but got '3'."),
    "too few columns": (
        "flowers",
        text("x.csv", "u,v,label\n1,2,a\n"),
        "has 2 columns beside label, u, v, but the run reads 3",
    ),
    "words for numbers": (
        "flowers",
        text("x.csv", "u,v,w\n1,2,3\n1,x,3\n"),
        "column v holds 'x' in row 1, but the run reads",
    ),
    "wrong width": (
        "flowers",
        saved(np.zeros((4, 5), np.float32)),
        r"shape \(3,\) a sample, but got .* shape \(5,\)",
    ),
    "ids beyond the vocabulary": (
        "sentences",
        saved(np.array([[1, 2, 3, 8], [1, 2, 9, 57]])),
        r"The run's net knows 9 token ids, 0 to 8, but got 57\. Make the ids",
    ),
    "negative ids": ("sentences", saved(np.array([[1, 2, 3, -4]])), "knows 9 token ids, 0 to 8, but got -4"),
    "a folder for numbers": ("flowers", lambda: Path(), "is a folder, but the run reads numbers. Give an array"),
}


def latin() -> Path:
    Path("x.csv").write_bytes("text\nä\n".encode("latin-1"))
    return Path("x.csv")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(
    name: str,
    request: pytest.FixtureRequest,
    importable: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, place, message = MISTAKES[name]
    checkpoint = request.getfixturevalue(run)
    if run == "sentences":  # whose classes must be found as well
        monkeypatch.syspath_prepend(str(checkpoint.parents[2]))
    where = place()
    capsys.readouterr()
    assert predict(checkpoint, where) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1, line
    assert line.startswith("ldmi: error: ")
    assert re.search(message, line), line
    assert not list(Path("out").iterdir())


def test_a_checkpoint_that_says_nothing_of_its_inputs_is_refused() -> None:
    with pytest.raises(UserError, match="does not say what the inputs of DigitsDataModule are like"):
        NewData(DigitsDataModule())


def test_a_folder_within_the_input_that_nobody_may_look_into_names_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("photos/in").mkdir(parents=True)
    seen = os.scandir

    def scandir(path: Path) -> Any:
        if Path(path).name == "in":  # root may look into all of them
            raise PermissionError(13, "Permission denied")
        return seen(path)

    monkeypatch.setattr(os, "scandir", scandir)
    data = DigitsDataModule()
    data.load_state_dict({"inputs": {"x": ["uint8", [1, 8, 8]]}})
    with pytest.raises(UserError, match=r"photos/in cannot be read \(Permission denied\)\. Look at --input\.$"):
        open_place(Path("photos"), data, "images")
