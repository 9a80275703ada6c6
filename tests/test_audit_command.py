"""`ldmi audit`: the three ways, what they write, and that a killed audit is resumed to the same files, byte for byte."""

import contextlib
import csv
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audits import FILES
from stage_runs import configuration

from ldmi_lightning.commands import main
from ldmi_lightning.commands.audit_folds import then
from ldmi_lightning.datamodules import DigitsDataModule
from ldmi_lightning.datamodules.fold_splits import FOLD
from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import LabelFileNoise
from ldmi_lightning.runs.outputs import read
from ldmi_lightning.runs.stage_cache import keys_of

CONFIG = str(Path(__file__).parents[1] / "configs/quickstart.yaml")
SHORT = [
    *("--config", CONFIG, "--model.warmup.epochs", "4", "--model.robust.epochs", "5"),
    *("--trainer.logger", "false", "--trainer.enable_progress_bar", "false"),
]
AUDIT = ["audit", *SHORT, "--folds", "2", "--output", "here"]
FORKS = multiprocessing.get_context("forkserver")
ROWS = 1497


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder, and put back what a command leaves in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.setenv("LDMI_SHARED_STAGES", "")
        yield


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which an audit was left alone, ``here``."""
    folder = tmp_path_factory.mktemp("audited")
    with inside(folder):
        assert main(AUDIT) == 0
    return folder / "here"


def run_of(audit: Path, name: str) -> Path:
    (found,) = audit.glob(f"cells/*{name}*/*/results.json")
    return found.parent


# -- folds ------------------------------------------------------------------------------------------------------------


def test_each_label_is_judged_once_by_a_model_that_never_saw_it(audited: Path) -> None:
    assert sorted(path.name for path in (audited / "audit").iterdir()) == FILES
    issues = rows_of(audited / "audit/issues.csv")
    assert sorted(int(row["index"]) for row in issues) == sorted(held_out_indices(audited))
    assert len(issues) == ROWS
    summary = json.loads((audited / "audit/summary.json").read_text())
    assert (summary["samples"], summary["counted"], summary["seen"], summary["outputs"]) == (ROWS, ROWS, 0, "true")
    assert summary["truth"]["auroc"] > 0.8
    assert summary["made_by"]["folds"] == 2


def held_out_indices(audited: Path) -> list[int]:
    """Return the rows of all folds, each predicted by the stage of L_DMI; what a fold holds, its data says."""
    every: list[int] = []
    for number in (1, 2):
        run = run_of(audited, f"fold-{number}-of-2")
        told = read(run)
        assert (told.stage, told.outputs, list(told.splits)) == ("robust", "true", [FOLD])
        assert np.allclose(told.splits[FOLD].probs.sum(axis=1), 1, atol=1e-5)
        assert f"fold: {number}/2\n" in (run / "config.yaml").read_text()
        every += told.splits[FOLD].index.tolist()
    return every


def test_the_model_of_everything_is_an_ordinary_run(audited: Path) -> None:
    run = run_of(audited, "all-rows")
    assert "fold: null\n" in (run / "config.yaml").read_text()
    assert not (run / "outputs.npz").exists()
    assert not (audited / "stages").exists()


def test_the_corrected_labels_can_be_trained_on(audited: Path) -> None:
    path = audited / "audit/labels.csv"
    data = DigitsDataModule(LabelFileNoise(str(path)))
    data.setup("fit")
    issues = {int(row["index"]): row for row in rows_of(audited / "audit/issues.csv")}
    right = 0
    for name in ("train", "val"):
        split = data.splits[name]
        for index, y, clean in zip(
            split.original_index.tolist(), split.y.tolist(), split.y_clean.tolist(), strict=True
        ):
            row = issues[index]
            assert y in (int(row["given_label"]), int(row["predicted_label"]))
            right += y == clean
    given_right = ROWS - json.loads((audited / "audit/summary.json").read_text())["truth"]["wrong"]
    assert right > given_right
    words = then(
        ["--config", "a.yaml", "--data.noise", "PairFlipNoise", "--data.noise.rate=0.3", "--seed_everything", "2"],
        audited,
    )
    assert words.endswith(
        f"ldmi fit --config a.yaml --seed_everything 2 --data.noise LabelFileNoise --data.noise.path {path}"
    )


def test_the_same_command_again_refuses_what_is_there_and_trains_nothing_twice(
    audited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with inside(audited.parent):
        assert main(AUDIT) == 2
        assert "here/audit is there already" in capsys.readouterr().err
        kept = (audited / "audit").rename(audited / "earlier")
        assert main(AUDIT) == 0
    assert "3 runs, 3 finished, 0 to do" in capsys.readouterr().out
    for name in FILES:
        assert (audited / "audit" / name).read_bytes() == (kept / name).read_bytes(), name


def test_what_is_said_on_the_terminal(audited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with inside(audited.parent):
        (audited / "audit").rename(audited / "third")
        assert main(AUDIT) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    table = lines.index(next(line for line in lines if line.startswith("rank")))
    assert [line.split()[0] for line in lines[table + 1 : table + 11]] == [str(rank) for rank in range(1, 11)]
    advice = json.loads((audited / "audit/summary.json").read_text())["advice"]
    assert advice in out
    assert "True labels are known of 1,497" in out
    assert "Files: here/audit; audit.html shows the worst" in out
    assert "--data.noise LabelFileNoise --data.noise.path here/audit/labels.csv" in out
    assert f"The model that was trained on everything: {run_of(audited, 'all-rows').relative_to(audited.parent)}" in out


# -- killed -----------------------------------------------------------------------------------------------------------


def _carry_out(folder: str) -> None:
    os.chdir(folder)
    log = os.open("log", os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.exit(main(AUDIT))


def kill_when(folder: Path, moment: Any) -> bool:
    """Begin or resume an audit, and kill it with its runs when the moment has come; return whether it did."""
    process = FORKS.Process(target=_carry_out, args=(str(folder),))
    process.start()
    while process.is_alive() and not moment():
        time.sleep(0.02)
    killed = process.is_alive()
    if killed:
        os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    return killed


def same_audits(one: Path, other: Path) -> None:
    for name in FILES:
        assert (one / "audit" / name).read_bytes() == (other / "audit" / name).read_bytes(), name


@pytest.mark.kills
@pytest.mark.slow
def test_a_killed_audit_is_resumed_to_the_same_files(audited: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"

    def in_the_second_fold() -> bool:
        return any(here.glob("cells/*fold-2*/*/last.ckpt"))

    assert kill_when(tmp_path, in_the_second_fold)
    assert not (here / "audit").exists()
    first = run_of(here, "fold-1-of-2")
    trained = (first / "last.ckpt").stat().st_mtime_ns
    with inside(tmp_path):
        assert main(AUDIT) == 0
    same_audits(here, audited)
    assert (run_of(here, "fold-1-of-2"), (first / "last.ckpt").stat().st_mtime_ns) == (first, trained)


@pytest.mark.kills
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_an_audit_that_is_killed_again_and_again(audited: Path, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(4):
        end = time.monotonic() + draw.uniform(1, 25)
        kill_when(tmp_path, lambda end=end: time.monotonic() > end)
    if not (tmp_path / "here/audit").exists():
        with inside(tmp_path):
            assert main(AUDIT) == 0
    same_audits(tmp_path / "here", audited)


# -- ranks ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_folds_on_two_ranks_hold_the_same_rows_once(audited: Path, tmp_path: Path) -> None:
    ranks = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    words = [*AUDIT, *ranks, "--model.warmup.epochs", "1", "--model.robust.epochs", "1"]
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PL_", "LDMI_"))}
    subprocess.run([sys.executable, "-m", "ldmi_lightning", *words], cwd=tmp_path, env=own, check=True)
    for number in (1, 2):
        one, two = (read(run_of(folder, f"fold-{number}-of-2")).splits[FOLD] for folder in (audited, tmp_path / "here"))
        assert len(set(two.index.tolist())) == len(two.index)
        assert np.array_equal(one.index, two.index)
        assert np.array_equal(one.given, two.given)
    assert len(list(tmp_path.rglob("outputs.npz"))) == 2  # written by one rank each
    assert len(rows_of(tmp_path / "here/audit/issues.csv")) == ROWS


# -- a run ------------------------------------------------------------------------------------------------------------


def test_a_run_counts_by_what_was_held_out(audited: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(audited, "all-rows")
    with inside(audited.parent):
        assert main(["audit", str(run), "--output", str(tmp_path / "of-run")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "T̂ and all counts are of the run's 300 validation labels alone" in out
    assert "The 1,197 training labels were seen in training" in out
    summary = json.loads((tmp_path / "of-run/summary.json").read_text())
    assert (summary["samples"], summary["counted"], summary["seen"]) == (ROWS, 300, 1197)
    assert summary["wrong"]["high"] <= 300
    assert summary["truth"]["known"] == 300
    told = read(run)
    assert {name: len(part.index) for name, part in told.splits.items()} == {"train": 1197, "val": 300}


def test_a_run_of_a_fold_is_none_to_audit_by_itself(audited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with inside(audited.parent):
        assert main(["audit", str(run_of(audited, "fold-1-of-2"))]) == 2
    assert "holds out fold 1/2, and says nothing of other rows" in capsys.readouterr().err


def test_a_fold_can_be_tested_and_is_not_resumed_as_another(audited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(audited, "fold-1-of-2")
    with inside(audited.parent):
        assert main(["test", "--ckpt_path", str(run / "robust-best.ckpt")]) == 0
        assert main(["fit", "--ckpt_path", str(run / "last.ckpt"), "--fold", "2/2"]) == 2
    assert "fold is 2/2, but was 1/2" in capsys.readouterr().err
    with inside(audited.parent):
        assert main(["fit", *SHORT, "--group", "person"]) == 2
    assert "--group person keeps rows in one fold, but there are no folds" in capsys.readouterr().err


def test_folds_share_no_finished_stage() -> None:
    data = DigitsDataModule()
    data.setup("fit")
    keys = [
        keys_of({**configuration(), **each}, data) for each in ({}, {"fold": None}, {"fold": "1/5"}, {"fold": "2/5"})
    ]
    assert keys[0] == keys[1]
    assert len({each["warmup"] for each in keys}) == 3


def test_damaged_outputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"outputs.npz cannot be read: there is no such file"):
        read(tmp_path)
    (tmp_path / "outputs.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=r"outputs.npz cannot be read: it is damaged"):
        read(tmp_path)
