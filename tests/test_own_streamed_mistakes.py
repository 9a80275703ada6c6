"""What cannot be read of own images and texts that are streamed is named by its file, row and column."""

import re
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import writers
from hypothesis import given
from hypothesis import strategies as st
from own_data import ready
from own_sources import PHOTOS, TEXTS, folder_of_images, shards
from refusals import refusal

from ldmi_lightning.datamodules import HFDataModule
from ldmi_lightning.datamodules.image_rows import row_in_files

pytestmark = pytest.mark.usefixtures("hub_of_its_own")


@pytest.mark.parametrize("workers", [0, 2])
def test_image_that_cannot_be_decoded_is_named_by_file_and_row(tmp_path: Path, workers: int) -> None:
    root = shards(tmp_path / "data", broken=28)
    data = ready(HFDataModule(str(root), **PHOTOS, streamed=True, num_workers=workers, split_seed=1))

    def read() -> None:
        for name in ("train", "val", "test"):
            list(data.split_dataloader(name))

    said = refusal(read)
    data.teardown("fit")
    assert "Image 28 of column image (train-00002-of-00003.parquet, row 3) cannot be read (it is no image)" in said
    assert f"take it out of --data.source {root}" in said


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5))
def test_rows_are_counted_through_files(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    root = tmp_path_factory.mktemp("files")
    files = [str(root / f"{i}.parquet") for i in range(len(sizes))]
    for file, size in zip(files, sizes, strict=True):
        parquet.write_table(pa.table({"a": list(range(size))}), file)
    places = [(Path(file).name, row) for file, size in zip(files, sizes, strict=True) for row in range(size)]
    assert [row_in_files(files, i) for i in range(sum(sizes))] == [f" ({name}, row {row})" for name, row in places]
    assert row_in_files([], 3) == ""


def test_broken_file_of_a_folder_is_named(tmp_path: Path) -> None:
    make = folder_of_images(tmp_path)
    (tmp_path / "photos" / "cat" / "003.jpg").write_bytes(b"no image")
    data = ready(make(streamed=True, num_workers=0))
    said = refusal(lambda: [list(data.split_dataloader(name)) for name in ("train", "val", "test")])
    assert re.search(r"photos/cat/003.jpg cannot be read .*\. Repair it, or take it out of ", said)


def test_empty_text_is_named(tmp_path: Path) -> None:
    rows = {"text": ["a", "b", " ", "d"] * 5, "label": [0, 1] * 10}
    features = {"text": datasets.Value("string"), "label": datasets.Value("int64")}
    root = writers.write_parquet(tmp_path / "data", features, {"train": rows})
    said = refusal(lambda: ready(HFDataModule(str(root), **TEXTS, streamed=True)))
    assert "column text of" in said
    assert "is empty" in said


def broken_parquet(root: Path) -> None:
    path = root / "train-00002-of-00003.parquet"
    path.write_bytes(path.read_bytes()[:-400])


def damaged_parquet(root: Path) -> None:
    path = root / "train-00002-of-00003.parquet"
    held = path.read_bytes()
    path.write_bytes(held[:4] + b"\xff" * 200 + held[204:])


def other_schema(root: Path) -> None:
    table = pa.table({"picture": [b"x"], "label": [1]})
    parquet.write_table(table, root / "train-00002-of-00003.parquet")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (broken_parquet, r"train-00002-of-00003.parquet cannot be read \(.*\)\. Repair it"),
        (damaged_parquet, r"train-00002-of-00003.parquet cannot be read \(.*\)\. Repair it"),
        (
            other_schema,
            r"train-00002-of-00003.parquet has the columns picture, label, but .*train-00000.* has image, label\.",
        ),
    ],
)
def test_shard_that_is_at_fault_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], fault: Callable[[Path], None], said: str
) -> None:
    root = shards(tmp_path / "data")
    fault(root)
    assert re.search(said, refusal(lambda: ready(HFDataModule(str(root), **PHOTOS, streamed=True))))
    assert capfd.readouterr().err == ""


def test_missing_column_is_named(tmp_path: Path) -> None:
    root = shards(tmp_path / "data")
    line = refusal(lambda: ready(HFDataModule(str(root), **{**PHOTOS, "image_column": "photo"}, streamed=True)))
    assert "--data.image_column photo is no column of" in line
