"""The cache of images: the same pixels from it, nothing torn in it after kills and on full disks, and runs that share it."""

import multiprocessing
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import photographs
import pytest
import torch
from full_disks import room
from photographs import JPEG, SIZE, N, encode, files, loader, photograph
from PIL import Image
from torch import Tensor

from ldmi_lightning.datamodules import image_files
from ldmi_lightning.datamodules.image_files import ImageFiles
from ldmi_lightning.datamodules.images import UnreadableImage
from ldmi_lightning.errors import UserError

folder = photographs.folder  # a fixture

FORK = multiprocessing.get_context("fork")


def everything(images: ImageFiles) -> Tensor:
    return torch.stack([images.read(i) for i in range(len(images))])


def kept(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*.jpg"))


def assert_whole(cache: Path) -> None:
    """Every file under a name that counts must be a complete image."""
    for path in kept(cache):
        with Image.open(path) as image:
            assert np.array(image).shape == (SIZE, SIZE, 3)


def test_pixels_are_the_same_before_and_after_they_are_kept(folder: Path) -> None:
    images = files(folder, cache=folder / "cache")
    first = everything(images)
    assert len(kept(folder / "cache")) == N
    for path in folder.glob("*.jpg"):
        path.unlink()
    assert torch.equal(everything(images), first)


def test_pixels_of_the_cache_are_close_to_the_originals(folder: Path) -> None:
    off = everything(files(folder, cache=folder / "cache")).double() - everything(files(folder)).double()
    assert off.abs().mean() < 2
    assert off.abs().max() < 30


def test_cache_tells_sizes_and_folders_apart(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache, other = folder / "cache", tmp_path_factory.mktemp("other")
    Image.new("RGB", (50, 50)).save(other / "0.jpg")
    first = everything(files(folder, cache=cache))
    assert ImageFiles(["0.jpg"], 16, root=folder, cache=cache).read(0).shape == (3, 16, 16)
    assert ImageFiles(["0.jpg"], SIZE, root=other, cache=cache).read(0).max() == 0
    assert torch.equal(everything(files(folder, cache=cache)), first)


def test_cache_of_another_reader_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = folder / "cache"
    monkeypatch.setattr(image_files, "READER", 1)
    files(folder, cache=cache).read(0)
    (old,) = kept(cache)
    old.write_bytes(encode(Image.new("RGB", (SIZE, SIZE))))
    assert files(folder, cache=cache).read(0).max() == 0
    monkeypatch.undo()
    assert files(folder, cache=cache).read(0).max() > 50


@pytest.mark.parametrize("torn", [b"", b"\0" * 900, JPEG[:-20], encode(photograph(), format="png")])
def test_file_that_the_disk_has_lost_is_made_anew(folder: Path, torn: bytes) -> None:
    images = files(folder, cache=folder / "cache")
    first = everything(images)
    for path in kept(folder / "cache")[::2]:
        path.write_bytes(torn)
    assert torch.equal(everything(images), first)
    assert_whole(folder / "cache")


def test_broken_image_is_not_kept(folder: Path) -> None:
    (folder / "0.jpg").write_bytes(JPEG[:-20])
    images = files(folder, cache=folder / "cache")
    with pytest.raises(UnreadableImage):
        images.read(0)
    assert not kept(folder / "cache")
    (folder / "0.jpg").write_bytes(JPEG)
    assert images.read(0).shape == (3, SIZE, SIZE)


def forked(work: Callable[..., Any], *args: Any) -> Any:
    process = FORK.Process(target=work, args=args)
    process.start()
    return process


def fill_for_ever(images: ImageFiles) -> None:
    """Fill the cache, forget it, and begin again: whenever this is killed, something is being written."""
    torch.set_num_threads(1)
    while True:
        everything(images)
        for path in kept(images.cache or Path()):
            path.unlink()


@pytest.mark.slow
def test_killed_at_any_moment_nothing_in_the_cache_is_torn(folder: Path) -> None:
    images = files(folder, cache=folder / "cache")
    expected = everything(images)
    rng = np.random.RandomState(0)
    found = set()
    for _ in range(20):
        before = len(kept(folder / "cache"))
        process = forked(fill_for_ever, images)
        while len(kept(folder / "cache")) == before:  # until it is at work, however long that takes here
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert_whole(folder / "cache")
        found.add(len(kept(folder / "cache")))
    assert len(found) > 3, "it was hardly ever killed at work"
    assert torch.equal(everything(images), expected)
    assert len(kept(folder / "cache")) == N


def fill_and_compare(images: ImageFiles, expected: Tensor) -> None:
    torch.set_num_threads(1)
    for _ in range(5):
        assert torch.equal(everything(images), expected)
        for path in kept(images.cache or Path())[::3]:
            path.unlink(missing_ok=True)


def test_two_runs_share_a_cache(folder: Path) -> None:
    expected = everything(files(folder, cache=folder / "alone"))
    images = files(folder, cache=folder / "shared")
    processes = [forked(fill_and_compare, images, expected) for _ in range(2)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert_whole(folder / "shared")


@pytest.mark.parametrize("workers", [0, 2])
def test_full_disk_is_one_line_and_leaves_nothing_torn(folder: Path, workers: int) -> None:
    cache = folder / "cache"
    images = files(folder, cache=cache)
    expected = torch.stack([images.read(i) for i in range(5)])
    with (
        room(600),
        pytest.raises(UserError, match=rf"--data.cache {cache} cannot keep another image \(.+\). Make room"),
    ):
        list(loader(images, workers))
    assert sorted(path for path in cache.rglob("*") if path.is_file()) == kept(cache)
    assert len(kept(cache)) == 5
    assert_whole(cache)
    assert torch.equal(torch.stack([images.read(i) for i in range(5)]), expected)


def test_full_disk_is_no_reason_to_leave_an_image_out(folder: Path) -> None:
    with room(600), pytest.raises(UserError, match="Make room"):
        list(loader(files(folder, cache=folder / "cache", skip_broken=True)))


def test_cache_that_cannot_be_written_is_named(folder: Path) -> None:
    (folder / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"--data.cache .*taken cannot keep another image \(Not a directory\)"):
        files(folder, cache=folder / "taken").read(0)
