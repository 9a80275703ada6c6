"""The streamed path: the pixels, the files that cannot be read, the workers, and the cache that is killed and shared."""

import io
import multiprocessing
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batches import epochs, equal
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from ldmi_lightning.batch import Batch
from ldmi_lightning.datamodules import image_files
from ldmi_lightning.datamodules.image_files import ImageFiles
from ldmi_lightning.datamodules.images import UnreadableImage
from ldmi_lightning.datamodules.loaders import Split
from ldmi_lightning.datamodules.streamed import StreamedLoader
from ldmi_lightning.errors import UserError

N, SIZE = 26, 32
FORK = multiprocessing.get_context("fork")


def photograph(seed: int = 0, shape: tuple[int, int] = (60, 45)) -> Image.Image:
    """Return a smooth picture in muted colours, as photographs are."""
    coarse = np.random.RandomState(seed).randint(80, 176, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(shape, Image.Resampling.BICUBIC)


def encode(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, **{"format": "jpeg", "quality": 85, **options})
    return file.getvalue()


JPEG = encode(photograph())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(N):
        (tmp_path / f"{i}.jpg").write_bytes(encode(photograph(i, (40 + i, 70 - i))))
    return tmp_path


def files(folder: Path, **options: Any) -> ImageFiles:
    return ImageFiles([f"{i}.jpg" for i in range(N)], SIZE, root=folder, **options)


def loader(images: ImageFiles, num_workers: int = 0, **options: Any) -> StreamedLoader:
    i = torch.arange(len(images))
    split = Split(images, i + 1000, i + 2000, i + 3000)
    return StreamedLoader(split, 4, nn.Identity(), num_workers=num_workers, **{"shuffle_seed": 1, **options})


@contextmanager
def room(size: int) -> Iterator[None]:
    """Let every write end after so many bytes, as on a disk that is full by then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


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


# -- what cannot be read ----------------------------------------------------------------------------------------------


UNREADABLE = {
    "empty": b"",
    "text": b"<html>404 not found</html>",
    "two bytes": JPEG[:2],
    "header alone": JPEG[:300],
    "half": JPEG[: len(JPEG) // 2],
    "without its end marker": JPEG[:-2],
    "half a progressive one": encode(photograph(), progressive=True)[:700],
    "zeros after the half": JPEG[: len(JPEG) // 2].ljust(len(JPEG), b"\0"),
    "half a PNG": encode(photograph(), format="png")[:2000],
}


@pytest.mark.parametrize("fault", UNREADABLE)
def test_broken_image_is_named(tmp_path: Path, fault: str) -> None:
    (tmp_path / "image.jpg").write_bytes(UNREADABLE[fault])
    with pytest.raises(UnreadableImage, match=rf"^{tmp_path}/image.jpg cannot be read \(.+\)$") as raised:
        ImageFiles(["image.jpg"], SIZE, root=tmp_path).read(0)
    assert "0x" not in str(raised.value)


def test_jpeg_is_found_to_be_cut_short_wherever_that_is(tmp_path: Path) -> None:
    image = ImageFiles(["image.jpg"], SIZE, root=tmp_path)
    for length in range(0, len(JPEG), 7):
        (tmp_path / "image.jpg").write_bytes(JPEG[:length])
        with pytest.raises(UnreadableImage):
            image.read(0)


def test_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"nowhere.jpg cannot be read \(No such file or directory\)"):
        ImageFiles(["nowhere.jpg"], SIZE, root=tmp_path).read(0)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_image_ends_the_epoch_with_one_line(folder: Path, workers: int) -> None:
    (folder / "7.jpg").write_bytes(JPEG[:-20])
    with pytest.raises(UserError) as raised:
        list(loader(files(folder), workers))
    assert "7.jpg cannot be read" in str(raised.value)
    assert "--data.skip_broken true" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_left_out_named_and_counted_once(
    folder: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "7.jpg").write_bytes(JPEG[:-20])
    (folder / "20.jpg").unlink()
    images = files(folder, skip_broken=True)
    seen = [batch.index.tolist() for batch in loader(images, workers, shuffle_seed=None)]
    assert sorted(chain(*seen)) == [i for i in range(N) if i not in (7, 20)]
    assert [len(batch) for batch in seen] == [4, 3, 4, 4, 4, 2, 3]  # of 4, 4, 4, 4, 4, 3, 3
    for batch in loader(images, workers, shuffle_seed=None):
        assert len(batch.x) == len(batch.y) == len(batch.index)
        assert batch.y.tolist() == (batch.index + 1000).tolist()
    first, second = capsys.readouterr().out.splitlines()
    assert "7.jpg cannot be read" in first
    assert first.endswith("left out: 1 of 26 so far.")
    assert "20.jpg cannot be read (No such file or directory)" in second
    assert second.endswith("left out: 2 of 26 so far.")
    assert images.left_out == {7, 20}


def test_training_batch_of_nothing_but_broken_images_is_refused(folder: Path) -> None:
    for path in folder.glob("*.jpg"):
        path.write_bytes(JPEG[:-20])
    with pytest.raises(UserError, match=r"No image of a training batch can be read: .*Look at --data.root"):
        list(loader(files(folder, skip_broken=True)))
    assert sum(len(batch.x) for batch in loader(files(folder, skip_broken=True), shuffle_seed=None)) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_done_to_images_is_said_once(folder: Path, workers: int, capsys: pytest.CaptureFixture[str]) -> None:
    for i in (3, 11):
        (folder / f"{i}.jpg").write_bytes(encode(photograph().convert("CMYK")))
        (folder / f"{i + 1}.jpg").write_bytes(encode(photograph().convert("RGBA"), format="png"))
    epochs(loader(files(folder), workers))
    assert capsys.readouterr().out == "Some of the images are in CMYK, brought to RGB.\n"


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


@pytest.mark.parametrize("at", ["in mid-epoch", "between epochs", "before any"])
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


# -- the cache --------------------------------------------------------------------------------------------------------


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
