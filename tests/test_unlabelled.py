"""Files of one's own as they are: CSV read as it stands, rows and splits without labels, and what predict predicts."""

import csv
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import writers
from refusals import refusal

from ldmi_lightning.commands import main
from ldmi_lightning.csv_file import read_csv
from ldmi_lightning.datamodules import HFDataModule
from ldmi_lightning.errors import UserError

pytestmark = pytest.mark.usefixtures("hub_of_its_own")

TEXTS = {"text_column": "text"}
QUICK = [
    *("--trainer.enable_progress_bar", "false", "--trainer.logger", "false", "--trainer.accelerator", "cpu"),
    *("--model.warmup.epochs", "1", "--model.robust.epochs", "1", "--model.robust.monitor", "val/acc"),
    *("--model.robust.mode", "max", "--data.batch_size", "8"),
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write rows as the kind of file that its name ends with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    if path.suffix in (".csv", ".tsv"):
        table.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_json(path, orient="records", lines=path.suffix == ".jsonl")
    return str(path)


def reviews(n: int = 40) -> list[dict[str, Any]]:
    """Return texts, the words of which name label and place: ``bad 0``, ``good 1``, …"""
    return [{"text": f"{['bad', 'good'][i % 2]} number{i}", "label": ["bad", "good"][i % 2]} for i in range(n)]


def ready(source: str, stage: str = "fit", **options: Any) -> HFDataModule:
    data = HFDataModule(source, **{**TEXTS, **options})
    data.setup(stage)
    return data


def texts_are_with_their_labels(data: HFDataModule) -> None:
    """Check that each stored text holds the word that its label names."""
    assert data.words is not None
    for split in data.splits.values():
        ids = torch.tensor([2 + data.words.index(name) for name in data.class_names])
        assert torch.equal((split.x[:, :1] == ids).long().argmax(dim=1), split.y)


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "jsonl", "json"])
def test_single_file_is_read_and_its_classes_are_said(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ready(write(tmp_path / f"reviews.{suffix}", reviews()))
    assert data.class_names == ["bad", "good"]
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 32, "val": 4, "test": 4}
    texts_are_with_their_labels(data)
    assert (
        f"Classes, as column label of {tmp_path}/reviews.{suffix} names them: bad, good.\n" in capsys.readouterr().out
    )


def test_file_of_another_kind_is_refused_with_those_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "reviews.xlsx").write_bytes(b"")
    assert "none of the kinds of files that are read: .csv, .tsv, .parquet, .jsonl, .json" in refusal(
        lambda: ready(f"{tmp_path}/reviews.xlsx")
    )
    assert "reviews.csv is no file, is no folder" in refusal(lambda: ready(f"{tmp_path}/reviews.csv"))
    assert "moved.csv is no file, is no folder" in refusal(
        lambda: ready("moved.csv")
    )  # and is not looked for on the hub


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_what_a_download_left_in_place_of_a_file_is_named(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"it.{suffix}").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "is a Git-LFS pointer" in refusal(lambda: ready(f"{tmp_path}/it.{suffix}"))


def test_order_of_categories_in_parquet_is_kept(tmp_path: Path) -> None:
    table = pd.DataFrame(reviews())
    table["label"] = pd.Categorical(table["label"], categories=["good", "bad"])
    table.to_parquet(tmp_path / "it.parquet")
    data = ready(f"{tmp_path}/it.parquet")
    assert data.class_names == ["good", "bad"]
    texts_are_with_their_labels(data)


def class_labels(folder: Path, labels: list[int]) -> str:
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["good", "bad"])}
    columns = {"text": [f"{['good', 'bad'][label]} one" for label in labels], "label": labels}
    return str(writers.write_parquet(folder, features, {"train": columns}))


def test_names_of_a_class_label_are_taken_or_replaced(tmp_path: Path) -> None:
    source = class_labels(tmp_path, [0, 1] * 20)
    data = ready(source)
    assert data.class_names == ["good", "bad"]
    texts_are_with_their_labels(data)
    renamed = ready(source, class_names=["fine", "poor"])
    assert torch.equal(renamed.splits["train"].y, data.splits["train"].y)
    assert "in the order of column label" in refusal(lambda: ready(source, class_names=["fine", "bad"]))


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["01", "02"], ["01", "02"]),
        (["9", "10"], ["9", "10"]),
        (["1.0", "2.0"], ["1", "2"]),
        (["NA", "EU"], ["EU", "NA"]),
    ],
)
def test_labels_in_a_csv_stay_as_they_are_written(tmp_path: Path, labels: list[str], names: list[str]) -> None:
    (tmp_path / "it.csv").write_text("text,label\n" + "".join(f"one,{label}\n" for label in labels * 20))
    data = ready(f"{tmp_path}/it.csv", **({"class_names": names} if "NA" in names else {}))
    assert data.class_names == names
    assert data.class_counts("train").tolist() == [16, 16]


