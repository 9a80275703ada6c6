"""Whatever `datasets` reads as data of one's own: splits, labels, texts and images, and what is refused."""

import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import writers
from own_data import ready, refusal

from ldmi_lightning.datamodules import HFDataModule, ImageFolderDataModule

pytestmark = pytest.mark.usefixtures("hub_of_its_own")

REVIEWS = {"class_names": ["bad", "good"], "text_column": "text"}
PHOTOS = {"class_names": ["a", "b"], "image_column": "image", "image_size": 6}


def csv(folder: Path, **splits: list[tuple[str, Any]]) -> str:
    """Write splits of texts and labels as CSV files."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        (folder / f"{split}.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return str(folder)


REVIEWED = [("a bad one", 0), ("a good one", 1)] * 20


def test_splits_of_the_source_are_used_and_what_is_missing_comes_out_of_train(tmp_path: Path) -> None:
    sizes = {"train": 40, "validation": 12, "test": 8}
    whole = ready(HFDataModule(str(writers.write_texts(tmp_path / "whole", sizes)), **REVIEWS))
    assert {name: len(split) for name, split in whole.splits.items()} == {"train": 40, "val": 12, "test": 8}
    assert whole.splits["test"].original_index.tolist() == list(range(52, 60))
    del sizes["validation"]
    filled = ready(HFDataModule(str(writers.write_texts(tmp_path / "filled", sizes)), **REVIEWS, val_share=0.25))
    assert {name: len(split) for name, split in filled.splits.items()} == {"train": 30, "val": 10, "test": 8}
    assert set(filled.splits["val"].original_index.tolist()) < set(range(40))


def test_test_split_without_labels_counts_as_absent(tmp_path: Path) -> None:
    root = csv(tmp_path, train=REVIEWED, test=[("hidden", -1)] * 5)
    data = ready(HFDataModule(root, **REVIEWS))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 32, "val": 4, "test": 4}


def test_class_names_may_be_the_labels(tmp_path: Path) -> None:
    root = csv(tmp_path, train=[(text, ["bad", "good"][label]) for text, label in REVIEWED])
    data = ready(HFDataModule(root, **REVIEWS))
    words = data.words
    assert words is not None
    for split in data.splits.values():
        assert torch.equal((split.x == 2 + words.index("good")).any(dim=1).long(), split.y)


def test_vocabulary_is_that_of_the_training_texts(tmp_path: Path) -> None:
    root = csv(tmp_path, train=REVIEWED, test=[("only here", 0), ("good", 1)])
    data = ready(HFDataModule(root, **REVIEWS))
    assert sorted(data.words or []) == ["a", "bad", "good", "one"]
    assert data.state_dict() == {"words": data.words}


def test_saved_dataset_is_loaded_from_disk(tmp_path: Path) -> None:
    pictures = [writers.cell(np.full((4 + i, 5, 3), i, np.uint8)) for i in range(20)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    table = datasets.Dataset.from_dict({"image": pictures, "label": [0, 1] * 10}, features)
    table.save_to_disk(str(tmp_path / "saved"))
    data = ready(HFDataModule(str(tmp_path / "saved"), **PHOTOS))
    for split in data.splits.values():
        assert split.x.shape[1:] == (3, 6, 6)
        assert torch.equal(split.x[:, 0, 0, 0].long(), split.original_index)
        assert torch.equal(split.y, split.original_index % 2)


def test_subset_is_chosen_by_its_name(tmp_path: Path) -> None:
    csv(tmp_path / "one", train=REVIEWED)
    csv(tmp_path / "two", train=REVIEWED[:20])
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/train.csv\n" for name in ("one", "two"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    data = ready(HFDataModule(str(tmp_path), **REVIEWS, subset="two"))
    assert sum(len(split) for split in data.splits.values()) == 20
    assert re.search("Config name is missing.*--data.subset", refusal(lambda: HFDataModule(str(tmp_path), **REVIEWS)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"text_column": "txt"}, "--data.text_column txt is no column of .*, whose columns are text, label"),
        ({"label_column": "labels"}, "--data.label_column labels is no column"),
        ({"text_column": None}, "--data.image_column or --data.text_column"),
        ({"image_column": "text"}, "--data.image_column or --data.text_column"),
        ({"image_column": "text", "text_column": None, "image_size": 8}, "--data.image_column text of .* no images"),
        ({"text_column": "label"}, "--data.text_column label of .* no texts"),
        ({"class_names": ["bad"]}, "--data.class_names has one class"),
        ({"class_names": ["bad", "good", "fair"]}, r"no sample of 1 of its 3 classes \(fair\)"),
        ({"vocab_size": 2}, "--data.vocab_size"),
        ({"val_share": 0.7, "test_share": 0.4}, "below 1 in sum"),
    ],
)
def test_source_that_does_not_fit_the_options_is_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    root = csv(tmp_path, train=REVIEWED)
    assert re.search(said, refusal(lambda: HFDataModule(root, **{**REVIEWS, **options})))


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ({"train": [("a", 0), ("b", 3)]}, "train split of .*, column label, has labels from 0 to 3"),
        ({"train": [("a", "bad"), ("b", "fine")]}, r"has the label fine \(sample 1\).* class names bad, good"),
        ({"test": REVIEWED}, "has no train split, but test"),
        ({"train": [("a", 0), ("", 1)] * 5}, "Text 1 of column text of .* is empty"),
        ({"train": [("a", 0), ("b", "")]}, r"the label (nan|None) \(sample 1\)"),
        ({}, "could not be loaded"),
    ],
)
def test_source_that_cannot_be_learnt_from_is_refused(tmp_path: Path, splits: Any, said: str) -> None:
    root = csv(tmp_path / "data", **splits)
    assert re.search(said, refusal(lambda: HFDataModule(root, **REVIEWS)))


def test_names_in_another_order_than_the_sources_are_refused(tmp_path: Path) -> None:
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["good", "bad"])}
    writers.write_parquet(tmp_path, features, {"train": {"text": ["a", "b"], "label": [0, 1]}})
    assert re.search(r"in the order .*: \[good, bad\]", refusal(lambda: HFDataModule(str(tmp_path), **REVIEWS)))
    three = {**REVIEWS, "class_names": ["a", "b", "c"]}
    assert "names 3 classes, but column label" in refusal(lambda: HFDataModule(str(tmp_path), **three))


@pytest.mark.parametrize("size", [0, -1])
def test_image_of_no_size_is_refused(tmp_path: Path, size: int) -> None:
    assert f"--data.image_size must be at least 1, but got {size}" in refusal(
        lambda: ImageFolderDataModule(str(tmp_path), size)
    )
    sizeless = {**PHOTOS, "image_size": size or None}
    assert "--data.image_column needs --data.image_size" in refusal(lambda: HFDataModule(str(tmp_path), **sizeless))


def test_images_are_brought_to_one_size(tmp_path: Path) -> None:
    root = writers.write_images(tmp_path, ("image", "label"), {"train": 20}, classes=2)
    assert ready(HFDataModule(str(root), **PHOTOS)).splits["train"].x.shape == (16, 3, 6, 6)


def test_broken_image_is_named_by_its_place_in_the_source(tmp_path: Path) -> None:
    pictures = [writers.cell(np.zeros((4, 4, 3), np.uint8)) for _ in range(20)]
    pictures[13] = {"bytes": b"no image", "path": None}
    features = {"image": datasets.Image(), "label": datasets.Value("int64")}
    writers.write_parquet(tmp_path, features, {"train": {"image": pictures, "label": [0, 1] * 10}})
    assert re.search(
        "Image 13 of column image cannot be decoded .*--data.source",
        refusal(lambda: HFDataModule(str(tmp_path), **PHOTOS)),
    )


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("someone/reviews", "hf download someone/reviews --repo-type dataset --local-dir FOLDER"),
        ("./reviews", "is no folder"),
        ("/no/such/folder", "is no folder"),
    ],
)
def test_source_that_is_nowhere_leads_to_a_folder(source: str, said: str) -> None:
    message = refusal(lambda: HFDataModule(source, **REVIEWS))
    assert f"--data.source {source}" in message
    assert said in message
