"""Images of any kind: the greys they hold, upright and without transparency; folders of them, and what cannot be read."""

import io
import os
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import writers
from numpy.typing import NDArray
from PIL import Image, ImageOps
from refusals import refusal

from ldmi_lightning.datamodules import HFDataModule, ImageFolderDataModule
from ldmi_lightning.datamodules.images import SUFFIXES, UnreadableImage, decode_images, read_image

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
RAMP_16 = RAMP.astype(np.uint16) * 257
COLOURS = np.random.RandomState(0).randint(0, 256, (24, 17, 3), dtype=np.uint8)


def encoded(image: Image.Image | NDArray[Any], kind: str = "png", **options: Any) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def reason(data: bytes) -> str:
    with pytest.raises(UnreadableImage) as raised:
        read_image(data)
    assert "\n" not in str(raised.value)
    return raised.value.reason


# -- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jpeg", "png"])
@pytest.mark.parametrize("grey", [False, True])
def test_ordinary_images_keep_the_pixels_of_pillow_bit_for_bit(kind: str, grey: bool) -> None:
    """Fingerprints of the paper's data sets hang on it."""
    data = encoded(COLOURS[:, :, 0] if grey else COLOURS, kind)
    for mode in ("RGB", "L"):
        expected = np.array(Image.open(io.BytesIO(data)).convert(mode))
        ours = read_image(data, mode)  # type: ignore[arg-type]
        assert ours.dtype == torch.uint8
        assert np.array_equal(ours.permute(1, 2, 0).numpy().reshape(expected.shape), expected)


@pytest.mark.parametrize(
    "data",
    [
        encoded(RAMP_16),
        encoded(RAMP_16, "tiff"),
        encoded(RAMP_16.astype(">u2"), "tiff"),
        encoded(RAMP_16.astype(np.int32), "tiff"),
        encoded(RAMP_16.astype(np.int32), "ppm"),
    ],
    ids=["png", "tiff", "big-endian tiff", "tiff of 32 bits", "pgm"],
)
def test_ramp_of_16_bits_keeps_its_greys(data: bytes) -> None:
    notes: Counter[str] = Counter()
    assert np.array_equal(read_image(data, "L", notes=notes)[0], RAMP)
    assert np.array_equal(read_image(data), np.stack([RAMP] * 3))
    assert notes == {"of 16 bits, brought to 8": 1}


def test_16_bits_are_rounded_to_the_nearest_grey() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(read_image(encoded(values), "L")[0], np.round(values / 257))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (RAMP.astype(np.float32) / 255, "floating-point numbers, of which nobody says which is white"),
        (RAMP.astype(np.int32) + 70_000, r"whole numbers from 70000 to 70255, .* 0 to 65,535"),
        (RAMP.astype(np.int32) - 1, "whole numbers from -1 to 254"),
    ],
)
def test_greys_that_nobody_can_scale_are_refused(values: NDArray[Any], said: str) -> None:
    assert re.search(said, reason(encoded(values, "tiff")))


def test_one_bit_becomes_black_and_white() -> None:
    ours = read_image(encoded(Image.fromarray(RAMP).point(lambda grey: 255 * (grey > 99)).convert("1")), "L")
    assert np.array_equal(ours[0], np.where(RAMP > 99, 255, 0))


def clear(image: Image.Image) -> Image.Image:
    """Make the upper half transparent, and the lower left quarter half so."""
    alpha = np.full((16, 16), 255, np.uint8)
    alpha[:8], alpha[8:, :8] = 0, 128
    image.putalpha(Image.fromarray(alpha))
    return image


RED = Image.new("RGB", (16, 16), (204, 0, 0))
ON_WHITE = {(0, 0): (255, 255, 255), (12, 2): (229, 127, 127), (12, 12): (204, 0, 0)}


@pytest.mark.parametrize(
    ("image", "kind"),
    [(RED, "png"), (RED, "webp"), (RED, "tiff"), (RED.convert("P"), "tiff"), (RED.convert("L"), "png")],
    ids=["RGBA", "webp", "tiff", "PA", "LA"],
)
def test_transparency_is_put_on_white(image: Image.Image, kind: str) -> None:
    notes: Counter[str] = Counter()
    ours = read_image(
        encoded(clear(image.copy()), kind, **({"lossless": True, "exact": True} if kind == "webp" else {})), notes=notes
    )
    for place, colour in ON_WHITE.items():
        if image.mode == "L":  # 204 of red is 61 of grey
            colour = (round(61 + colour[1] * 194 / 255),) * 3
        off = np.abs(ours[:, place[0], place[1]].numpy().astype(int) - colour)
        assert off.max() <= 2, (place, ours[:, place[0], place[1]])
    assert notes == {"with transparency, put on white": 1}