# -- CSV --------------------------------------------------------------------------------------------------------------


def read(tmp_path: Path, content: bytes, encoding: str = "utf-8") -> dict[str, list[str]]:
    (tmp_path / "it.csv").write_bytes(content)
    return read_csv(tmp_path / "it.csv", ["text", "label"], encoding, option="--data.encoding").cells


@pytest.mark.parametrize(
    ("content", "cells"),
    [
        (b"text,label\na,1\nb,2\n", {"text": ["a", "b"], "label": ["1", "2"]}),
        (b"text,label\r\na,1\r\nb,2", {"text": ["a", "b"], "label": ["1", "2"]}),
        (b"text,label\ra,1\rb,2\r", {"text": ["a", "b"], "label": ["1", "2"]}),
        (b"\xef\xbb\xbftext,label\na,1\n", {"text": ["a"], "label": ["1"]}),
        ("text,label\na\u2028b\x0b\x0cc\x85d,1\n".encode(), {"text": ["a\u2028b\x0b\x0cc\x85d"], "label": ["1"]}),
        (b'text,label\n"a\nb, ""c""",1\n', {"text": ['a\nb, "c"'], "label": ["1"]}),
        (b"id, text ,label\n\n7,a,\n\n", {"text": ["a"], "label": [""]}),
        (b"text;label\na,b;1\n", {"text": ["a,b"], "label": ["1"]}),
        (b"text\tlabel\na,b\tNaN\n", {"text": ["a,b"], "label": ["NaN"]}),
        (b"text\na\n", {"text": ["a"]}),
        (b"text,label\n" + b"x" * 200_000 + b",1\n", {"text": ["x" * 200_000], "label": ["1"]}),
    ],
)
def test_csv_is_read_cell_by_cell_as_it_stands(tmp_path: Path, content: bytes, cells: dict[str, list[str]]) -> None:
    limit = csv.field_size_limit()
    assert read(tmp_path, content) == cells
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,label\na,1\ncafé,1\n".encode("latin-1"), "0xe9 in line 3 .* probably Latin-1 .* set --data.encoding latin-1"),
        ("text,label\na,1\n".encode("utf-16"), "probably UTF-16: set --data.encoding utf-16"),
        (b"text,label,label\na,1,2\n", "names the column label 2 times"),
        (b"text,label\na,1\nb,c,2\n", "it.csv, line 3 has 3 cells, but the first line names 2 columns"),
        (b'text,label\n"a\nb",1\n"c\n,2\n', "it.csv, line 4 cannot be read .*unexpected end of data"),
        (b'text,label\n"a"b,1\n', "it.csv, line 2 cannot be read"),
        (b"<!DOCTYPE html><html></html>", "it.csv is an HTML page"),
    ],
)  # fmt: skip
def test_csv_that_cannot_be_read_is_refused_with_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(tmp_path, content)


def test_encoding_is_taken_from_the_user(tmp_path: Path) -> None:
    assert read(tmp_path, "text,label\ncafé,1\n".encode("latin-1"), "latin-1")["text"] == ["café"]
    with pytest.raises(UserError, match=r"--data.encoding latin-9000 is not known"):
        read(tmp_path, b"", "latin-9000")


def test_divider_other_than_a_comma_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "it.csv").write_text("text;label\n" + "good, or so;1\nbad;0\n" * 20)
    assert ready(f"{tmp_path}/it.csv").class_names == ["0", "1"]
    assert "it.csv: columns are divided by ';', as its first line shows.\n" in capsys.readouterr().out


# -- rows without a label ---------------------------------------------------------------------------------------------


def with_gaps(n: int = 40, gaps: tuple[int, ...] = (3, 8)) -> list[dict[str, Any]]:
    return [row | ({"label": None} if i in gaps else {}) for i, row in enumerate(reviews(n))]


@pytest.mark.parametrize(
    ("suffix", "where"),
    [("csv", "it.csv, lines 5, 10"), ("jsonl", "rows 3, 8, counted from 0"), ("parquet", "rows 3, 8")],
)
def test_rows_without_a_label_are_refused_with_their_places(tmp_path: Path, suffix: str, where: str) -> None:
    source = write(tmp_path / f"it.{suffix}", with_gaps())
    for options in ({}, {"class_names": ["bad", "good"]}):
        said = refusal(lambda: ready(source, **options))  # noqa: B023
        assert f"has no label for 2 of 40 samples ({where}" in said
        assert "--data.unlabelled drop" in said


