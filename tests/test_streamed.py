"""The streamed path: its pixels are those of Pillow, and its workers change nothing and end when they should."""

import io
import multiprocessing
import time
from pathlib import Path

import numpy as np
import photographs
import pytest
import torch
from batches import epochs, equal
from full_disks import room
from photographs import JPEG, SIZE, encode, files, loader, photograph
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional as F

from ldmi_lightning.batch import Batch
from ldmi_lightning.datamodules.image_files import ImageFiles
from ldmi_lightning.errors import UserError

folder = photographs.folder  # a fixture


# -- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        JPEG,
        encode(photograph(), progressive=True),
        encode(photograph().convert("L")),
        encode(photograph().convert("CMYK")),
        encode(photograph(), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
        JPEG + b"what some programs leave at the end",
        encode(photograph(), format="png"),
        encode(photograph().convert("LA"), format="png"),
        encode(photograph().convert("P"), format="gif"),
        encode(photograph(), format="bmp"),
    ],
    ids=["jpeg", "progressive", "grey", "cmyk", "rotated", "trailing", "png", "alpha", "gif", "bmp"],
)
def test_pixels_are_those_of_pillow(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "image.jpg").write_bytes(data)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    pillow = torch.from_numpy(np.array(upright.convert("RGB"))).permute(2, 0, 1)
    ours = ImageFiles(["image.jpg"], SIZE, root=tmp_path).read(0)
    assert ours.shape == (3, SIZE, SIZE)
    assert ours.dtype == torch.uint8
    torch.testing.assert_close(ours, F.resize(pillow, [SIZE, SIZE], antialias=True), atol=1, rtol=0)


@pytest.mark.parametrize(("shape", "mean", "most"), [((63, 500), 0.2, 1), ((64, 64), 2, 12), ((500, 700), 2, 12)])
def test_resizing_is_that_of_pillow(tmp_path: Path, shape: tuple[int, int], mean: float, most: int) -> None:
    (tmp_path / "image.jpg").write_bytes(encode(photograph(shape=shape)))
    pillow = Image.open(tmp_path / "image.jpg").convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    ours = ImageFiles(["image.jpg"], SIZE, root=tmp_path).read(0)
    off = (ours.double() - torch.from_numpy(np.array(pillow)).permute(2, 0, 1)).abs()
    assert off.mean() < mean
    assert off.max() <= most


def test_some_of_the_files_keep_the_options(folder: Path) -> None:
    every = files(folder, cache=folder / "cache", skip_broken=True)
    for some, where in ((every[2:5], [2, 3, 4]), (every[np.array([7, 1])], [7, 1])):
        assert [some.path(i).name for i in range(len(some))] == [f"{i}.jpg" for i in where]
        assert (some.size, some.cache, some.skip_broken) == (SIZE, folder / "cache", True)


# -- workers ----------------------------------------------------------------------------------------------------------


def test_batches_hold_the_images_of_their_positions(folder: Path) -> None:
    images = files(folder)
    for batch in loader(images):
        index = batch.index
        assert torch.equal(batch.x, torch.stack([images.read(i) for i in index.tolist()]))
        assert batch.x.is_contiguous()
        assert batch.y.tolist() == (index + 1000).tolist()
        assert batch.y_clean.tolist() == (index + 2000).tolist()


@pytest.mark.parametrize("cached", [False, True])
def test_workers_change_nothing(folder: Path, cached: bool) -> None:
    images = files(folder, cache=folder / "cache" if cached else None)
    assert equal(epochs(loader(images)), epochs(loader(images, 2)))


def test_epoch_that_was_left_early_leaves_nothing_to_the_next(folder: Path) -> None:
    whole, left = loader(files(folder)), loader(files(folder), 2)
    next(iter(left))
    assert equal(epochs(whole), epochs(left))


def test_ranks_together_see_the_batches_of_a_single_process(folder: Path) -> None:
    images = files(folder)
    parts = [epochs(loader(images, rank, rank=rank, world_size=2)) for rank in range(2)]
    for whole, *shares in zip(epochs(loader(images)), *parts, strict=True):
        assert torch.equal(whole.x, torch.cat([share.x for share in shares]))
        assert torch.equal(whole.index, torch.cat([share.index for share in shares]))


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_leaves_the_global_random_state_alone(folder: Path, workers: int) -> None:
    before = torch.get_rng_state()
    epochs(loader(files(folder), workers))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_batches_on_cuda_are_those_on_the_cpu(folder: Path) -> None:
    images = files(folder)
    there = epochs(loader(images, 2, device=torch.device("cuda")))
    assert all(batch.x.is_cuda and batch.y.is_cuda for batch in there)
    assert equal(epochs(loader(images)), [Batch(*(each.cpu() for each in batch[:4])) for batch in there])


def test_workers_live_as_long_as_the_loader_and_no_longer(folder: Path) -> None:
    def workers() -> set[int | None]:
        return {child.pid for child in multiprocessing.active_children()} - before

    before = {child.pid for child in multiprocessing.active_children()}
    batches = loader(files(folder), 2)
    epochs(batches, 1)
    first = workers()
    epochs(batches, 2)
    assert workers() == first
    assert len(first) == 2
    del batches
    assert not workers()


@pytest.mark.parametrize("at", ["in mid-epoch", "between epochs", pytest.param("before any", marks=pytest.mark.slow)])
def test_closing_ends_the_workers_at_once(folder: Path, at: str) -> None:
    before = set(multiprocessing.active_children())
    batches = loader(files(folder), 2)
    reading = iter(batches)  # still held, as a Trainer holds it that an error has stopped
    if at == "in mid-epoch":
        next(reading)
    elif at == "between epochs":
        list(reading)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == (0 if at == "before any" else 2)
    began = time.monotonic()
    batches.close()
    assert time.monotonic() - began < 2
    assert not any(worker.is_alive() for worker in workers)
    if at == "in mid-epoch":
        assert not list(reading), "the epoch has ended"
    assert equal(epochs(batches), epochs(loader(files(folder)))), "another epoch starts new ones"


def test_lack_of_shared_memory_is_one_line(folder: Path) -> None:
    with room(10_000), pytest.raises(UserError, match=r"no room for another batch of 0 MB.*--shm-size"):
        list(loader(files(folder), 2))
