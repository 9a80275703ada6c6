"""`ldmi audit --probabilities P.npy --labels L.csv`: anybody's outputs, without PyTorch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_audit_command import inside, rows_of

from ldmi_lightning.audit import audit
from ldmi_lightning.audit.rows import Rows
from ldmi_lightning.commands import main
from ldmi_lightning.commands.audit_result import Told, finish
from ldmi_lightning.originals import Originals

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
