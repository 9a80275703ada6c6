"""What a sample was before it became numbers: files, texts and pictures of all data sets, read when they are asked for."""

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import writers
from cases import CASES, Case
from features import encoded
from PIL import Image
from sklearn.datasets import load_digits

from ldmi_lightning.datamodules import DigitsDataModule, HFDataModule, ImageFolderDataModule, NoisyDataModule
from ldmi_lightning.datamodules.encoding.encoded import EncodedDataModule
from ldmi_lightning.datamodules.image_files import ImageFiles
from ldmi_lightning.originals import Original, Originals, caption, thumbnail

pytestmark = pytest.mark.usefixtures("hub_of_its_own")

KINDS = {"image folders": "file", "clothing1m": "file", "mr random": "text", "mr hub": "text", "mr tokenizer": "text"}
KINDS |= {"hub texts": "text", "arrays": None, "sheet": None}  # of all others the pictures are shown


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, NoisyDataModule]:
    found: Case = CASES[request.param]
    data = partial(found.make, found.write(tmp_path_factory.mktemp("data") / "written"))(noise=None, batch_size=16)
    data.setup("fit")
    return request.param, data


def shown(original: Original | None) -> Image.Image:
    png = thumbnail(original)
    assert png is not None
    return Image.open(io.BytesIO(png))


def test_every_data_set_shows_what_it_has(case: tuple[str, NoisyDataModule]) -> None:
    name, data = case
    for split, part in data.splits.items():
        originals = data.originals(split)
        assert len(originals) == len(part)
        for original in (originals[0], originals[len(part) - 1]):
            assert (None if original is None else original.kind) == KINDS.get(name, "image")
            if original is not None and original.kind != "text":
                assert max(shown(original).size) <= 96
            if original is not None and original.kind == "file":
                assert Path(str(original.value)).is_file()


def test_pictures_are_those_that_are_stored(case: tuple[str, NoisyDataModule]) -> None:
    name, data = case
    if KINDS.get(name, "image") != "image":
        return
    split = data.splits["val"]
    for position in (0, 5):
        value: Any = data.originals("val")[position].value  # type: ignore[union-attr]
        pixels = value[None] if value.ndim == 2 else value.transpose(2, 0, 1)
        assert pixels.dtype == np.uint8
        assert np.abs(pixels.astype(int) - split.x[position].numpy().astype(int) * 255 / data.white).max() <= 0.5


def test_a_text_is_as_it_was_given_and_not_as_tokens(tmp_path: Path) -> None:
    texts = [f"A  Text, number {number} <b>" for number in range(40)]
    rows = "".join(f'"{text}",{"ab"[number % 2]}\n' for number, text in enumerate(texts))
    (tmp_path / "it.csv").write_text(f"text,label\n{rows}")
    data = HFDataModule(str(tmp_path / "it.csv"), text_column="text")
    data.setup("fit")
    for split, part in data.splits.items():
        assert [caption(each) for each in data.originals(split)] == [texts[i] for i in part.original_index.tolist()]


def test_both_texts_of_a_pair_are_shown_whichever_split_of_the_source_they_come_from(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tiny_tokenizers import write_tokenizer

    write_tokenizer(tmp_path / "tokenizer")
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "test"):
        lines = "".join(f"{split} {number},other {number},{'ab'[number % 2]}\n" for number in range(20))
        (data / f"{split}.csv").write_text(f"one,two,label\n{lines}")
    options = {"text_column": "one", "text_pair_column": "two", "tokenizer": str(tmp_path / "tokenizer")}
    pairs = HFDataModule(str(data), **options)
    pairs.setup("fit")
    assert {caption(each) for each in pairs.originals("test")} == {f"test {n} | other {n}" for n in range(20)}
    train = {*pairs.originals("train"), *pairs.originals("val")}
    assert {caption(each) for each in train} == {f"train {n} | other {n}" for n in range(20)}


def test_an_image_folder_shows_the_file_of_each_label(tmp_path: Path) -> None:
    writers.write_image_folders(tmp_path, {"cat": 20, "dog": 10}, "png")
    data = ImageFolderDataModule(str(tmp_path), 8)
    data.setup("fit")
    for split, part in data.splits.items():
        folders = [Path(caption(each)).parent.name for each in data.originals(split)]
        assert folders == [data.class_names[label] for label in part.y.tolist()]


def test_encoded_data_shows_what_was_encoded_also_of_a_fold() -> None:
    data = EncodedDataModule(DigitsDataModule(), torch.nn.Flatten())
    data.setup("")
    pixels = load_digits().images.astype(int)
    train, val = data.splits["train"], data.splits["val"]
    mixed = train.original_index[:5].tolist() + val.original_index[:5].tolist()
    data.splits["fold"] = type(train)(None, train.y[:10], train.y[:10], torch.tensor(mixed))
    for split in ("train", "fold"):
        index = data.splits[split].original_index.tolist()
        for position in (0, 3, 7):
            value: Any = data.originals(split)[position].value  # type: ignore[union-attr]
            assert np.abs(value - pixels[index[position]] * 255 / 16).max() <= 0.5


def test_features_of_tables_have_nothing_to_show(tmp_path: Path) -> None:
    data = encoded(tmp_path)
    data.setup("")
    assert set(data.originals("val")) == {None}


def test_nothing_is_read_before_it_is_asked_for() -> None:
    asked: list[int] = []

    def read(position: int) -> Original:
        asked.append(position)
        return Original("row", None)

    originals = Originals(1_000_000, read)
    assert len(originals) == 1_000_000
    assert asked == []
    assert originals[-1] == Original("row", None)
    assert asked == [999_999]
    with pytest.raises(IndexError):
        originals[1_000_000]


# -- thumbnails -------------------------------------------------------------------------------------------------------


def written(path: Path, image: Image.Image, **options: Any) -> Original:
    image.save(path, **options)
    return Original("file", path)


def test_a_thumbnail_keeps_the_shape_and_a_small_picture_its_size(tmp_path: Path) -> None:
    photo = written(tmp_path / "a.jpg", Image.new("RGB", (400, 100), (200, 10, 10)))
    assert shown(photo).size == (96, 24)
    assert np.abs(np.asarray(shown(photo))[5, 5].astype(int) - (200, 10, 10)).max() < 6
    assert shown(Original("image", np.zeros((8, 8), np.uint8))).size == (8, 8)


def test_a_thumbnail_is_upright_on_white_and_of_8_bits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    assert shown(written(tmp_path / "turned.jpg", Image.new("L", (60, 20)), exif=exif)).size == (20, 60)
    clear = written(tmp_path / "clear.png", Image.new("RGBA", (4, 4), (0, 0, 0, 0)))
    assert np.asarray(shown(clear)).min() == 255
    deep = written(tmp_path / "deep.png", Image.fromarray(np.full((4, 4), 65_535 // 2, np.uint16)))
    assert np.asarray(shown(deep)).tolist() == [[127] * 4] * 4


def test_what_cannot_be_shown_has_no_thumbnail(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff none")
    for original in (
        None,
        *(Original("text", "a"), Original("row", None), Original("file", tmp_path / "broken.jpg")),
        *(Original("file", tmp_path / "gone.png"), Original("file", tmp_path)),
    ):
        assert thumbnail(original) is None


def test_image_files_are_addressed_below_their_root(tmp_path: Path) -> None:
    files = ImageFiles(["a/b.png"], 8, root=tmp_path)
    from ldmi_lightning.datamodules.shown import stored_original

    assert stored_original(files, 0) == Original("file", tmp_path / "a/b.png")