def test_only_the_first_of_many_rows_without_a_label_are_named(tmp_path: Path) -> None:
    source = write(tmp_path / "it.csv", with_gaps(40, tuple(range(10, 20))))
    assert "10 of 40 samples (it.csv, lines 12, 13, 14, 15, 16, …)" in refusal(lambda: ready(source))


def test_place_of_a_row_counts_lines_within_texts(tmp_path: Path) -> None:
    (tmp_path / "it.csv").write_text('text,label\n"two\nlines",0\na,\n' + "b,1\na,0\n" * 20)
    assert "(it.csv, line 4)" in refusal(lambda: ready(f"{tmp_path}/it.csv"))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_rows_without_a_label_are_left_out_on_request_and_counted(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ready(write(tmp_path / f"it.{suffix}", with_gaps()), unlabelled="drop")
    assert sum(len(split) for split in data.splits.values()) == 38
    assert "has no label for 2 of 40 samples, which are left out.\n" in capsys.readouterr().out
    texts_are_with_their_labels(data)
    kept = torch.cat([split.original_index for split in data.splits.values()]).sort().values
    assert kept.tolist() == [i for i in range(40) if i not in (3, 8)]


def test_minus_one_is_no_label_unless_a_class_is_called_so(tmp_path: Path) -> None:
    rows = [{"text": f"word{i}", "label": [-1, 1][i % 2]} for i in range(40)]
    for suffix in ("csv", "parquet"):
        source = write(tmp_path / f"it.{suffix}", rows)
        assert re.search(
            r"first the label -1 \(sample 0\).*Where -1 is a class, name all in class_names",
            refusal(lambda: ready(source)),  # noqa: B023
        )
        assert ready(source, class_names=["-1", "1"]).class_counts("train").tolist() == [16, 16]


def test_unlabelled_takes_one_of_two_words(tmp_path: Path) -> None:
    source = write(tmp_path / "it.csv", reviews())
    assert "--data.unlabelled must be refuse or drop, but got skip" in refusal(lambda: ready(source, unlabelled="skip"))


# -- labels that need cleaning ----------------------------------------------------------------------------------------


def test_labels_that_differ_by_blanks_or_case_are_cleaned_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = reviews()
    rows[0]["label"], rows[1]["label"], rows[2]["label"] = "bad ", "Good", "nan"
    source = write(tmp_path / "it.csv", rows)
    assert "looks like no label" in refusal(lambda: ready(source))
    assert "1 of 40 samples (it.csv, line 4)" in refusal(lambda: ready(source, clean_labels=True))
    data = ready(source, clean_labels=True, unlabelled="drop")
    assert data.class_names == ["bad", "good"]
    texts_are_with_their_labels(data)
    assert (
        "clean_labels: 'bad ' (1) is taken for 'bad'; 'Good' (1) is taken for 'good'; 'nan' (1)"
        in capsys.readouterr().out
    )


# -- a test split without labels --------------------------------------------------------------------------------------


def unlabelled_test(folder: Path, suffix: str, column: bool) -> str:
    """Write 40 labelled rows, and six to predict, with an empty column of labels or none."""
    write(folder / f"train.{suffix}", reviews())
    rows = [{"text": f"good new{i}"} | ({"label": None} if column else {}) for i in range(6)]
    write(folder / f"test.{suffix}", rows)
    return str(folder)


@pytest.mark.parametrize("column", [True, False])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_rows_of_a_test_split_without_labels_are_predicted_and_those_alone(
    tmp_path: Path, suffix: str, column: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ready(unlabelled_test(tmp_path, suffix, column))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 32, "val": 4, "test": 4}
    assert (
        f"The test split of {tmp_path} has no labels: it is predicted alone, and a share of 0.1 of the train split is held "
        "out for the test in its place.\n"
    ) in capsys.readouterr().out
    (batch,) = data.predict_dataloader()
    assert batch.index.tolist() == list(range(6))
    assert (batch.y == -1).all()
    assert data.words is not None
    assert (batch.x[:, 0] == 2 + data.words.index("good")).all()
    assert data.splits["predict"].original_index.tolist() == list(range(40, 46))


def test_rows_to_predict_are_read_anew_by_the_words_of_a_checkpoint(tmp_path: Path) -> None:
    data = ready(unlabelled_test(tmp_path, "csv", True), "predict")
    assert set(data.splits) == {"train", "val", "test", "predict"}
    data.load_state_dict({"words": ["other", "good"]})
    assert set(data.splits["predict"].x[:, 0].tolist()) == {3}
    (batch,) = data.predict_dataloader()
    assert len(batch.index) == 6


def test_a_test_split_without_labels_cannot_be_tested(tmp_path: Path) -> None:
    source = unlabelled_test(tmp_path, "csv", True)
    said = refusal(lambda: ready(source, "test"))
    assert f"The test split of {tmp_path} has no labels, and cannot be tested on: `ldmi predict` predicts it." in said


def test_some_rows_of_the_test_split_without_labels(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", reviews())
    write(tmp_path / "test.csv", with_gaps(10, (4,)))
    assert "The test split of" in (said := refusal(lambda: ready(str(tmp_path))))
    assert "1 of 10 samples (test.csv, line 6)" in said
    data = ready(str(tmp_path), unlabelled="drop")
    assert data.splits["test"].original_index.tolist() == [40, 41, 42, 43, 45, 46, 47, 48, 49]
    assert sum(len(batch.y) for batch in data.predict_dataloader()) == 10


def test_validation_split_without_labels_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "train.csv", reviews())
    write(tmp_path / "validation.csv", [{"text": "good"}] * 3)
    assert len(ready(str(tmp_path)).splits["val"]) == 4
    assert f"The validation split of {tmp_path} has no labels: it is left out" in capsys.readouterr().out


def test_test_source_is_tested_on_or_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "reviews.csv", reviews())
    labelled = ready(source, test_source=write(tmp_path / "later.jsonl", reviews(10)))
    assert {name: len(split) for name, split in labelled.splits.items()} == {"train": 36, "val": 4, "test": 10}
    assert sum(len(batch.y) for batch in labelled.predict_dataloader()) == 10
    new = ready(source, test_source=write(tmp_path / "new.csv", [{"text": "good"}, {"text": "bad"}]))
    assert f"--data.test_source {tmp_path}/new.csv has no labels: it is predicted alone" in capsys.readouterr().out
    assert [len(batch.y) for batch in new.predict_dataloader()] == [2]
    missing = f"{tmp_path}/none.csv"
    assert f"--data.test_source {missing} is no file" in refusal(lambda: ready(source, test_source=missing))
    other = write(tmp_path / "other.csv", [{"review": "good"}])
    assert "--data.text_column text is no column of the test split of" in refusal(
        lambda: ready(source, test_source=other)
    )


