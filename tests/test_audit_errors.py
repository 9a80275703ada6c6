"""Mistakes with `ldmi audit`: exit code 2, and one line that says what was wrong, what it got, and what to do."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldmi_lightning.commands import main

ROWS = 12
OWN = ["--data", "HFDataModule", "--data.source", "own.csv", "--data.text_column", "text"]
ARRAYS = ["--probabilities", "P.npy", "--labels", "L.csv"]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the mistakes are made with."""
    folder = tmp_path_factory.mktemp("mistakes")
    right = np.full((ROWS, 3), 0.1) + 0.7 * np.eye(3)[np.arange(ROWS) % 3]
    arrays = {
        "P": right,
        "logits": right * 5,
        "nan": np.where(np.arange(3 * ROWS).reshape(ROWS, 3) == 7, np.nan, right),
        "negative": right + np.array([-0.5, 0.5, 0.0]),
        "flat": right[:, 0],
        "one": np.ones((ROWS, 1)),
        "whole": np.eye(3, dtype=int)[np.arange(ROWS) % 3],
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    np.savez(folder / "P.npz", right)
    begins = (folder / "P.npy").read_bytes()[:128]
    (folder / "huge.npy").write_bytes(begins.replace(b"(12, 3), }" + b" " * 12, b"(12" + b"0" * 12 + b", 3), }"))
    (folder / "text.npy").write_text("0.5,0.5\n")
    (folder / "cut.npy").write_bytes((folder / "P.npy").read_bytes()[:150])
    names = ["abc"[i % 3] for i in range(ROWS)]
    tables: dict[str, tuple[str, list[Any]]] = {
        "L": ("label", names),
        "short": ("label", names[:-1]),
        "other": ("class", names),
        "two": ("label", ["ab"[i % 2] for i in range(ROWS)]),
        "large": ("label", [i % 4 for i in range(ROWS)]),
        "missing": ("label", [i % 2 for i in range(ROWS)]),
        "twice": ("label,index", [f"{name},{i // 2}" for i, name in enumerate(names)]),
        "words": ("label,index", [f"{name},x" for name in names]),
        "own": ("text,label,person", [f"word{i % 7},{'ab'[i % 2]},{'x' if i % 3 else f'p{i}'}" for i in range(60)]),
        "single": ("text,label", [f"word{i % 7},{'rare' if i == 4 else 'ab'[i % 2]}" for i in range(60)]),
        "groups": ("index,group", [f"{i},{i}" for i in range(9)]),
        "blank": ("label,person", ["a,x", ",x", *(f"{name},x" for name in names[2:])]),
        "none": ("label", [*names[:3], "NaN", *names[4:]]),
        "negative": ("label,index", [f"{name},{i - 1}" for i, name in enumerate(names)]),
        "clean": ("label,clean", [f"{name},{'d' if i == 2 else name}" for i, name in enumerate(names)]),
        "quoted": ("label", ["'=a" if i == 5 else "b" for i in range(ROWS)]),
    }
    for name, (head, lines) in tables.items():
        (folder / f"{name}.csv").write_text("\n".join([head, *map(str, lines), ""]))
    for name in ("there", "empty", "bare", "unfinished"):
        (folder / name).mkdir()
    for name in ("bare", "unfinished"):
        (folder / name / "config.yaml").write_text("seed_everything: 1\n")
    (folder / "unfinished" / "last.ckpt").write_bytes(b"")
    (folder / "one-fold.yaml").write_text("fold: 2/5\n")
    return folder


def arrays(probabilities: str = "P", labels: str = "L") -> list[str]:
    return ["--probabilities", f"{probabilities}.npy", "--labels", f"{labels}.csv"]


MISTAKES: dict[str, tuple[list[str], str]] = {
    # which way
    "no way": ([], "Say what to audit: --config FILE, RUN or --probabilities"),
    "a run and outputs": (["there", *ARRAYS], "there and --probabilities are two ways at once: give one"),
    "a run and folds": (["there", "--folds", "5"], "there and --folds are two ways at once"),
    "outputs and a config": ([*ARRAYS, "--config", "a.yaml"], "--probabilities and --config are two ways at once"),
    "outputs and a group": ([*ARRAYS, "--group", "person"], "--probabilities and --group are two ways at once"),
    "outputs without labels": (["--probabilities", "P.npy"], "--probabilities needs --labels L.csv"),
    "labels without outputs": (["--labels", "L.csv"], "--labels needs --probabilities P.npy"),
    "a run and labels": (["there", "--labels", "L.csv"], "--labels belongs to --probabilities P.npy"),
    "the run last": (["--threshold", "0.5", "there"], "a run's folder stands first"),
    "a fold": ([*OWN, "--fold", "1/5"], "--fold is not for `ldmi audit`"),
    "a checkpoint": (["--ckpt_path", "last.ckpt"], "--ckpt_path is not for `ldmi audit`"),
    # numbers
    "one fold": (["--folds", "1"], "--folds must be at least 2, so that something is left to train on, but got 1"),
    "folds that are no number": (["--folds", "five"], "argument --folds: invalid int value: 'five'"),
    "no jobs": (["--folds", "2", "--jobs", "0"], "--jobs must be at least 1, but got 0"),
    "a threshold in percent": ([*ARRAYS, "--threshold", "90"], "--threshold is a probability, in 0..1, but got 90"),
    "a threshold that is none": ([*ARRAYS, "--threshold", "nan"], "--threshold is a probability, in 0..1, but got nan"),
    "unknown outputs": ([*ARRAYS, "--outputs", "noisy"], "argument --outputs: invalid choice: 'noisy'"),
    "an unknown option": (["--fold5", "5"], "--fold5"),
    # a run
    "no such run": (["nowhere"], "There is no run nowhere"),
    "a folder that is no run": (["empty"], "empty is no run's folder: it has no config.yaml"),
    "a run without checkpoints": (["bare"], "bare has no checkpoints"),
    "a run that is not finished": (["unfinished"], "unfinished is not finished: .* ldmi fit --ckpt_path"),
    # outputs
    "an output that exists": ([*ARRAYS, "--output", "there"], "there is there already. Remove or rename it"),
    "no such array": (arrays("nowhere"), "nowhere.npy: there is no such file"),
    "text as an array": (arrays("text"), "text.npy is no .npy file"),
    "a folder as an array": (["--probabilities", "there", *ARRAYS[2:]], "--probabilities there is a folder"),
    "an .npz archive": (
        ["--probabilities", "P.npz", *ARRAYS[2:]],
        "is no .npy file, but an archive, as .npz files are",
    ),
    "a device as an array": (["--probabilities", os.devnull, *ARRAYS[2:]], f"{os.devnull} is no file"),
    "an array larger than memory": (arrays("huge"), "huge.npy does not fit into memory"),
    "an array cut short": (arrays("cut"), "cut.npy is damaged or cut short"),
    "an array of objects": (arrays("objects"), "objects.npy holds Python objects, which are not loaded"),
    "an array of one dimension": (arrays("flat"), r"has the shape \(12,\), but must have \(N, C\)"),
    "an array of one class": (arrays("one", "L"), "two classes|2 classes|are of 1"),
    "decisions as probabilities": (arrays("whole"), "int64"),
    "logits": (arrays("logits"), "sum to"),
    "NaN": (arrays("nan"), "row 2 holds nan"),
    "a negative probability": (arrays("negative"), "holds -0.4"),
    # labels
    "a folder as labels": ([*ARRAYS[:2], "--labels", "there"], "--labels there is a folder. Give a CSV file"),
    "an array as labels": ([*ARRAYS[:2], "--labels", "P.npy"], "P.npy is an .npy file. Give a CSV file"),
    "no such labels": (arrays(labels="nowhere"), "nowhere.csv: there is no such file"),
    "no column of labels": (arrays(labels="other"), "its first line names no column label, but 'class'"),
    "labels of another length": (arrays(labels="short"), "has 11 labels, but there are probabilities of 12 rows"),
    "fewer names than classes": (arrays(labels="two"), r"names 2 classes \(a, b\), but the probabilities are of 3"),
    "a label that is no class": (arrays(labels="large"), "line 5: label '3' is no class. Labels are 0..2"),
    "a class that never occurs": (arrays(labels="missing"), "class"),
    "class names of another number": ([*ARRAYS, "--class_names", "a,b"], "names 2 different classes, but .* of 3"),
    "class names without the labels'": ([*ARRAYS, "--class_names", "x,y,z"], "line 2: label 'a' is no class"),
    "an index twice": (arrays(labels="twice"), "has the index 0 more than once"),
    "an index that is no number": (arrays(labels="words"), "line 2 has the index 'x', which is no whole number from 0"),
    "a negative index": (arrays(labels="negative"), "has the index -1, but an index counts from 0"),
    "a row without a label": (arrays(labels="blank"), "line 3 has no label: write one, or leave the line out"),
    "a label that says that there is none": (
        arrays(labels="none"),
        "line 5: label 'NaN' is none: write one, or leave the row out. If a class is called so, .* --class_names",
    ),
    "a clean label that is no class": (
        arrays(labels="clean"),
        "line 4: clean 'd' is no class. Labels are 0..2 or one of a",
    ),
    "a position where classes are called by numbers": (
        [*arrays(labels="large"), "--class_names", "1,2,3"],
        "line 2: label '0' is no class. Labels are 1, 2, 3",
    ),
    "a label that may mean two classes": (
        [*arrays(labels="quoted"), "--class_names", "=a,'=a,b"],
        "line 7: label .* is a class, and what is written for the class '=a': it is unclear which is meant",
    ),
    "an output below a file": ([*ARRAYS, "--output", "L.csv/out"], "L.csv/out lies below L.csv, which is a file"),
    # folds
    "a config of one fold": (["--config", "one-fold.yaml"], r"is that of one fold \(fold: 2/5\)"),
    "more folds than rows": (["--folds", "5000"], "1497 rows cannot be dealt out to 5000 folds"),
    "an unknown column": (
        [*OWN, "--folds", "2", "--group", "colour"],
        "--group colour is no file, and no column of own.csv",
    ),
    "no table": (["--folds", "2", "--group", "person"], "person is no file, and DigitsDataModule no table"),
    "a group larger than a fold": (
        [*OWN, "--folds", "3", "--group", "person"],
        "--group person: x holds .* rows, but one of 3",
    ),
    "rows without a group": ([*OWN, "--folds", "2", "--group", "groups.csv"], "groups.csv gives no group for"),
    "a class of one sample": (
        [*OWN[:3], "single.csv", *OWN[4:], "--folds", "2"],
        r"Fold \d/2 holds all training rows of the class rare \(1\)",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_has_one_clear_line(
    name: str, room: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, said = MISTAKES[name]
    monkeypatch.chdir(room)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    before = sorted(room.iterdir())
    assert main(["audit", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ldmi: error: ")
    assert re.search(said, line), line
    assert sorted(room.iterdir()) == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="takes a file of /proc that nobody can read")
@pytest.mark.parametrize("option", ["--probabilities", "--labels"])
def test_what_cannot_be_read_is_named(
    option: str, room: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(room)
    assert main(["audit", *ARRAYS, option, "/proc/self/mem"]) == 2
    assert f"{option} /proc/self/mem cannot be read (Input/output error). " in capsys.readouterr().err
