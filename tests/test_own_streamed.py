"""Own images and texts that are streamed: their batches are those of data in memory, whatever they are read from."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import writers
from batches import epochs, equal
from own_data import ready
from own_sources import PHOTOS, SOURCES, Make, parquet_of_images, parquet_of_texts, parquet_of_tokens, shards
from torch import Tensor, nn

from ldmi_lightning.datamodules import EncodedDataModule, HFDataModule
from ldmi_lightning.datamodules.fold_splits import hold_out
from ldmi_lightning.datamodules.folds import Fold
from ldmi_lightning.datamodules.streamed import Streamed, StreamedLoader
from ldmi_lightning.inputs import tensors_in
from ldmi_lightning.noise import SymmetricNoise

pytestmark = pytest.mark.usefixtures("hub_of_its_own")


@pytest.mark.parametrize("source", SOURCES)
def test_batches_are_those_of_data_in_memory(tmp_path: Path, source: Callable[[Path], Make]) -> None:
    make = source(tmp_path)
    held = ready(make(streamed=False, noise=SymmetricNoise(0.2, seed=0)))
    read = ready(make(streamed=True, noise=SymmetricNoise(0.2, seed=0)))
    assert isinstance(held.splits["train"].x, Tensor | dict)
    assert isinstance(read.splits["train"].x, Streamed)
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader", "train_eval_dataloader"):
        batches = epochs(getattr(held, loader)())
        assert batches
        assert equal(batches, epochs(getattr(read, loader)())), loader
    read.teardown("fit")


@pytest.mark.parametrize("source", SOURCES)
def test_a_run_goes_on_either_way_but_not_with_other_data(tmp_path: Path, source: Callable[[Path], Make]) -> None:
    make = source(tmp_path)
    held, read = ready(make(streamed=False)), ready(make(streamed=True))
    assert held.identity() == read.identity()
    assert held.fingerprint() == read.fingerprint()
    other = ready(make(streamed=True, val_share=0.3))
    assert other.identity() != read.identity()
    before = {name: part.x for name, part in read.splits.items()}
    read.sources = {"train": before["train"], "val": before["train"]}
    read._identity = None
    assert read.identity() != held.identity()


def test_rows_that_hold_something_else_are_told_apart(tmp_path: Path) -> None:
    one = ready(HFDataModule(str(shards(tmp_path / "one")), **PHOTOS, streamed=True))
    rows = {"image": [writers.cell(np.full((9, 7, 3), i, np.uint8)) for i in range(40)], "label": [0, 1] * 20}
    features = {"image": datasets.Image(), "label": datasets.Value("int64")}
    two = ready(HFDataModule(str(writers.write_parquet(tmp_path / "two", features, {"train": rows})), **PHOTOS))
    assert one.identity() != two.identity()
    assert one.fingerprint() != two.fingerprint()


@pytest.mark.parametrize("source", [parquet_of_images, parquet_of_tokens])
def test_ranks_together_see_the_batches_of_a_single_process(tmp_path: Path, source: Callable[[Path], Make]) -> None:
    split = ready(source(tmp_path)(streamed=True)).splits["train"]

    def loader(**place: int) -> StreamedLoader:
        return StreamedLoader(split, 8, nn.Identity(), shuffle_seed=3, **place)

    wholes, *parts = epochs(loader()), *(epochs(loader(rank=rank, world_size=3)) for rank in range(3))
    assert len({len(part) for part in parts}) == 1
    for whole, *shares in zip(wholes, *parts, strict=True):
        assert torch.equal(whole.index, torch.cat([share.index for share in shares]))
        assert torch.equal(whole.y, torch.cat([share.y for share in shares]))


def test_workers_change_nothing(tmp_path: Path) -> None:
    make = parquet_of_images(tmp_path)
    alone, two = ready(make(streamed=True, num_workers=0)), ready(make(streamed=True, num_workers=2))
    assert equal(epochs(alone.train_dataloader()), epochs(two.train_dataloader()))
    two.teardown("fit")


def test_texts_are_read_in_the_main_process(tmp_path: Path) -> None:
    loader = ready(parquet_of_texts(tmp_path)(streamed=True, num_workers=2)).train_dataloader()
    assert isinstance(loader, StreamedLoader)
    assert loader.num_workers == 0


def test_empty_share_of_a_batch_of_texts_is_read(tmp_path: Path) -> None:
    for source in (parquet_of_texts, parquet_of_tokens):
        x = ready(source(tmp_path / source.__name__)(streamed=True)).splits["train"].x
        assert all(len(tensor) == 0 for _, tensor in tensors_in(x.stored([])))


def test_originals_are_the_pixels_of_the_rows(tmp_path: Path) -> None:
    held, read = (ready(parquet_of_images(tmp_path)(streamed=streamed)) for streamed in (False, True))
    for one, other in zip(held.originals("val"), read.originals("val"), strict=True):
        assert one.kind == other.kind == "image"
        assert np.array_equal(one.value, other.value)


@pytest.mark.parametrize("source", SOURCES)
def test_fold_is_held_out_as_of_data_in_memory(tmp_path: Path, source: Callable[[Path], Make]) -> None:
    make, found = source(tmp_path), []
    for streamed in (False, True):
        data = make(streamed=streamed)
        hold_out(data, Fold(1, 2, seed=0))
        found.append(epochs(ready(data).split_dataloader("fold"), 1))
    assert found[0]
    assert equal(*found)


def test_webdataset_tars_are_read_by_datasets(tmp_path: Path) -> None:
    rng = np.random.RandomState(0)
    for number in range(2):
        with tarfile.open(tmp_path / f"train-{number:04}.tar", "w") as tar:
            for i in range(20):
                held = {"jpg": writers.encoded(writers.picture(rng, i % 2, (8, 8, 3)), "jpeg"), "cls": b"%d" % (i % 2)}
                for suffix, content in held.items():
                    info = tarfile.TarInfo(f"{number}{i:03}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    data = ready(HFDataModule(str(tmp_path), **{**PHOTOS, "image_column": "jpg"}, label_column="cls", streamed=True))
    assert sum(len(split) for split in data.splits.values()) == 40
    batch = next(iter(data.val_dataloader()))
    assert batch.x.shape == (len(batch.y), 3, 6, 6)
    data.teardown("fit")


def test_streamed_images_and_texts_are_encoded_as_those_in_memory(tmp_path: Path) -> None:
    make = parquet_of_images(tmp_path)
    found = []
    for streamed in (False, True):
        encoded = EncodedDataModule(make(streamed=streamed), nn.Flatten(), cache=str(tmp_path / f"cache-{streamed}"))
        encoded.prepare_data()
        encoded.setup("fit")
        encoded.encode("train", "val")
        found.append(encoded.splits["train"].x)
    assert torch.equal(*found)