def test_predicting_rows_that_were_held_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ready(write(tmp_path / "reviews.csv", reviews()))
    capsys.readouterr()
    data.predict_dataloader()
    assert "has no test split: the 4 rows of its train split that were held out for the test" in capsys.readouterr().out


def test_command_predicts_new_texts_and_refuses_to_test_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    write(tmp_path / "reviews.csv", reviews())
    write(tmp_path / "new.csv", [{"text": f"good {i}"} for i in range(5)])
    data = ["--data", "HFDataModule", "--data.source", "reviews.csv", "--data.text_column", "text"]
    assert main(["fit", *data, "--model", "LDMIModule", "--model.backbone", "WordCNN", *QUICK]) == 0
    (best,) = Path("runs").glob("*/warmup-best.ckpt")
    quiet = ["--ckpt_path", str(best), "--trainer.enable_progress_bar", "false", "--data.test_source", "new.csv"]
    assert main(["predict", *quiet]) == 0
    lines = (best.parent / "predictions.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["index", "0", "1", "2", "3", "4"]
    assert {line.split(",")[2] for line in lines[1:]} <= {"bad", "good"}
    capsys.readouterr()
    assert main(["test", *quiet]) != 0
    assert "--data.test_source new.csv has no labels, and cannot be tested on" in capsys.readouterr().err


# -- two columns of texts ---------------------------------------------------------------------------------------------


def test_second_column_of_texts_needs_a_tokenizer_and_texts(tmp_path: Path) -> None:
    rows = [row | {"answer": f"yes {i}"} for i, row in enumerate(reviews())]
    source = write(tmp_path / "it.csv", rows)
    assert "Two texts for each sample need a tokenizer" in refusal(lambda: ready(source, text_pair_column="answer"))
    assert "--data.text_pair_column other is no column" in refusal(lambda: ready(source, text_pair_column="other"))
    with pytest.raises(UserError, match=r"are for texts: give --data.text_column"):
        HFDataModule(source, image_column="text", image_size=8, text_pair_column="answer")


def test_pairs_reach_the_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tiny_tokenizers import write_tokenizer

    rows = [row | {"answer": "yes"} for row in reviews()]
    tokenizer = str(write_tokenizer(tmp_path / "tokenizer"))
    options = {"tokenizer": tokenizer, "text_pair_column": "answer", "max_tokens": 16}
    data = ready(write(tmp_path / "it.csv", rows), **options)
    single = ready(str(tmp_path / "it.csv"), tokenizer=tokenizer, max_tokens=16)
    lengths = [int(each.splits["train"].x["attention_mask"].sum(1).max()) for each in (data, single)]
    assert lengths[0] > lengths[1]
    assert np.array_equal(data.splits["train"].y, single.splits["train"].y)
