"""`ldmi report` of folders written by hand: any number of classes, mistakes, and what is imported."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_report import Page

from ldmi_lightning.commands import main
from ldmi_lightning.pages.report import report_page
from ldmi_lightning.runs.curves import write_curves
from ldmi_lightning.runs.left import Left


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a run of one stage leaves it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "whole"
    folder.mkdir()
    stage = {
        "loss": "CELoss",
        "epochs": 2,
        "best_epoch": 1,
        "test_acc": 0.5,
        "confusion": [[1, 1], [1, 1]],
        "joint": None,
    }
    (folder / "results.json").write_text(json.dumps({"data": "Mine", "stages": {"warmup": stage}, "chosen": "warmup"}))
    (folder / "config.yaml").write_text("model: {init_args: {warmup: {loss: {class_path: CELoss}}}}\n")
    write_curves([{"epoch": each, "stage": "warmup", "val/acc": 0.5} for each in range(2)], folder / "curves.csv")
    return folder


@pytest.mark.parametrize("classes", [2, 100, 251])
def test_any_number_of_classes_is_drawn(classes: int) -> None:
    matrix = np.eye(classes)
    stage = {"loss": "DMILoss", "test_acc": 1.0, "transition": matrix.tolist(), "transition_error": 0.0}
    large = classes > 250
    matrices = {
        "confusion": None if large else matrix.tolist(),
        "joint": None if large else (matrix / classes).tolist(),
    }
    results = {"stages": {"warmup": None, "robust": {**stage, **matrices}}, "chosen": "robust"}
    page = Page(report_page([Left(Path("run"), results, {}, "", [])], "ldmi report run"))
    assert page.tags.count("svg") == 1 + (0 if large else 3)
    assert ("a pixel is the greatest value of its block" in page.text) == large
    if not large:
        assert f"log |det U| = {-classes * math.log(classes):.4g}" in page.text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "There is no run nowhere: name the folder"),
        (["whole/results.json"], "whole/results.json is a file, but a run is a folder: name "),
        (["empty"], "empty is no run's folder: it has neither results.json nor last.ckpt nor config.yaml."),
        (["."], "it has neither results.json nor last.ckpt nor config.yaml; whole, for example, is one."),
        (["whole", "./whole"], "The run whole is named twice"),
        (["whole", "--output", "empty"], "--output empty is a folder: name a file, such as empty/report.html."),
        (["whole", "--output", "no/page.html"], "--output no/page.html: there is no folder no. Make it"),
        (["whole", "--output", "notes.txt"], "--output notes.txt is there already, and no report"),
        ([], "the following arguments are required: RUN. `ldmi report --help`"),
        (["whole", "--outptu", "a.html"], "unrecognized arguments: --outptu a.html. `ldmi report --help`"),
        (["cut"], "results.json cannot be read ("),
        (["other"], "results.json is no run's: it has no stages."),
        (["words"], "curves.csv is no file of curves ("),
        (["yaml"], "config.yaml cannot be read ("),
    ],
)
def test_a_mistake_gets_one_line(whole: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("notes.txt").write_text("mine")
    for name, file, content in (
        ("cut", "results.json", '{"stages": {'),
        ("other", "results.json", '{"a": 1}'),
        ("words", "curves.csv", "epoch,stage\nten,warmup\n"),
        ("yaml", "config.yaml", "a: [1"),
    ):
        if name in words:
            shutil.copytree(whole, name)
            (Path(name) / file).write_text(content)
    assert main(["report", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ldmi: error: ")
    assert says in line
    assert Path("notes.txt").read_text() == "mine"
    assert not (whole / "report.html").exists()


def test_an_earlier_page_is_replaced_and_that_is_said(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for said in ("Report: whole/report.html\n", "Report, in the place of an earlier one: whole/report.html\n"):
        assert main(["report", "whole"]) == 0
        assert capsys.readouterr().out == said


def test_neither_help_nor_a_report_needs_torch(whole: Path) -> None:
    code = (
        "import sys\nfrom ldmi_lightning.commands import main\ncode = 0\ntry:\n    code = main()\nexcept SystemExit as end:\n"
        "    code = end.code\nprint(code, *sorted({'torch', 'matplotlib', 'pytorch_lightning'} & set(sys.modules)))"
    )
    for words, loaded in ((["report", "--help"], "0"), (["report", "whole"], "0 matplotlib")):
        run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        assert run.stdout.splitlines()[-1] == loaded
