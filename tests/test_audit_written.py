"""What an audit writes: every file read back by what it is made for, whole or not at all, the same bytes each time."""

import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from audits import FILES, estimate, judged, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from ldmi_lightning.audit import tables
from ldmi_lightning.audit.audit import Audit, corrected
from ldmi_lightning.audit.label_studio import task
from ldmi_lightning.audit.rows import Rows
from ldmi_lightning.audit.tables import doubtful, to_review
from ldmi_lightning.audit.written import write_audit
from ldmi_lightning.csv_file import original_text, read_csv, safe_cell
from ldmi_lightning.datamodules import TensorDataModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import LabelFileNoise
from ldmi_lightning.originals import Original

FORMULAS = ["=1+1", "+b", "-c", "@d"]


# Right and sure; wrong and sure; wrong and not sure; right and not sure.
FOUR_POSTERIORS = [[0.99, 0.01, 0.0], [0.05, 0.95, 0.0], [0.3, 0.25, 0.45], [0.2, 0.45, 0.35]]
FOUR = judged([0, 0, 1, 1], FOUR_POSTERIORS)
TEXTS = ['a "good" film, told well', "=1+1", "two\nlines", "<b>ü</b>"]


def written(folder: Path, found: Audit = FOUR, rows: Rows | None = None, threshold: float = 0.9, **head: Any) -> Path:
    rows = rows or rows_of(found, ["cat", "dog", "=cow"], [Original("text", text) for text in TEXTS])
    write_audit(folder / "audit", found, rows, threshold=threshold, head={"truth": None, "advice": "Leave it.", **head})
    return folder / "audit"


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# -- issues.csv and review.csv ----------------------------------------------------------------------------------------


def test_every_label_is_listed_the_worst_first(tmp_path: Path) -> None:
    found = table(written(tmp_path) / "issues.csv")
    assert found[0] == {
        **{"rank": "1", "index": "1", "split": "train", "original": "'=1+1", "seen": "False"},
        **{"given_label": "0", "given_name": "cat", "predicted_label": "1", "predicted_name": "dog"},
        **{"label_quality": "0.05", "confidence": "0.95", "is_label_issue": "True"},
    }
    assert [(row["rank"], row["index"], row["label_quality"]) for row in found] == [
        *(("1", "1", "0.05"), ("2", "2", "0.25"), ("3", "3", "0.45"), ("4", "0", "0.99")),
    ]
    assert found[1]["predicted_name"] == "'=cow"


def test_texts_are_read_back_as_they_were(tmp_path: Path) -> None:
    path = written(tmp_path) / "issues.csv"
    cells = read_csv(path, ["index", "original"]).cells
    assert {int(index): original_text(cell) for index, cell in zip(*cells.values(), strict=True)} == dict(
        enumerate(TEXTS)
    )


def test_classes_without_names_and_true_labels_have_columns_of_their_own(tmp_path: Path) -> None:
    found = table(written(tmp_path, rows=rows_of(FOUR, list("012"), true=np.array([0, 1, -1, 1]))) / "issues.csv")
    assert [row["true_label"] for row in found] == ["1", "-1", "1", "0"]
    assert "given_name" not in found[0]
    assert {row["original"] for row in found} == {""}


def test_to_look_at_are_the_doubtful_that_were_not_corrected(tmp_path: Path) -> None:
    folder = written(tmp_path)  # the second is corrected; of the fourth the label is likely, and more likely wrong
    assert [row["index"] for row in table(folder / "review.csv")] == ["2", "3"]
    assert [row["rank"] for row in table(folder / "review.csv")] == ["2", "3"]
    assert (folder / "review.csv").read_text().splitlines()[0] == (folder / "issues.csv").read_text().splitlines()[0]


@given(seed=st.integers(0, 99), threshold=st.floats(0.5, 1), classes=st.integers(2, 4))
@settings(max_examples=20, deadline=None)
def test_a_doubtful_label_is_corrected_or_looked_at(seed: int, threshold: float, classes: int) -> None:
    rng = np.random.RandomState(seed)
    found = judged(rng.randint(classes, size=50).tolist(), rng.dirichlet([0.5] * classes, 50).tolist())
    labels = corrected(found, threshold)
    changed, review = labels != found.given, to_review(found, labels)
    assert not (changed & review).any()
    np.testing.assert_array_equal(changed | review, doubtful(found))
    np.testing.assert_array_equal(changed, (found.suggested != found.given) & (found.confidence >= threshold))


def test_rows_are_made_a_part_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (written(tmp_path / "whole") / "issues.csv").read_bytes()
    monkeypatch.setattr(tables, "CHUNK", 3)
    assert (written(tmp_path / "parts") / "issues.csv").read_bytes() == whole


