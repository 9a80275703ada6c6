"""`ldmi report`: one page on one run or several, from what real runs of digits leave."""

import contextlib
import io
import json
import re
import shutil
import signal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch

from ldmi_lightning.commands import main
from ldmi_lightning.losses import DMILoss
from ldmi_lightning.runs.curves import read_curves

pytestmark = pytest.mark.usefixtures("in_own_folder")

CONFIG = Path(__file__).parents[1] / "configs/quickstart.yaml"
QUICK = [
    *("fit", "--config", str(CONFIG), "--model.warmup.epochs", "2", "--model.robust.epochs", "2"),
    *("--trainer.enable_progress_bar", "false"),
]
STOPS = """
import pytorch_lightning as pl
class Once(pl.Callback):
    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 3 and trainer.ckpt_path is None:
            raise KeyboardInterrupt
"""


class Page(HTMLParser):
    """The elements of a page, what they name, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "action", "srcset", "data"):
                self.links.append(value or "")
            assert not name.startswith("on"), f"{name} runs a script"

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two runs: ``whole``, with a CSVLogger, and ``resumed``, which Ctrl-C stopped in its fourth epoch, without a logger."""
    root = tmp_path_factory.mktemp("made")
    (root / "stops_once.py").write_text(STOPS)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.syspath_prepend(str(root))
        assert main([*QUICK, "--trainer.default_root_dir", str(root / "one")]) == 0
        stopped = ["--trainer.logger", "false", "--trainer.callbacks", "stops_once.Once"]
        with pytest.raises(SystemExit):
            main([*QUICK, "--trainer.default_root_dir", str(root / "other"), *stopped])
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning has switched Ctrl-C off
        (last,) = (root / "other").glob("*/last.ckpt")
        unfinished = root / "unfinished"
        shutil.copytree(last.parent, unfinished)
        config = str(last.parent / "config.yaml")
        assert main(["fit", "--config", config, "--ckpt_path", str(last)]) == 0
    (whole,) = (root / "one").iterdir()
    return {"whole": whole, "resumed": last.parent, "unfinished": unfinished}


