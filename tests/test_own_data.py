"""Data of one's own: arrays, folders of images, and whatever `datasets` reads; and README's examples of each."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import writers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ldmi_lightning.commands import main
from ldmi_lightning.commands.testing import kind_of_test_labels
from ldmi_lightning.datamodules import (
    DigitsDataModule,
    HFDataModule,
    ImageFolderDataModule,
    NoisyDataModule,
    TensorDataModule,
)
from ldmi_lightning.datamodules.class_names import class_indices
from ldmi_lightning.datamodules.encoding.encoded import EncodedDataModule
from ldmi_lightning.datamodules.splits import fill_splits, seeded_split
from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import PairFlipNoise

pytestmark = pytest.mark.usefixtures("hub_of_its_own")

README = (Path(__file__).parents[1] / "README.md").read_text()
PYTHON = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
REVIEWS = {"class_names": ["bad", "good"], "text_column": "text"}
PHOTOS = {"class_names": ["a", "b"], "image_column": "image", "image_size": 6}
QUICK = [
    *("--trainer.enable_progress_bar", "false", "--trainer.logger", "false", "--trainer.accelerator", "cpu"),
    *("--model.warmup.epochs", "1", "--model.robust.epochs", "1", "--data.batch_size", "8"),
]


def ready(data: NoisyDataModule) -> NoisyDataModule:
    data.prepare_data()
    data.setup("fit")
    return data


def refusal(make: Callable[[], NoisyDataModule]) -> str:
    """Return the line that making the data, or setting it up, must end in."""
    with pytest.raises(UserError) as caught:
        ready(make())
    return str(caught.value)


# -- splits -----------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=80),
    st.floats(0.05, 0.45),
    st.floats(0.05, 0.45),
    st.integers(0, 9),
)
def test_seeded_split_deals_every_sample_out_once(labels: list[int], val: float, test: float, seed: int) -> None:
    parts = seeded_split(np.array(labels), {"val": val, "test": test}, seed)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(labels)))
    assert [len(parts[name]) for name in ("val", "test")] == [round(share * len(labels)) for share in (val, test)]


def test_seeded_split_holds_each_classes_share() -> None:
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    parts = seeded_split(labels, {"val": 0.1, "test": 0.2})
    for name, share in (("val", 0.1), ("test", 0.2), ("train", 0.7)):
        assert np.abs(np.bincount(labels[parts[name]]) - share * np.array([700, 200, 100])).max() <= 1


def drawn(labels: np.ndarray, shares: dict[str, float], seed: int) -> dict[str, np.ndarray]:
    """Return the draw before anything is exchanged: by class, each spread evenly, shuffled."""
    order = np.random.RandomState(seed).permutation(len(labels))
    by_class = [order[labels[order] == label] for label in range(labels.max() + 1)]
    places = np.concatenate([(np.arange(len(part)) + 0.5) / max(len(part), 1) for part in by_class])
    order = np.concatenate(by_class)[np.argsort(places, kind="stable")]
    ends = np.cumsum([round(share * len(labels)) for share in shares.values()])
    *parts, rest = np.split(order, ends)
    return dict(zip(shares, parts, strict=True)) | {"train": np.sort(rest)}


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0.05, 0.45), st.integers(0, 9))
def test_rare_classes_are_in_train_and_then_in_validation_and_nothing_else_is_changed(
    given_labels: list[int], share: float, seed: int
) -> None:
    labels, shares = np.array(given_labels), {"val": share, "test": share}
    before, after = drawn(labels, shares, seed), seeded_split(labels, shares, seed)
    counts = {name: np.bincount(labels[part], minlength=5) for name, part in after.items()}
    total = np.bincount(labels, minlength=5)
    if len(after["train"]) >= (total > 0).sum():
        assert (counts["train"][total > 0] > 0).all()
    if len(after["val"]) >= (total > 1).sum() and len(after["train"]) >= (total > 0).sum() + (total > 1).sum():
        assert (counts["val"][total > 1] > 0).all()
    held = {name: np.bincount(labels[part], minlength=5) for name, part in before.items()}
    if (held["train"][total > 0] > 0).all() and (held["val"][total > 1] > 0).all():
        assert {name: part.tolist() for name, part in after.items()} == {
            name: part.tolist() for name, part in before.items()
        }


def test_draw_of_large_classes_is_that_of_before() -> None:
    labels, shares = np.random.RandomState(0).permutation(np.arange(25_000) % 2), {"val": 0.18, "test": 0.1}
    for name, part in seeded_split(labels, shares).items():
        assert np.array_equal(part, drawn(labels, shares, 0)[name])


def test_seeded_split_is_drawn_by_its_seed() -> None:
    first, again, other = (seeded_split(np.zeros(100, int), {"val": 0.2}, seed)["val"].tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(first) != list(range(20))


def test_fill_splits_leaves_what_is_there_alone() -> None:
    zeros = np.zeros(10, int)
    parts = fill_splits({"train": zeros, "val": zeros, "test": zeros}, {"val": 0.5, "test": 0.5})
    assert {name: part.tolist() for name, part in parts.items()} == {
        "train": list(range(10)),
        "val": list(range(10, 20)),
        "test": list(range(20, 30)),
    }


@pytest.mark.parametrize(
    ("val", "test", "said"),
    [
        (0.0, 0.1, "--data.val_share 0 and --data.test_share 0.1: shares must lie between"),
        (0.1, 1.5, "shares must lie between"),
        (0.5, 0.5, "below 1 in sum"),
        (0.04, 0.1, "of 10 samples leaves the val split without any"),
        (0.48, 0.48, "leaves the train split without any"),
    ],
)
def test_impossible_shares_are_named(val: float, test: float, said: str) -> None:
    with pytest.raises(UserError, match=said):
        fill_splits({"train": np.zeros(10, int)}, {"val": val, "test": test})


def test_share_of_a_split_that_is_there_does_not_matter() -> None:
    zeros = np.zeros(10, int)
    assert len(fill_splits({"train": zeros, "test": zeros}, {"val": 0.1, "test": 7.0})["test"]) == 10


# -- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        [0, 1, 1],
        [0.0, 1.0, 1.0],
        np.array([0, 1, 1], np.uint8),
        torch.tensor([0, 1, 1]),
        [False, True, True],
        ["a", "b", "b"],
    ],
)
def test_labels_are_positions_or_names(labels: Any) -> None:
    found = class_indices(labels, ["a", "b"], "it")
    assert found.tolist() == [0, 1, 1]
    assert found.dtype == np.int64


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 2], "it has labels from 0 to 2, but with 2 classes they must lie in 0..1"),
        ([-1, 0], "it has labels from -1 to 0"),
        (["a", "c"], r"it has the label c \(sample 1\), which is neither .* class names a, b"),
        ([0, None], r"the label None \(sample 1\)"),
        ([0.5, 1.0], "the label 0.5"),
        ([[0, 1], [1, 0]], r"shape \(2, 2\)"),
        ([], "no samples"),
    ],
)
def test_labels_that_name_no_class_are_refused(labels: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        class_indices(np.asarray(labels, dtype=np.int64 if labels == [] else None), ["a", "b"], "it")


# -- arrays -----------------------------------------------------------------------------------------------------------


def arrays(x: Any, **options: Any) -> TensorDataModule:
    y = np.arange(len(x)) % 2
    return TensorDataModule(x, y, **{"val_share": 0.2, "test_share": 0.2, **options})


@pytest.mark.parametrize("shape", [(20, 8, 8), (20, 1, 8, 8), (20, 8, 8, 1), (20, 3, 8, 8), (20, 8, 8, 3)])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_bytes_are_images_whichever_way_they_lie(shape: tuple[int, ...], kind: Callable[[Any], Any]) -> None:
    pixels = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    data = ready(arrays(kind(pixels)))
    batch = next(iter(data.val_dataloader()))
    channels = 3 if 3 in shape else 1
    assert batch.x.shape[1:] == (channels, 8, 8)
    sample = int(data.splits["val"].original_index[0])
    image = pixels[sample].transpose(2, 0, 1) if shape[-1] in (1, 3) else pixels[sample].reshape(channels, 8, 8)
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) if channels == 3 else ([0.5], [0.5])
    expected = (image / 255 - np.reshape(mean, (-1, 1, 1))) / np.reshape(std, (-1, 1, 1))
    np.testing.assert_allclose(batch.x[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_floats_are_used_as_they_are(dtype: Any) -> None:
    x = np.random.RandomState(0).randn(20, 3).astype(dtype)
    data = ready(arrays(x))
    batch = next(iter(data.test_dataloader()))
    assert torch.equal(batch.x, torch.from_numpy(x).float()[data.splits["test"].original_index])


def test_integers_are_token_ids() -> None:
    data = ready(arrays(np.arange(40, dtype=np.int16).reshape(20, 2)))
    assert data.splits["train"].x.dtype == torch.int16
    assert next(iter(data.val_dataloader())).x.dtype == torch.int64


def test_names_are_those_that_the_labels_hold() -> None:
    x = np.zeros((6, 2))
    assert TensorDataModule(x, ["no", "yes", "no"] * 2).class_names == ["no", "yes"]
    assert TensorDataModule(x, [0, 2, 1] * 2).class_names == ["0", "1", "2"]
    assert TensorDataModule(x, [0, 1] * 3, x[:2], [0, 3]).num_classes == 4


def test_test_set_of_its_own_is_used_whole() -> None:
    data = ready(TensorDataModule(np.zeros((20, 2)), [0, 1] * 10, np.ones((4, 2)), [1, 1, 0, 0], val_share=0.2))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 16, "val": 4, "test": 4}
    assert data.splits["test"].original_index.tolist() == [20, 21, 22, 23]
    assert (data.splits["test"].x == 1).all()


def test_arrays_that_are_read_only_are_taken() -> None:
    x = np.zeros((20, 2))
    x.flags.writeable = False
    assert len(ready(arrays(x[::-1])).splits["train"]) == 12


def test_given_labels_are_true_only_where_noise_is_injected() -> None:
    x = np.zeros((40, 2))
    as_given, injected = ready(arrays(x)), ready(arrays(x, noise=PairFlipNoise(0.5, seed=0)))
    assert (as_given.noise_report()["train_rate"], as_given.noise_report()["matrix"]) == (None, None)
    assert injected.noise_report()["train_rate"] == pytest.approx(0.5, abs=0.3)
    assert [as_given.labels_are_true(split) for split in ("train", "val", "test")] == [False, False, True]
    assert all(injected.labels_are_true(split) for split in ("train", "val", "test"))


def test_test_labels_are_called_clean_only_where_they_are_known_to_be() -> None:
    x = np.zeros((40, 2))
    clean = [DigitsDataModule(), arrays(x, noise=PairFlipNoise(0.5, seed=0))]
    given = [arrays(x), EncodedDataModule(arrays(x), nn.Flatten()), pl.LightningDataModule()]
    assert {kind_of_test_labels(data) for data in clean} == {"clean test labels"}
    assert {kind_of_test_labels(data) for data in given} == {"test labels as given"}


def test_augmentation_gets_stored_training_batches_alone() -> None:
    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dtypes: list[torch.dtype] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.dtypes.append(x.dtype)
            return 255 - x

    seen = Seen()
    data = ready(arrays(np.zeros((20, 4, 4), np.uint8), augmentation=seen))
    assert (next(iter(data.train_dataloader())).x == 1).all()
    for loader in (data.train_eval_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert (next(iter(loader)).x == -1).all()
    assert seen.dtypes == [torch.uint8]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TensorDataModule(np.zeros((5, 2)), [0, 1, 0, 1]), "x has 5 samples, but y 4 labels"),
        (lambda: TensorDataModule(np.zeros((4, 2)), [0, 1] * 2, np.zeros((2, 2))), "x_test and y_test belong together"),
        (lambda: TensorDataModule(np.zeros((4, 2)), [0] * 4), r"y has one class \(0\).* at least two"),
        (lambda: TensorDataModule(np.zeros((4, 2)), [0, 1] * 2, class_names=["a", "a"]), "two classes named a"),
        (lambda: arrays(np.full((20, 2), np.nan)), r"x holds NaN or infinity \(sample 0\)"),
        (lambda: arrays(np.zeros((20, 5), np.uint8)), r"x holds uint8 of shape \(20, 5\)"),
        (lambda: arrays(np.array(["word"] * 20)), "x holds values of type <U4"),
        (lambda: arrays([[1.0], [1.0, 2.0]]), "differ in shape"),
        (lambda: arrays(np.zeros((20, 2)), val_share=0.01), "--data.val_share 0.01 .* leaves the val split without any"),
        (lambda: TensorDataModule(np.zeros((20, 2)), [0, 1] * 10, class_names=["a", "b", "c"]), r"no sample of 1 .*\(c\)"),
        (lambda: TensorDataModule(np.zeros((9, 2)), [0, 1, 2] * 3, class_names=["a", "b"]), "y has labels from 0 to 2"),
        (lambda: arrays(np.zeros((20, 2)), batch_size=0), "--data.batch_size"),
    ],
)  # fmt: skip
def test_array_that_cannot_be_used_is_refused(make: Callable[[], NoisyDataModule], said: str) -> None:
    assert re.search(said, refusal(make))


# -- folders of images ------------------------------------------------------------------------------------------------


def test_class_names_are_known_from_folders_full_of_rubbish(tmp_path: Path) -> None:
    for name in ("dog", "cat", ".cache"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_text("no image")
    (tmp_path / "notes.txt").write_text("no class")
    assert ImageFolderDataModule(str(tmp_path), 8).class_names == ["cat", "dog"]


def test_images_keep_their_class_and_their_order(tmp_path: Path) -> None:
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(10):
            grey = np.full((5 + i, 9, 3), 100 * label + i, np.uint8)
            (tmp_path / name / f"{i}.{['png', 'PNG'][i % 2]}").write_bytes(writers.encoded(grey))
    data = ready(ImageFolderDataModule(str(tmp_path), 8, val_share=0.2, test_share=0.2))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 12, "val": 4, "test": 4}
    for split in data.splits.values():
        assert split.x.shape[1:] == (3, 8, 8)
        grey = 100 * (split.original_index // 10) + split.original_index % 10
        assert (split.x == grey.view(-1, 1, 1, 1)).all()
        assert torch.equal(split.y, split.original_index // 10)


def test_splits_in_folders_are_used(tmp_path: Path) -> None:
    for split, size in (("train", 10), ("val", 4), ("test", 3)):
        writers.write_image_folders(tmp_path / split, {"cat": size, "dog": size})
    data = ready(ImageFolderDataModule(str(tmp_path), 8))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 20, "val": 8, "test": 6}
    assert data.splits["test"].original_index.tolist() == list(range(28, 34))


def test_classes_may_be_called_train_and_tram(tmp_path: Path) -> None:
    writers.write_image_folders(tmp_path, {"train": 10, "tram": 10})
    assert ImageFolderDataModule(str(tmp_path), 8).class_names == ["train", "tram"]


def folders(root: Path, *files: str) -> Callable[[], NoisyDataModule]:
    """Write files: images where they are called .png, in which "bad" is none."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        image = writers.encoded(np.zeros((4, 4, 3), np.uint8)) if file.endswith(".png") else b""
        (root / file).write_bytes(image[: 30 if "bad" in file else None])
    return lambda: ImageFolderDataModule(str(root), 8, val_share=0.3, test_share=0.3)


