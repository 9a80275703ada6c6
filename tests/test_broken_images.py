"""Image files that cannot be read: each is found and named, and ends the epoch or is left out, as it was asked for."""

from itertools import chain
from pathlib import Path

import photographs
import pytest
from batches import epochs
from photographs import JPEG, SIZE, N, encode, files, loader, photograph

from ldmi_lightning.datamodules.image_files import ImageFiles
from ldmi_lightning.datamodules.images import UnreadableImage
from ldmi_lightning.errors import UserError

folder = photographs.folder  # a fixture

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