@given(texts=st.lists(st.text(), min_size=2, max_size=4))
@settings(max_examples=50, deadline=None)
def test_a_cell_is_written_as_by_pythons_own_writer(texts: list[str]) -> None:
    own = io.StringIO(newline="")
    csv.writer(own).writerow(map(safe_cell, texts))
    assert ",".join(map(tables.csv_cell, texts)) + "\r\n" == own.getvalue()


def test_nothing_to_look_at_leaves_the_names_of_the_columns(tmp_path: Path) -> None:
    sure = judged([0, 1], [[1.0, 0.0], [0.0, 1.0]])
    folder = written(tmp_path, sure, rows_of(sure, ["a", "b"]))
    assert len((folder / "review.csv").read_text().splitlines()) == 1
    assert json.loads((folder / "label_studio.json").read_text()) == []


# -- labels.csv -------------------------------------------------------------------------------------------------------


EIGHT = judged(
    [0, 0, 1, 1, 2, 2, 3, 3],
    [[0.1, 0.9, 0, 0], [1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0.4, 0.6, 0], *np.eye(4)[[2, 3, 3, 0]].tolist()],
)
CORRECTED = [1, 0, 1, 1, 2, 3, 3, 0]  # the fourth is not sure enough


@pytest.mark.parametrize("names", [FORMULAS, ["0", "1", "2", "3"], ["a,b", 'say "c"', "<script>", "ü"], list("5432")])
def test_clean_labels_are_read_by_a_run(tmp_path: Path, names: list[str]) -> None:
    rows = rows_of(EIGHT, names, index=np.arange(8)[::-1].copy())
    path = written(tmp_path, EIGHT, rows, threshold=0.8) / "labels.csv"
    assert [int(row["index"]) for row in table(path)] == list(range(8))
    data = TensorDataModule(
        *(torch.zeros(8, 2), [names[label] for label in EIGHT.given[::-1]], torch.zeros(4, 2), names),
        class_names=names,
        noise=LabelFileNoise(str(path)),
        batch_size=2,
        val_share=0.5,
    )
    data.setup("fit")
    found = {}
    for split in (data.splits["train"], data.splits["val"]):
        found |= dict(zip(split.original_index.tolist(), split.y.tolist(), strict=True))
    assert [found[index] for index in range(8)] == CORRECTED[::-1]


def test_the_true_labels_prove_what_a_number_means(tmp_path: Path) -> None:
    true = np.array([1, 0, 1, 1, 2, 3, 3, 0])
    rows = rows_of(EIGHT, list("5432"), true=true)
    path = written(tmp_path, EIGHT, rows, threshold=0.8) / "labels.csv"
    noise = LabelFileNoise(str(path))
    noise.class_names = rows.class_names
    assert noise(true, 4, index=np.arange(8)).tolist() == CORRECTED
    with pytest.raises(UserError, match="of another data set"):
        noise(true[::-1], 4, index=np.arange(8))


# -- summary.json -----------------------------------------------------------------------------------------------------


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} in JSON")


def test_the_summary_holds_every_figure_and_no_nan(tmp_path: Path) -> None:
    found = judged([0, 0, 1, 1], FOUR_POSTERIORS, outputs="given")
    found = replace(found, wrong_by_class=estimate([0.96, np.nan, np.inf]))
    rows = rows_of(found, ["cat", "dog", "=cow"], seen=np.array([False, True, False, False]))
    head = {"seed": 3, "runs": [tmp_path / "a"], "truth": {"auroc": np.float64(np.nan), "precision_at": {10: 0.5}}}
    text = (written(tmp_path, found, rows, **head) / "summary.json").read_text()
    summary = json.loads(text, parse_constant=no_constant)
    assert [summary[key] for key in ("samples", "counted", "seen")] == [4, 3, 1]
    assert summary["wrong"] == {"value": 2.26, "low": 2.01, "high": 2.51}
    assert summary["wrong_by_class"][0] == {
        **{"class": "cat", "given": 1, "wrong": {"value": 0.96, "low": 0.71, "high": 1.21}},
        "share_of_true_labels": {"value": 0.333333, "low": 0.0833333, "high": 0.583333},
    }
    assert summary["wrong_by_class"][1]["wrong"] == {"value": None, "low": None, "high": None}
    assert summary["transition"]["value"] == np.eye(3).tolist()
    assert [summary[key] for key in ("suggested_differs", "corrected", "to_review", "threshold")] == [2, 1, 2, 0.9]
    assert (summary["temperature"], summary["outputs"], summary["advice"]) == (None, "given", "Leave it.")
    assert summary["truth"] == {"auroc": None, "precision_at": {"10": 0.5}}
    assert summary["made_by"] == {"seed": 3, "runs": [str(tmp_path / "a")]}
    assert len(text.splitlines()) == len(summary) + 2  # a line for each key


# -- Label Studio -----------------------------------------------------------------------------------------------------