TEN = [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(5)]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([*TEN, "dog/bad.png"], r"dog/bad.png cannot be read .*--data.root"),
        ([*TEN, "fox/notes.txt"], r"fox holds no image \(.jpg, .jpeg, .png\)"),
        (["cat/1.png", "cat/2.png"], r"has one class \(cat\).* at least two"),
        (["1.png"], "must hold a folder of images for each class, has no class"),
        ([f"train/{file}" for file in TEN] + ["test/fox/1.png"], "test/fox is no class: .* are cat, dog"),
        (["cat/1.png", "dog/1.png"], "leaves the train split without any"),
    ],
)
def test_folders_that_cannot_be_used_are_named(tmp_path: Path, files: list[str], said: str) -> None:
    assert re.search(said, refusal(folders(tmp_path, *files)))


def test_missing_folder_of_images_is_named(tmp_path: Path) -> None:
    assert f"--data.root {tmp_path}/no is no folder" in refusal(lambda: ImageFolderDataModule(f"{tmp_path}/no", 8))


@pytest.mark.parametrize("size", [0, -1])
def test_image_of_no_size_is_refused(tmp_path: Path, size: int) -> None:
    assert f"--data.image_size must be at least 1, but got {size}" in refusal(
        lambda: ImageFolderDataModule(str(tmp_path), size)
    )
    sizeless = {**PHOTOS, "image_size": size or None}
    assert "--data.image_column needs --data.image_size" in refusal(lambda: HFDataModule(str(tmp_path), **sizeless))


