"""`ldmi audit --probabilities P.npy --labels L.csv`: anybody's outputs, without PyTorch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_audit_command import inside, rows_of

from ldmi_lightning.audit import audit
from ldmi_lightning.audit.rows import Rows
from ldmi_lightning.commands import main
from ldmi_lightning.commands.audit_arrays import read_labels
from ldmi_lightning.commands.audit_result import Told, finish
from ldmi_lightning.originals import Original, Originals

WITHOUT_TORCH = """
import sys, time
from ldmi_lightning.audit import audit
from ldmi_lightning.audit.rows import Rows
from ldmi_lightning.commands import main
from ldmi_lightning.commands.audit_result import Told, finish
from ldmi_lightning.originals import Originals
try:
    code = main(["audit", "--probabilities", "P.npy", "--labels", "L.csv", *sys.argv[1:]])
except SystemExit as end:
    code = end.code
assert "torch" not in sys.modules and "pytorch_lightning" not in sys.modules, "PyTorch was imported"
sys.exit(code)
"""


def write_arrays(folder: Path, names: str = "abc") -> None:
    random = np.random.RandomState(0)
    true = random.randint(0, 3, 600)
    given = np.where(random.rand(600) < 0.2, (true + 1) % 3, true)
    probs = 0.2 / 3 + 0.8 * np.eye(3)[true]
    np.save(folder / "P.npy", probs.astype(np.float32))
    lines = [f"{i + 5},{names[y]},{names[clean]}" for i, (y, clean) in enumerate(zip(given, true, strict=True))]
    (folder / "L.csv").write_text("\n".join(["index,label,clean", *lines, ""]))


def test_outputs_of_anybodys_model_need_no_pytorch(tmp_path: Path) -> None:
    write_arrays(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "--outputs", "true"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "taken for the classes in alphabetical order: a, b, c" in done.stdout
    summary = json.loads((tmp_path / "audits/P/summary.json").read_text())
    assert summary["truth"]["auroc"] > 0.99
    assert abs(summary["wrong"]["value"] / summary["truth"]["wrong"] - 1) < 0.2
    issues = rows_of(tmp_path / "audits/P/issues.csv")
    assert sorted(int(row["index"]) for row in issues) == list(range(5, 605))


def test_names_and_numbers_say_the_same(tmp_path: Path) -> None:
    found = []
    for number, names in enumerate(("012", "cab")):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_arrays(folder, names)
        with inside(folder):
            named = ["--class_names", ",".join(names)] if number else []
            assert main(["audit", "--probabilities", "P.npy", "--labels", "L.csv", *named, "--threshold", "1"]) == 0
        summary = json.loads((folder / "audits/P/summary.json").read_text())
        assert (summary["outputs"], summary["temperature"], summary["threshold"]) == ("given", None, 1.0)
        found.append({key: summary[key] for key in ("wrong", "transition", "truth", "corrected")})
    assert found[0] == found[1]


def test_help_needs_no_pytorch() -> None:
    code = WITHOUT_TORCH.replace('"--probabilities", "P.npy", "--labels", "L.csv", *sys.argv[1:]', '"--help"')
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--probabilities P.npy" in done.stdout


@pytest.mark.parametrize(("way", "left"), [("folds", True), ("probabilities", False)])
def test_clean_labels_are_left_where_the_model_is_known_not_to_have_seen_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str, left: bool
) -> None:
    y = np.arange(600) % 3
    found = audit(0.03 + 0.91 * np.eye(3)[y], y, outputs="given")
    nothing = Originals(len(y), lambda _: None)
    rows = Rows(np.arange(600), np.full(600, "train"), np.zeros(600, bool), ["a", "b", "c"], nothing, None)
    finish(tmp_path / "audit", found, found, rows, None, Told(["ldmi", "audit"], way, {}, [], "next"))
    assert ("Leave them as they are" in capsys.readouterr().out) == left


@pytest.mark.parametrize(
    ("content", "names", "given"),
    [
        ("label,index\n2.0,7\n0,5.0\n1.00,6\n", None, [2, 0, 1]),  # as tables write whole numbers
        ("index,label\n7,c\n5,a\n6, b \n,\n", None, [2, 0, 1]),
        ("index,label\n7,2\n5,0\n6,b\n", ["a", "b", "c"], [2, 0, 1]),  # positions and names
        ("index,label\n7,7\n5,1\n6,2\n", ["1", "2", "7"], [2, 0, 1]),  # names, and no positions
        ("index,label\n7,'=c\n5,-a\n6,b\n", ["-a", "b", "=c"], [2, 0, 1]),  # as a cell that no spreadsheet runs
    ],
)
def test_labels_are_read_as_a_label_file_of_noise_is(
    tmp_path: Path, content: str, names: list[str] | None, given: list[int]
) -> None:
    (tmp_path / "L.csv").write_text(content)
    labels = read_labels(tmp_path / "L.csv", (3, 3), names)
    assert (labels.given.tolist(), labels.index.tolist()) == (given, [7, 5, 6])


def test_of_a_long_text_the_beginning_is_shown_and_of_a_long_path_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    y = np.arange(60) % 3
    found = audit(0.03 + 0.91 * np.eye(3)[y], y, outputs="given")
    text, path = Original("text", "begins so " + "x" * 90), Original("file", Path("x" * 90) / "ends so.png")
    both = Originals(len(y), lambda row: path if row % 2 else text)
    rows = Rows(np.arange(60), np.full(60, "train"), np.zeros(60, bool), ["a", "b", "c"], both, None)
    finish(tmp_path / "audit", found, found, rows, None, Told(["ldmi", "audit"], "folds", {}, [], "next"))
    shown = capsys.readouterr().out
    assert f"  begins so {'x' * 50}…\n" in shown
    assert f"  …{'x' * 48}/ends so.png\n" in shown


def test_who_stops_reading_is_told_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_arrays(tmp_path)
    reads, writes = os.pipe()
    os.close(reads)
    with inside(tmp_path), os.fdopen(writes, "w") as closed, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", closed)
        assert main(["audit", "--probabilities", "P.npy", "--labels", "L.csv"]) == 0
    assert capsys.readouterr().err == ""
    assert (tmp_path / "audits/P/issues.csv").is_file()