@pytest.fixture
def whole(made: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the run that a test may change; without checkpoints, which no report reads."""
    copied = tmp_path / "whole"
    shutil.copytree(made["whole"], copied, ignore=shutil.ignore_patterns("*.ckpt", "joint"))
    return copied


def report(*words: Path | str) -> str:
    assert main(["report", *map(str, words), "--output", "page.html"]) == 0
    return Path("page.html").read_text()


def change(folder: Path, **changes: Any) -> None:
    path = folder / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# -- what a run leaves ------------------------------------------------------------------------------------------------


def test_curves_are_what_the_loggers_were_told(made: dict[str, Path]) -> None:
    kept = read_curves(made["whole"] / "curves.csv")
    logged = read_curves(made["whole"] / "metrics.csv", ["warmup", "robust"])
    assert [(row["epoch"], row["stage"]) for row in kept] == [
        (0, "warmup"),
        (1, "warmup"),
        (2, "robust"),
        (3, "robust"),
    ]
    for own, theirs in zip(kept, logged, strict=True):
        assert own["stage"] == theirs["stage"]
        assert {"train/loss", "lr", "val/acc", "val/nll", "val/log_dmi"} <= own.keys()
        for name in own.keys() - {"epoch", "stage"}:
            assert own[name] == pytest.approx(theirs[name], rel=1e-5), name


def test_a_stopped_run_has_the_curves_of_its_whole_epochs_and_a_resumed_one_all(made: dict[str, Path]) -> None:
    texts = {name: (folder / "curves.csv").read_text() for name, folder in made.items()}
    assert texts["resumed"] == texts["whole"]
    lines = texts["whole"].splitlines()
    assert len(lines) == 5
    assert [line.split(",")[:2] for line in texts["unfinished"].splitlines()] == [
        line.split(",")[:2] for line in lines[:4]
    ]


def test_a_finished_run_that_is_resumed_writes_what_was_missing(made: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "resumed"
    shutil.copytree(made["resumed"], folder)
    before = {name: (folder / name).read_text() for name in ("curves.csv", "results.json")}
    for name in before:
        (folder / name).unlink()
    assert main(["fit", "--config", str(folder / "config.yaml"), "--ckpt_path", str(folder / "last.ckpt")]) == 0
    assert (folder / "curves.csv").read_text() == before["curves.csv"]
    stages = [json.loads(text)["stages"] for text in (before["results.json"], (folder / "results.json").read_text())]
    assert stages[0] == stages[1]


def test_results_hold_the_confusion_and_u_of_the_selected_epoch(made: dict[str, Path]) -> None:
    found = json.loads((made["whole"] / "results.json").read_text())
    rows = read_curves(made["whole"] / "curves.csv")
    assert found["class_names"] == [str(digit) for digit in range(10)]
    for place, name in enumerate(("warmup", "robust")):
        stage = found["stages"][name]
        confusion, joint = np.array(stage["confusion"]), np.array(stage["joint"])
        assert confusion.sum() == 300
        assert confusion.trace() / confusion.sum() == pytest.approx(stage["test_acc"], abs=1e-6)
        recalls = confusion.diagonal() / confusion.sum(axis=1)
        assert recalls.mean() == pytest.approx(stage["test_balanced_acc"], abs=1e-6)
        best = rows[2 * place + stage["best_epoch"] - 1]
        assert np.linalg.slogdet(joint)[1] == pytest.approx(best["val/log_dmi"], abs=1e-3)
        assert joint.trace() <= joint.sum() == pytest.approx(1, abs=1e-6)


def test_singular_steps_are_counted_by_the_epoch() -> None:
    loss = DMILoss()
    y = torch.tensor([0, 1])
    loss(torch.zeros(2, 2), y, y)  # constant outputs: U has one row twice
    loss(torch.tensor([[9.0, -9.0], [-9.0, 9.0]]), y, y)
    assert loss.epoch_figures() == {"train/singular_steps": 1.0}
    loss.end_epoch()
    assert loss.epoch_figures() == {"train/singular_steps": 0.0}


# -- the page ---------------------------------------------------------------------------------------------------------


def test_a_page_shows_all_of_a_run_and_needs_nothing_else(
    made: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    text = report(made["whole"])
    assert capsys.readouterr().out == "Report: page.html\n"
    page, results = Page(text), json.loads((made["whole"] / "results.json").read_text())
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert len(page.ids) == len(set(page.ids)) > 100
    assert "script" not in page.tags
    assert "default-src 'none'" in text
    robust = results["stages"]["robust"]
    for said in (
        *(made["whole"].name, "DMILoss", "ClassDependentNoise", results["noise"]["sha256"][:12], "val/log_dmi"),
        *(f"{100 * robust['test_acc']:.2f} %", f"error {robust['transition_error']:.3f}", f"torch {torch.__version__}"),
        *("train/loss of warmup: CELoss", "U, before and after", "T beside T̂", "Confusion", "Accuracy of each class"),
        *("class_path: ldmi_lightning.noise.ClassDependentNoise", f"{results['chosen']} is kept to predict"),
    ):
        assert said in page.text, said
    assert page.tags.count("svg") == 4 + 2 + 2 + 2 + 2 + 1, "curves, losses, U, T and T̂, confusions, classes"
    assert text == report(made["whole"]), "the same bytes, ids included"


def test_a_page_is_not_drawn_by_the_users_settings_of_matplotlib(whole: Path) -> None:
    before = report(whole)
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert report(whole) == before


def test_what_the_user_has_named_is_shown_as_it_is(whole: Path) -> None:
    names = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$x^{", "&amp;", "猫", "#010203", "url(#a)"]
    change(whole, class_names=[*names, "a", "b", "c"])
    with (whole / "config.yaml").open("a") as file:
        file.write("# <script>alert(2)</script>\n")
    folder = whole.rename(whole.with_name("<b>run<b>"))
    page = Page(report(folder))
    assert {"script", "img", "b"}.isdisjoint(page.tags)
    for said in (*names, "<script>alert(2)</script>", "<b>run<b>"):
        assert said in page.text, said


def test_runs_stand_side_by_side(made: dict[str, Path], whole: Path) -> None:
    config = (whole / "config.yaml").read_text()
    (whole / "config.yaml").write_text(config.replace("memory: 0.9", "memory: 0.5"))
    noise = json.loads((whole / "results.json").read_text())["noise"]
    change(whole, noise=noise | {"sha256": "0" * 64})
    page = Page(report(made["whole"], whole))
    assert "2 runs" in page.text
    assert "not trained on the same noisy labels" in page.text
    assert page.tags.count("svg") == 4 + 2 + 2 * (2 + 2 + 2) + 1
    differing = re.findall(r"[\w.]+\.memory\s*0.9\s*0.5", page.text)
    assert differing == re.findall(r"model\.\S+\.loss\S*\.memory\s*0.9\s*0.5", page.text) != []
    same = Page(report(made["whole"], made["resumed"]))
    assert "not trained on the same" not in same.text


def test_runs_of_other_classes_are_not_compared_by_class(made: dict[str, Path], whole: Path) -> None:
    change(whole, class_names=list("abcdefghij"))
    page = Page(report(made["whole"], whole))
    assert "not compared, since the runs have not the same classes," in page.text


def test_a_run_that_has_not_ended_is_reported_as_far_as_it_came(
    made: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    page = Page(report(made["unfinished"]))
    printed = capsys.readouterr().out
    folder = made["unfinished"]
    remedy = f"`ldmi fit --config {folder / 'config.yaml'} --ckpt_path {folder / 'last.ckpt'}` resumes it."
    for place in (page.text, printed):
        assert f"The run has not ended: figures of the test set, U and T̂ come with its end. {remedy}" in place
    assert re.search(r"warmup\s*CELoss\s*2\s*–", page.text)
    assert re.search(r"robust\s*DMILoss\s*1\s*–", page.text)
    assert page.tags.count("svg") == 4 + 2


def test_accuracy_on_labels_as_given_stands_beside_that_on_true_ones(whole: Path) -> None:
    assert "true labels" not in Page(report(whole)).text
    stages = json.loads((whole / "results.json").read_text())["stages"]
    stages["robust"] |= {"true_acc": 0.9123, "true_acc_low": 0.88, "true_acc_high": 0.94}
    change(whole, stages=stages)
    text = Page(report(whole)).text
    assert "91.23 % (88.00 % to 94.00 %)" in text
    assert "on the test labels as given, some of which may be wrong" in text


def test_what_an_earlier_version_has_not_kept_is_named(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = json.loads((whole / "results.json").read_text())["stages"]
    older = {
        name: stage and {key: value for key, value in stage.items() if key not in ("confusion", "joint")}
        for name, stage in stages.items()
    }
    change(whole, stages=older)
    (whole / "curves.csv").unlink()
    page = Page(report(whole))
    assert "of an earlier version, without confusion matrices and U. A new run has them." in capsys.readouterr().out
    assert page.tags.count("svg") == 4 + 2 + 2, "curves from metrics.csv, T and T̂"
    (whole / "metrics.csv").unlink()
    assert "There are no curves" in Page(report(whole)).text