def tasks(folder: Path) -> tuple[list[dict[str, Any]], ElementTree.Element]:
    return json.loads((folder / "label_studio.json").read_text()), ElementTree.parse(
        folder / "label_studio.xml"
    ).getroot()


def test_doubtful_labels_become_tasks_that_fit_their_configuration(tmp_path: Path) -> None:
    made, configuration = tasks(written(tmp_path))
    assert [task["data"]["index"] for task in made] == [1, 2, 3]
    assert made[0] == {
        "data": {"index": 1, "given_label": "cat", "text": "=1+1"},
        "predictions": [
            {
                **{"model_version": "ldmi audit", "score": 0.95},
                "result": [
                    {
                        **{"from_name": "label", "to_name": "sample", "type": "choices"},
                        "value": {"choices": ["dog"]},
                    }
                ],
            }
        ],
    }
    shown, choices = configuration
    assert (shown.tag, shown.get("name"), shown.get("value")) == ("Text", "sample", "$text")
    assert (choices.tag, choices.get("name"), choices.get("toName")) == ("Choices", "label", "sample")
    assert [choice.get("value") for choice in choices] == ["cat", "dog", "=cow"]


def test_each_line_is_a_task_of_its_own_class(tmp_path: Path) -> None:
    names = ["{}", '"data": {}, "score": 0.5', "</script>"]
    folder = written(tmp_path, rows=rows_of(FOUR, names))
    said = zip(FOUR.given, FOUR.suggested, FOUR.confidence.tolist(), strict=True)
    made = [task({"index": k, "given_label": names[y]}, names[other], p) for k, (y, other, p) in enumerate(said)]
    lines = (folder / "label_studio.json").read_text().splitlines()
    assert [line.rstrip(",") for line in lines[1:-1]] == [json.dumps(each) for each in made[1:]]


def test_files_are_addressed_below_the_folder_that_they_share(tmp_path: Path) -> None:
    paths = [tmp_path / "photos" / name for name in ("a/1 #.jpg", "a/ü.jpg", "b/3.jpg", "b/4?.jpg")]
    rows = rows_of(FOUR, ["a", "b", "c"], [Original("file", path) for path in paths])
    folder = written(tmp_path, rows=rows)
    made, configuration = tasks(folder)
    root = json.loads((folder / "summary.json").read_text())["label_studio_root"]
    found = [unquote(task["data"]["image"].removeprefix("/data/local-files/?d=")) for task in made]
    assert [Path(root) / each for each in found] == paths[1:]
    assert root == str(tmp_path / "photos")
    assert "#" not in "".join(task["data"]["image"] for task in made)
    assert configuration[0].attrib == {"name": "sample", "value": "$image"}


def test_a_file_whose_name_is_no_text_is_written_all_the_same(tmp_path: Path) -> None:
    name = os.fsdecode(b"photo \xff.jpg")
    folder = written(tmp_path, rows=rows_of(FOUR, ["a", "b", "c"], [Original("file", tmp_path / name)] * 4))
    made, _ = tasks(folder)
    assert made[0]["data"]["image"] == "/data/local-files/?d=photo%20%FF.jpg"
    assert {row["original"] for row in table(folder / "issues.csv")} == {f"{tmp_path}/photo \\udcff.jpg"}
    assert "photo \\udcff.jpg" in (folder / "audit.html").read_text()


def test_what_is_neither_a_text_nor_a_file_is_an_index(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2), np.uint8)
    rows = rows_of(FOUR, ["a", "b", "c"], [None, Original("image", pixels), Original("row", None), None])
    made, configuration = tasks(written(tmp_path, rows=rows))
    assert [task["data"] for task in made] == [
        *({"index": 1, "given_label": "a"}, {"index": 2, "given_label": "b"}, {"index": 3, "given_label": "b"}),
    ]
    assert configuration[0].get("value") == "$index"


# -- the folder -------------------------------------------------------------------------------------------------------


def test_the_same_audit_gives_the_same_files(tmp_path: Path) -> None:
    one, other = written(tmp_path / "1"), written(tmp_path / "2")
    assert sorted(path.name for path in one.iterdir()) == FILES
    for name in FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    class Torn(list[Any]):
        def __getitem__(self, place: Any) -> Any:
            raise OSError("the disk has gone")

    with pytest.raises(OSError, match="has gone"):
        written(tmp_path, rows=rows_of(FOUR, ["a", "b", "c"], Torn([None] * 4)))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    with pytest.raises(FileExistsError, match="is there already"):
        written(tmp_path)
    assert list(tmp_path.rglob("*")) == [tmp_path / "audit"]


def test_nothing_heavy_is_imported_before_the_page_is_made() -> None:
    code = (
        "import sys, ldmi_lightning.audit.written\n"
        "print({'torch', 'matplotlib', 'jinja2', 'pytorch_lightning'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