# -- whatever `datasets` reads ----------------------------------------------------------------------------------------


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


# -- README -----------------------------------------------------------------------------------------------------------


def shown(name: str) -> str:
    """Return the file of this name that README shows."""
    (text,) = re.findall(rf"^```\w+\n(# {re.escape(name)}\n.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    assert len(text.splitlines()) < 20
    return str(text)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    return tmp_path


def results() -> dict[str, Any]:
    (path,) = Path("runs").glob("*/results.json")
    return dict(json.loads(path.read_text()))


def photos(here: Path) -> None:
    writers.write_image_folders(here / "photos", {"cat": 30, "dog": 30})
    (here / "photos.yaml").write_text(shown("photos.yaml"))


def test_folders_of_images_as_readme_shows_them(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos(here)
    assert main(["fit", "--config", "photos.yaml", "--data.image_size", "32", *QUICK]) == 0
    assert results()["data"] == "ImageFolderDataModule"
    assert (results()["noise"]["train_rate"], results()["noise"]["matrix"]) == (None, None)
    assert results()["stages"]["robust"]["test_acc"] is not None
    assert "training and validation labels may be wrong as given; test labels are as given" in capsys.readouterr().out


def test_texts_as_readme_shows_them(here: Path) -> None:
    writers.write_texts(here / "reviews", {"train": 60, "test": 20})
    (here / "reviews.yaml").write_text(shown("reviews.yaml"))
    command = ["--config", "reviews.yaml", "--data.source", "reviews"]
    assert main(["fit", *command, *QUICK]) == 0
    assert results()["data"] == "HFDataModule"
    (best,) = Path("runs").glob("*/robust-best.ckpt")
    assert main(["predict", "--ckpt_path", str(best), "--trainer.enable_progress_bar", "false"]) == 0
    names = Counter(line.split(",")[2] for line in (best.parent / "predictions.csv").read_text().splitlines()[1:])
    assert names.keys() <= {"negative", "positive"}
    assert names.total() == 20


def test_backbone_from_timm_as_readme_shows_it_and_noise(here: Path) -> None:
    pytest.importorskip("timm")
    photos(here)
    (line,) = re.findall(r"^ldmi (fit .* timm\..*)$", PYTHON, flags=re.MULTILINE)
    noise = ["--data.noise", "SymmetricNoise", "--data.noise.rate", "0.3"]
    assert main([*line.split(), "--data.image_size", "32", *noise, *QUICK]) == 0
    assert results()["noise"]["train_rate"] == pytest.approx(0.3, abs=0.15)
    (best,) = Path("runs").glob("*/robust-best.ckpt")
    assert main(["test", "--ckpt_path", str(best), "--trainer.enable_progress_bar", "false"]) == 0
