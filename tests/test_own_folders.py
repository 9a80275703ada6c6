"""Folders of images of one's own: their classes, order and splits, and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import writers
from own_data import ready, refusal

from ldmi_lightning.datamodules import ImageFolderDataModule, NoisyDataModule

pytestmark = pytest.mark.usefixtures("hub_of_its_own")


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