@pytest.mark.parametrize(
    ("data", "hidden"),
    [
        (encoded(Image.fromarray(RAMP).convert("P"), transparency=7), 7),
        (encoded(RAMP, transparency=7), 7),
        (encoded(RAMP_16, transparency=7 * 257), 7),
        (encoded(np.stack([RAMP] * 3, -1), transparency=(7, 7, 7)), 7),
        (encoded(Image.fromarray(RAMP).convert("P"), "gif", transparency=7), 7),
    ],
    ids=["palette", "grey", "16 bits", "colour", "gif"],
)
def test_a_colour_that_stands_for_transparency_becomes_white(data: bytes, hidden: int) -> None:
    expected = RAMP.copy().ravel()
    expected[hidden] = 255
    assert np.array_equal(read_image(data, "L")[0].ravel(), expected)


def test_opaque_images_are_no_transparent_ones() -> None:
    notes: Counter[str] = Counter()
    ours = read_image(encoded(Image.fromarray(COLOURS).convert("RGBA")), notes=notes)
    assert np.array_equal(ours.permute(1, 2, 0), COLOURS)
    assert not notes


@pytest.mark.parametrize("kind", ["jpeg", "tiff"])
def test_cmyk_becomes_rgb(kind: str) -> None:
    notes: Counter[str] = Counter()
    ours = read_image(encoded(Image.new("RGB", (16, 16), (200, 100, 50)).convert("CMYK"), kind), notes=notes)
    assert np.abs(ours[:, 8, 8].numpy().astype(int) - (200, 100, 50)).max() <= 3
    assert notes == {"in CMYK, brought to RGB": 1}


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(
        COLOURS, kind, exif=exif if kind == "tiff" else exif.tobytes(), **({"lossless": True} if kind == "webp" else {})
    )
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert expected.shape[:2] == ((24, 17) if orientation < 5 else (17, 24))
    assert np.array_equal(read_image(data).permute(1, 2, 0), expected)


def test_image_decoded_at_a_part_of_its_size_is_turned_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.fromarray(np.repeat(np.uint8([[0, 255]]), 80, axis=1)).resize((160, 100))
    ours = read_image(encoded(wide, "jpeg", exif=exif.tobytes()), at_least=40)
    assert ours.shape == (3, 80, 50), "a half, and turned: 100×160 would be all of it"
    assert ours[:, 5].max() < 30 < 220 < ours[:, -5].min()


def test_exif_that_nobody_can_read_is_no_fault_of_the_pixels() -> None:
    data = encoded(COLOURS, "jpeg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff rubbish")
    assert torch.equal(read_image(data), read_image(encoded(COLOURS, "jpeg")))


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tiff"])
def test_first_frame_is_read(kind: str) -> None:
    others = [Image.new("RGB", (16, 16), colour) for colour in ("blue", "green")]
    options = {"lossless": True} if kind == "webp" else {}
    notes: Counter[str] = Counter()
    data = encoded(Image.new("RGB", (16, 16), "red"), kind, save_all=True, append_images=others, **options)
    assert read_image(data, notes=notes)[:, 8, 8].tolist() == [255, 0, 0]
    assert notes == {"with several frames, of which the first is taken": 1}


# -- what cannot be read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is empty"),
        (b"text", "it is no image"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
            "it is a Git-LFS pointer.*git lfs pull",
        ),
        (b"\n<!DOCTYPE html><html>Not found", "it is an HTML page"),
        (encoded(COLOURS)[:200], "."),
        (encoded(COLOURS, "jpeg")[:-100], "truncated|broken"),
    ],
)
def test_file_that_is_no_image_is_called_what_it_is(data: bytes, said: str) -> None:
    assert re.search(said, reason(data))


