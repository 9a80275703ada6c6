"""`ldmi predict --input`: new images and features by the training run's own preprocessing, which needs none of its data."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import new_samples
import numpy as np
import pytest
import torch
import writers
from new_samples import QUIET, WARMUP, answers, fitted, held_out, photos, predict, rows

from ldmi_lightning.datamodules import ImageFolderDataModule
from ldmi_lightning.datamodules.image_listing import list_images
from ldmi_lightning.originals import caption

pytestmark = pytest.mark.usefixtures("hub_of_its_own")
# fixtures
here, digits = new_samples.here, new_samples.digits
flowers, importable = new_samples.flowers, new_samples.importable


# -- images -----------------------------------------------------------------------------------------------------------


def test_arrays_and_image_files_get_what_the_test_split_gets(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = held_out()
    np.save("x.npy", pixels)
    photos(Path("photos"), pixels)
    (Path("photos") / "notes.txt").touch()
    assert predict(digits, None, "known") == 0
    assert predict(digits, Path("x.npy"), "array") == 0
    capsys.readouterr()
    assert predict(digits, Path("photos"), "files") == 0
    printed = capsys.readouterr()
    assert printed.out == "--input: left out are 1 .txt.\n300 predictions: files/predictions.csv\n"
    assert printed.err == ""
    known = answers(rows("known"))
    assert answers(rows("array")) == known
    assert [row["row"] for row in rows("array")] == [str(number) for number in range(300)]
    found = {row["path"]: row for row in rows("files")}
    names = [f"{'in/' if number % 2 else ''}{number:03}.png" for number in range(300)]
    assert answers([found[name] for name in names]) == known
    assert [row["path"] for row in rows("files")] == [
        path.relative_to("photos").as_posix() for path in sorted(Path("photos").rglob("*.png"))
    ]


def test_one_image_of_another_size_is_resized_and_that_is_said(
    digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = held_out()
    photos(Path("photos"), pixels[:1], size=16)
    assert predict(digits, Path("photos/000.png")) == 0
    assert "of 1 samples 1 of another size than 8 × 8, to which they are brought." in capsys.readouterr().out
    np.save("x.npy", pixels[:1])
    assert predict(digits, Path("x.npy"), "array") == 0
    assert [row["path"] for row in rows()] == ["000.png"]
    assert answers(rows())[0][:2] == answers(rows("array"))[0][:2]


def test_broken_images_are_all_named_and_have_no_prediction(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = held_out()
    photos(Path("photos"), pixels[:80])
    for name in ("in/001.png", "in/071.png"):
        (Path("photos") / name).write_bytes(b"\x89PNG none")
    assert predict(digits, Path("photos")) == 1
    (line,) = [each for each in capsys.readouterr().out.splitlines() if "cannot be read" in each]
    assert line.startswith("2 of 80 samples cannot be read, and have no prediction: in/001.png (")
    assert "in/071.png (" in line
    assert [row["path"] for row in rows() if row["class"] == ""] == ["in/001.png", "in/071.png"]
    assert len(rows()) == 80
    shutil.rmtree("photos")
    Path("photos").mkdir()
    Path("photos/a.png").touch()
    assert predict(digits, Path("photos"), "none") == 2
    assert "None of the 1 samples in --input can be read: a.png (it is empty)." in capsys.readouterr().err
    assert not list(Path("none").iterdir())


@pytest.mark.slow
def test_two_ranks_write_the_same_file(digits: Path) -> None:
    pixels = held_out()
    np.save("x.npy", pixels)  # 5 batches of 64: the last step has one rank alone
    assert predict(digits, Path("x.npy"), "1") == 0
    command = [sys.executable, "-m", "ldmi_lightning", "predict", "--ckpt_path", str(digits), "--input", "x.npy"]
    command += ["--output", "2", "--trainer.devices", "2", *QUIET]
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    run = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == "300 predictions: 2/predictions.csv\n"
    assert Path("2/predictions.csv").read_bytes() == Path("1/predictions.csv").read_bytes()


def test_a_run_of_image_folders_needs_none_of_its_images(importable: Path, tmp_path: Path) -> None:
    shots = writers.write_image_folders(tmp_path / "shots", {"cat": 30, "dog": 30})
    words = ["--data", "ImageFolderDataModule", "--data.root", str(shots), "--data.image_size", "8"]
    checkpoint = fitted(tmp_path, *words, "--model.backbone", "flower_data.Colour", *WARMUP)
    assert predict(checkpoint, None, "known") == 0
    data = ImageFolderDataModule(str(shots), 8)
    data.setup("fit")
    tested = [Path(caption(each)).relative_to(shots).as_posix() for each in data.originals("test")]
    shots.rename(tmp_path / "elsewhere")
    assert predict(checkpoint, tmp_path / "elsewhere") == 0
    paths = [f"{name}/{number:03}.jpg" for name in ("cat", "dog") for number in range(30)]
    assert [row["path"] for row in rows()] == paths
    found = {row["path"]: row for row in rows()}
    assert answers([found[path] for path in tested]) == answers(rows("known"))


def test_a_column_of_images_is_read_as_that_of_the_run(importable: Path, tmp_path: Path) -> None:
    sizes = {"train": 40, "validation": 10, "test": 10}
    source = writers.write_images(tmp_path / "hub", ("photo", "label"), sizes, classes=2)
    words = [
        "--data",
        "HFDataModule",
        "--data.source",
        str(source),
        "--data.image_column",
        "photo",
        "--data.image_size",
        "8",
    ]
    checkpoint = fitted(tmp_path, *words, "--model.backbone", "flower_data.Colour", *WARMUP)
    assert predict(checkpoint, None, "known") == 0
    (tmp_path / "hub/test-00000-of-00001.parquet").rename(tmp_path / "new.parquet")
    shutil.rmtree(source)
    assert predict(checkpoint, tmp_path / "new.parquet") == 0
    assert answers(rows()) == answers(rows("known"))


def test_a_list_of_images_is_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.png", "a.png", "c/a/1.png", "c/b.png", "c-d/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = list_images(tmp_path, Counter())
    assert found == sorted(found)
    assert len(found) == 6


# -- features, and what an encoder makes of inputs --------------------------------------------------------------------


def test_a_class_of_ones_own_reads_arrays_and_tables_of_numbers(importable: Path) -> None:
    x = (np.random.RandomState(0).randn(60, 3) + (np.arange(60) % 2)[:, None]).astype(np.float32)[50:]
    np.save("x.npy", x)
    Path("x.csv").write_text("u,v,w,label\n" + "".join(",".join(map(repr, map(float, row))) + ",a\n" for row in x))
    assert predict(importable, None, "known") == 0
    assert predict(importable, Path("x.npy"), "array") == 0
    assert predict(importable, Path("x.csv"), "table") == 0
    assert answers(rows("array")) == answers(rows("known")) == answers(rows("table"))


def test_numbers_that_are_none_have_no_prediction(importable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.csv").write_text("u,v,w\n1,2,3\n1,,3\n1,nan,3\n")
    assert predict(importable, Path("x.csv")) == 1
    assert (
        "2 of 3 samples cannot be read, and have no prediction: 1 (it holds NaN or infinity), 2 ("
        in capsys.readouterr().out
    )


def test_an_encoder_and_its_standardisation_come_from_the_run(
    importable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--data", "EncodedDataModule", "--data.data", "DigitsDataModule", "--data.encoder", "flower_data.Encoder"]
    monkeypatch.syspath_prepend(str(importable.parents[2]))
    checkpoint = fitted(tmp_path, *words, "--model.backbone", "flower_data.Flat", *WARMUP)
    assert predict(checkpoint, None, "known") == 0
    shutil.rmtree("features")
    pixels = held_out()
    np.save("x.npy", pixels)
    assert predict(checkpoint, Path("x.npy"), "new") == 0
    assert not Path("features").exists()
    for new, known in zip(rows("new"), rows("known"), strict=True):
        assert new["class"] == known["class"]
        assert float(new["confidence"]) == pytest.approx(float(known["confidence"]), abs=2e-6)
