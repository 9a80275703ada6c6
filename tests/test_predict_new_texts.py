"""`ldmi predict --input`: new texts in tables, what is thought of their labels, and that they are read some at a time."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import new_samples
import numpy as np
import pytest
from new_samples import predict, rows, text_table

from ldmi_lightning.audit.posterior import posterior
from ldmi_lightning.datamodules import HFDataModule
from ldmi_lightning.datamodules.new_data import NewData
from ldmi_lightning.datamodules.new_tables import open_csv
from ldmi_lightning.likelihood import tempered

pytestmark = pytest.mark.usefixtures("hub_of_its_own")
here, texts = new_samples.here, new_samples.texts  # fixtures


def test_tables_of_all_kinds_give_the_same_rows(texts: Path) -> None:
    table = text_table(Path("new.csv"), 50, label=False)
    given = [line.split(",")[1] for line in table.read_text().splitlines()[1:]]
    datasets.Dataset.from_dict({"text": given}).to_parquet("new.parquet")
    Path("new.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in given))
    Path("new.json").write_text(json.dumps([{"text": text} for text in given]))
    Path("new.tsv").write_text("text\tmore\n" + "".join(f"{text}\t1\n" for text in given))
    for kind in ("csv", "tsv", "parquet", "jsonl", "json"):
        assert predict(texts, Path(f"new.{kind}"), kind) == 0
    first = rows("csv")
    assert list(first[0]) == ["row", "class", "name", "confidence"]
    assert [row["name"] for row in first] == ["no", "yes"] * 25
    for kind in ("tsv", "parquet", "jsonl", "json"):
        assert rows(kind) == first


def test_given_labels_are_judged_by_what_the_run_knows_of_them(texts: Path) -> None:
    table = text_table(Path("new.csv"), 40)
    content = table.read_text().replace("film 3,yes", "film 3,").replace("film 4,no", "film 4,yes")
    table.write_text(content)
    assert predict(texts, table) == 0
    found = rows()
    assert list(found[0]) == ["row", "class", "name", "confidence", "given_label", "label_quality"]
    labels = [line.rpartition(",")[2] for line in content.splitlines()[1:]]
    assert [row["given_label"] for row in found] == [{"no": "0", "yes": "1", "": ""}[label] for label in labels]
    kept = json.loads((texts.parent / "results.json").read_text())["stages"]["robust"]
    transition = np.array(kept["transition"])
    for row in found:
        confidence = float(row["confidence"])
        probs = np.array([[confidence, 1 - confidence]])[:, :: 1 if row["class"] == "0" else -1]
        if row["given_label"] == "":
            assert row["label_quality"] == ""
            continue
        given = int(row["given_label"])
        right = posterior(tempered(probs, kept["temperature"]), np.array([given]), transition)[0, given]
        assert float(row["label_quality"]) == pytest.approx(right, abs=2e-3)


def test_without_a_transition_matrix_labels_are_not_judged_and_that_is_said(
    texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = text_table(Path("new.csv"), 10)
    assert predict(texts.with_name("warmup-best.ckpt"), table) == 0
    assert "right is left out: " in (out := capsys.readouterr().out)
    assert "holds no transition matrix of the stage warmup, whose outputs imply none.\n" in out
    assert list(rows()[0]) == ["row", "class", "name", "confidence"]


def test_an_empty_text_has_no_prediction(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("new.csv").write_text('text,more\na good film,1\n" ",2\na bad film,3\n')
    assert predict(texts, Path("new.csv")) == 1
    assert "1 of 3 samples cannot be read, and have no prediction: 1 (the text is empty).\n" in capsys.readouterr().out
    assert [row["name"] for row in rows()] == ["yes", "", "no"]


def test_a_table_is_read_a_chunk_at_a_time(tmp_path: Path) -> None:
    text_table(tmp_path / "train.csv")
    data = HFDataModule(str(tmp_path / "train.csv"), text_column="text")
    text_table(tmp_path / "new.csv", 60_000, label=False)
    place = open_csv(tmp_path / "new.csv", data, "texts")
    tracemalloc.start()
    count = sum(len(chunk.keys) for chunk in place.chunks(100))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 60_000
    assert peak < 0.5e6  # the file has 1.3 MB


def test_a_tokenizer_s_texts_are_cut_and_counted(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tiny_tokenizers import write_tokenizer

    write_tokenizer(tmp_path / "tokenizer")
    text_table(tmp_path / "train.csv")
    options: dict[str, Any] = {"text_column": "text", "tokenizer": str(tmp_path / "tokenizer"), "max_tokens": 4}
    data = HFDataModule(str(tmp_path / "train.csv"), **options)
    data.setup("fit")
    new = HFDataModule(str(tmp_path / "train.csv"), class_names=data.class_names, **options)
    new.load_state_dict(data.state_dict())
    reader = NewData(new)
    (x,) = reader.batches(["a good film 1 more", "film"])
    assert x["input_ids"].shape == (2, 4)
    assert dict(reader.notes) == {"longer than 4 tokens, and cut": 1}