@pytest.mark.parametrize("limit", [100, 200])
def test_images_of_too_many_pixels_are_refused_with_the_number(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever the user has set, Pillow's warning is not all that is said
        assert f"it has more than {limit} pixels" in reason(encoded(COLOURS))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", COLOURS.size // 3)
    read_image(encoded(COLOURS))


def test_limit_of_pixels_is_the_one_that_is_documented() -> None:
    assert f"{Image.MAX_IMAGE_PIXELS:,}" in str(read_image.__doc__)


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").mkdir()
    (tmp_path / "c.jpg").touch()
    (tmp_path / "d.jpg").symlink_to("nowhere")
    (tmp_path / "e.jpg").symlink_to("/dev/zero")
    said = []
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(UnreadableImage, match=re.escape(str(path))) as raised:
            read_image(path)
        said.append(raised.value.reason)
    special = "it is a FIFO, a socket or a device, and no file"
    assert said == [special, "it is a folder", "it is empty", "No such file or directory", special]


# -- folders ----------------------------------------------------------------------------------------------------------


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (9, 7, 3), dtype=np.uint8))


def write(root: Path, *files: str) -> Path:
    """Write a picture of its own under each name, in the format that its suffix says."""
    for seed, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        kind = (
            Path(file).suffix.lower().strip(".").replace("jpg", "jpeg").replace("tif", "tiff").replace("tifff", "tiff")
        )
        (root / file).write_bytes(encoded(picture(seed), kind) if f".{kind}" in (*SUFFIXES, ".tiff") else b"a note")
    return root


def loaded(root: Path, **options: Any) -> ImageFolderDataModule:
    data = ImageFolderDataModule(str(root), 6, **{"val_share": 0.25, "test_share": 0.25, **options})
    data.setup("fit")
    return data


EIGHT = [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(4)]


def test_every_kind_of_file_is_read_in_folders_however_deep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"cat/{'in/' * depth}{depth}{suffix}" for depth, suffix in enumerate(SUFFIXES)]
    write(tmp_path, *names, *(name.replace("cat", "dog").upper().replace("DOG/", "dog/") for name in names))
    data = loaded(tmp_path)
    assert sum(len(split) for split in data.splits.values()) == 2 * len(SUFFIXES) == 16
    assert capsys.readouterr().out == ""


def test_original_index_counts_by_class_and_name(tmp_path: Path) -> None:
    write(tmp_path, "cat/b/1.png", "cat/a.png", "cat/b.png", "cat/c/1.png", *EIGHT[4:])
    data = loaded(tmp_path)
    order = ["cat/a.png", "cat/b/1.png", "cat/b.png", "cat/c/1.png", *EIGHT[4:]]
    expected = [read_image(tmp_path / name).float().mean() for name in sorted(order, key=lambda name: Path(name).parts)]
    for split in data.splits.values():
        for x, index in zip(split.x, split.original_index.tolist(), strict=True):
            assert abs(x.float().mean() - expected[index]) < 4


def test_what_is_left_out_is_counted_by_kind_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, *EIGHT, "cat/a.txt", "cat/in/b.TXT", "dog/c.heic", "dog/.DS_Store", "dog/LICENSE", "about.png")
    loaded(tmp_path)
    expected = "2 .txt, 1 .heic, 1 hidden, 1 outside the folders of the classes, 1 without a suffix"
    (line,) = capsys.readouterr().out.splitlines()
    begin, _, kinds = line.partition(": left out are ")
    assert begin == f"--data.root {tmp_path}"
    assert sorted(kinds.strip(".").split(", ")) == sorted(expected.split(", "))


def test_what_is_done_to_images_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, *EIGHT)
    for name in ("cat/0.png", "dog/0.png"):
        (tmp_path / name).write_bytes(encoded(RAMP_16 // (2 if "dog" in name else 1)))
    (tmp_path / "cat/1.png").write_bytes(encoded(clear(RED.copy())))
    loaded(tmp_path)
    assert capsys.readouterr().out == (
        f"--data.root {tmp_path}: of 8 images 2 of 16 bits, brought to 8, 1 with transparency, put on white.\n"
    )


def test_all_broken_files_are_named_at_once(tmp_path: Path) -> None:
    write(tmp_path, *EIGHT)
    os.mkfifo(tmp_path / "cat/9.jpg")
    (tmp_path / "cat/2.png").write_bytes(b"")
    (tmp_path / "dog/x.jpg").mkdir()
    (tmp_path / "dog/x.jpg/1.gif").write_text("<html>")
    assert refusal(lambda: loaded(tmp_path)) == (
        f"3 of 10 images cannot be read: {tmp_path}/cat/2.png (it is empty), {tmp_path}/cat/9.jpg (it is a FIFO, a socket or "
        f"a device, and no file), {tmp_path}/dog/x.jpg/1.gif (it is an HTML page: download the file itself). Repair them, or "
        f"take them out of --data.root {tmp_path}."
    )


def test_of_many_broken_files_the_first_twenty_are_named(tmp_path: Path) -> None:
    write(tmp_path, *EIGHT)
    for i in range(30):
        (tmp_path / f"dog/broken{i:02}.png").touch()
    said = refusal(lambda: loaded(tmp_path))
    assert said.count("it is empty") == 20
    assert "broken19.png (it is empty) and 10 more. Repair them" in said


@pytest.mark.timeout(20)
def test_links_that_lead_back_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, *EIGHT)
    for link, target in {"cat/self": "cat", "cat/up": ".", "dog/in/deep": "dog"}.items():
        (tmp_path / link).parent.mkdir(exist_ok=True)
        (tmp_path / link).symlink_to(tmp_path / target)
    assert sum(len(split) for split in loaded(tmp_path).splits.values()) == 8
    assert "left out are 3 leading back to a folder above." in capsys.readouterr().out


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", *EIGHT)
    (tmp_path / "root").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "root" / name).symlink_to(tmp_path / "elsewhere" / name)
    assert sum(len(split) for split in loaded(tmp_path / "root").splits.values()) == 8


@pytest.mark.parametrize("others", [["train", "validation"], ["train", "test", "unlabelled"], ["test", "cat"]])
def test_folders_that_may_be_splits_are_refused_and_no_classes(tmp_path: Path, others: list[str]) -> None:
    write(tmp_path, *(f"{split}/{file}" for split in others for file in EIGHT))
    assert re.search(r"holds .*: (train|test) looks like a split", refusal(lambda: loaded(tmp_path)))


def test_copies_in_two_splits_and_in_two_classes_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, *(f"{split}/{file}" for split in ("train", "val", "test") for file in EIGHT))
    for copy, of in {"test/cat/1.png": "train/cat/3.png", "test/dog/2.png": "train/cat/0.png"}.items():
        (tmp_path / copy).write_bytes((tmp_path / of).read_bytes())
    loaded(tmp_path)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(
        "2 of 8 test images are in the train split too, byte for byte (first: test/cat/1.png, which is train/cat/3.png)"
    )
    assert second.startswith(
        "1 images are in another class too, byte for byte (first: test/dog/2.png, which is train/cat/0.png)"
    )


# -- columns of images ------------------------------------------------------------------------------------------------


def column(*cells: bytes | None) -> Any:
    rows = [None if cell is None else {"bytes": cell, "path": None} for cell in cells]
    return datasets.Dataset.from_dict({"image": rows}, datasets.Features({"image": datasets.Image()}))


def test_a_column_is_read_as_files_are(capsys: pytest.CaptureFixture[str]) -> None:
    images = decode_images(column(encoded(RAMP_16), encoded(clear(RED.copy())), encoded(RAMP)), "image", "RGB")
    assert np.array_equal(images[0], images[2])
    assert images[1, :, 0, 0].tolist() == [255, 255, 255]
    assert capsys.readouterr().out == (
        "Column image: of 3 images 1 of 16 bits, brought to 8, 1 with transparency, put on white.\n"
    )


def test_all_broken_images_of_a_column_are_named_at_once() -> None:
    data = column(encoded(RAMP), b"text", None, encoded(RAMP)[:45], encoded(RAMP))
    said = refusal(lambda: decode_images(data, "image", "L", option="--data.source"))
    assert said.startswith(
        "3 of 5 images cannot be decoded: Image 1 of column image (it is no image), Image 2 of column image "
    )
    assert "(there is none), Image 3 of column image (" in said
    assert said.endswith("Repair them, or take them out of --data.source.")
    assert "Image 1 of column" in refusal(lambda: decode_images(data.select([0, 1]), "image", "L"))


def test_images_of_the_hub_and_of_folders_are_the_same(tmp_path: Path) -> None:
    write(tmp_path / "folders", *EIGHT)
    cells = [{"bytes": (tmp_path / "folders" / name).read_bytes(), "path": None} for name in EIGHT]
    rows = {"train": {"image": cells, "label": [0] * 4 + [1] * 4}}
    writers.write_parquet(tmp_path / "hub", {"image": datasets.Image(), "label": datasets.Value("int64")}, rows)
    options: dict[str, Any] = {"image_size": 6, "val_share": 0.25, "test_share": 0.25}
    hub = HFDataModule(str(tmp_path / "hub"), class_names=["cat", "dog"], image_column="image", **options)
    hub.setup("fit")
    folders = loaded(tmp_path / "folders")
    for name, split in folders.splits.items():
        assert torch.equal(split.x, hub.splits[name].x)
