"""Own images and texts that are streamed: the batches of those in memory, what decides, what cannot be read, whole commands."""

import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
import writers
from batches import epochs, equal
from blobs import run_folder
from conftest import MakeTrainer
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning import seed_everything
from refusals import refusal
from stops import StopAt, Stopped
from tiny_tokenizers import write_tokenizer
from torch import Tensor, nn

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.commands import main
from ldmi_lightning.datamodules import (
    EncodedDataModule,
    HFDataModule,
    ImageFolderDataModule,
    NoisyDataModule,
    residency,
)
from ldmi_lightning.datamodules.fold_splits import hold_out
from ldmi_lightning.datamodules.folds import Fold
from ldmi_lightning.datamodules.image_rows import row_in_files
from ldmi_lightning.datamodules.streamed import Streamed, StreamedLoader
from ldmi_lightning.inputs import tensors_in
from ldmi_lightning.losses import CELoss, DMILoss
from ldmi_lightning.noise import InstanceDependentNoise, SymmetricNoise

pytestmark = pytest.mark.usefixtures("hub_of_its_own")

PHOTOS: dict[str, Any] = {"image_column": "image", "image_size": 6, "class_names": ["a", "b"], "batch_size": 8}
TEXTS: dict[str, Any] = {"text_column": "text", "class_names": ["bad", "good"], "batch_size": 8}
Make = Callable[..., NoisyDataModule]


def folder_of_images(root: Path) -> Make:
    writers.write_image_folders(root / "photos", {"cat": 20, "dog": 20})
    return lambda **options: ImageFolderDataModule(str(root / "photos"), 6, **{"batch_size": 8, **options})


def shards(root: Path, sizes: tuple[int, ...] = (25, 0, 15), broken: int | None = None) -> Path:
    """Write parquet shards of images; the image at position ``broken`` is none."""
    rng, at = np.random.RandomState(0), 0
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    root.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        labels = [(at + i) % 2 for i in range(size)]
        cells = [writers.cell(writers.picture(rng, y / 2, (9, 7, 3))) for y in labels]
        if broken is not None and at <= broken < at + size:
            cells[broken - at] = {"bytes": b"no image", "path": None}
        rows = {"image": cells, "label": labels}
        name = f"train-{number:05}-of-{len(sizes):05}.parquet"
        datasets.Dataset.from_dict(rows, features).to_parquet(root / name)
        at += size
    return root


def parquet_of_images(root: Path) -> Make:
    shards(root / "images")
    return lambda **options: HFDataModule(str(root / "images"), **{**PHOTOS, **options})


def parquet_of_texts(root: Path) -> Make:
    writers.write_texts(root / "texts", {"train": 40, "test": 13})
    return lambda **options: HFDataModule(str(root / "texts"), **{**TEXTS, **options})


def parquet_of_tokens(root: Path) -> Make:
    writers.write_texts(root / "texts", {"train": 40, "test": 13})
    tokenizer = str(write_tokenizer(root / "tokenizer"))
    return lambda **options: HFDataModule(
        str(root / "texts"), tokenizer=tokenizer, max_tokens=6, **{**TEXTS, **options}
    )


SOURCES = [folder_of_images, parquet_of_images, parquet_of_texts, parquet_of_tokens]


def ready(data: NoisyDataModule) -> NoisyDataModule:
    data.prepare_data()
    data.setup("fit")
    return data


# -- the batches are those of data in memory --------------------------------------------------------------------------


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


# -- what decides -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("free", "streams"), [(8_640 - 1, True), (8_640, False), (None, False)])
def test_images_are_streamed_where_they_take_more_than_half_of_the_free_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free: int | None, streams: bool
) -> None:
    make = parquet_of_images(tmp_path)  # 40 images of 3×6×6 bytes
    monkeypatch.setattr(residency, "free_memory", lambda: free)
    data = ready(make(num_workers=1))
    assert isinstance(data.splits["train"].x, Streamed) == streams
    said = capsys.readouterr().out
    line = "40 images of 6×6 would take 0.0 GB, more than half of the 0.0 GB of memory that are free: they are decoded batch by "
    assert said.count(f"{line}batch, by 1 process. --data.streamed false holds them there.\n") == streams
    assert isinstance(ready(make(streamed=False)).splits["train"].x, Tensor)
    assert "would take" not in capsys.readouterr().out


@pytest.mark.parametrize("source", SOURCES)
def test_whatever_does_not_fit_is_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: Callable[[Path], Make]
) -> None:
    make = source(tmp_path)
    monkeypatch.setattr(residency, "free_memory", lambda: 1000)
    assert isinstance(ready(make()).splits["train"].x, Streamed)
    assert capsys.readouterr().out.count("--data.streamed false") == 1


def test_each_process_of_a_machine_needs_room() -> None:
    free = residency.free_memory()
    assert free is not None
    assert residency.reason_to_stream(free // 3, "It", torch.device("cpu")) is None
    said = residency.reason_to_stream(free // 3, "It", torch.device("cpu"), processes=4)
    assert said is not None
    assert said.endswith("free for each of 4 processes")


def write_groups(root: Path, groups: str, files: dict[str, str]) -> tuple[Path, Path]:
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable: 500 kB\n")
    (root / "proc" / "self" / "cgroup").write_text(groups)
    for name, text in files.items():
        (root / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "groups" / name).write_text(text)
    return root / "proc", root / "groups"


@pytest.mark.parametrize(
    ("groups", "files", "free"),
    [
        ("", {}, 512_000),
        ("0::/job/step\n", {"job/step/memory.max": "max\n"}, 512_000),
        (
            "0::/job/step\n",  # the limit of the group above
            {
                "job/memory.max": "9000\n",
                "job/memory.current": "5000",
                "job/memory.stat": "anon 1\ninactive_file 300\n",
            },
            4_300,
        ),
        (
            "9:cpu:/x\n4:memory:/job\n",
            {
                "memory/job/memory.limit_in_bytes": "7000",
                "memory/job/memory.usage_in_bytes": "8000",
                "memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 900\ntotal_active_file 400\n",
            },
            300,
        ),
        (
            "4:memory:/docker/far\n",  # which a container does not see: its own is the topmost
            {
                "memory/memory.limit_in_bytes": "7000",
                "memory/memory.usage_in_bytes": "8000",
                "memory/memory.stat": "total_active_file 4\n",
            },
            0,
        ),
    ],
)
def test_control_groups_limit_what_is_free(tmp_path: Path, groups: str, files: dict[str, str], free: int) -> None:
    assert residency.free_memory(*write_groups(tmp_path, groups, files)) == free


def test_machine_without_proc_counts_its_memory(tmp_path: Path) -> None:
    found = residency.free_memory(tmp_path / "nowhere")
    assert found is not None
    assert found > 2**28


def test_csv_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("text,label\n" + "a bad one,bad\na good one,good\n" * 20)
    make = lambda **options: HFDataModule(str(tmp_path / "reviews.csv"), text_column="text", **options)  # noqa: E731
    assert "CSV files are read whole" in refusal(lambda: ready(make(streamed=True)))
    assert isinstance(ready(make()).splits["train"].x, Tensor)


def test_noise_that_needs_inputs_says_how_to_hold_them(tmp_path: Path) -> None:
    data = parquet_of_images(tmp_path)(streamed=True, noise=InstanceDependentNoise(0.2))
    assert "held in memory with --data.streamed false" in refusal(lambda: ready(data))


# -- what cannot be read ----------------------------------------------------------------------------------------------


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


# -- whole commands ---------------------------------------------------------------------------------------------------

QUICK = [
    *("--trainer.enable_progress_bar", "false", "--trainer.logger", "false", "--trainer.accelerator", "cpu"),
    *("--model.warmup.epochs", "2", "--model.robust.epochs", "2", "--data.batch_size", "8"),
    *("--model.backbone", "test_own_streamed.Flat", "--data.streamed", "true", "--data.num_workers", "1"),
]


class Flat(nn.Sequential):
    """A linear probe for images of 6×6."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(108, num_classes))


def fit(make: Callable[..., NoisyDataModule], make_trainer: MakeTrainer, root: Path, **options: Any) -> LDMIModule:
    seed_everything(0, verbose=False)
    data, checkpoint = make(streamed=options.pop("streamed", True)), options.pop("ckpt_path", None)
    stages = {"warmup": Stage(CELoss(), epochs=2), "robust": Stage(DMILoss(0.9), epochs=3)}
    module = LDMIModule(Flat(2), num_classes=2, **stages)
    make_trainer(default_root_dir=root, **options).fit(module, data, ckpt_path=checkpoint)
    return module


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("epoch", [1, 3])
def test_run_is_resumed_bit_for_bit_and_may_hold_its_data_from_then_on(
    tmp_path: Path, make_trainer: MakeTrainer, epoch: int, streamed: bool
) -> None:
    make = parquet_of_images(tmp_path)
    whole = fit(make, make_trainer, tmp_path / "whole")
    with pytest.raises(Stopped):
        fit(make, make_trainer, tmp_path / "parts", callbacks=[StopAt(epoch)])
    last = run_folder(tmp_path / "parts") / "last.ckpt"
    resumed = fit(make, make_trainer, tmp_path / "parts", ckpt_path=last, streamed=streamed)
    assert all(torch.equal(whole.state_dict()[name], value) for name, value in resumed.state_dict().items())


def command(root: Path, kind: str) -> list[str]:
    if kind == "folder":
        folder_of_images(root)
        return ["--data", "ImageFolderDataModule", "--data.root", "photos", "--data.image_size", "6"]
    shards(root / "images")
    options = {"source": "images", "image_column": "image", "image_size": "6"}
    return ["--data", "HFDataModule", *(word for name, value in options.items() for word in (f"--data.{name}", value))]


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_streamed_data_is_trained_on_and_predicted(in_own_folder: Path, kind: str) -> None:
    assert main(["fit", *command(in_own_folder, kind), *QUICK]) == 0
    (best,) = Path("runs").glob("*/robust-best.ckpt")
    assert main(["predict", "--ckpt_path", str(best), "--trainer.enable_progress_bar", "false"]) == 0
    assert len((best.parent / "predictions.csv").read_text().splitlines()) == 1 + 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_streamed_data_is_audited(in_own_folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    words = ["audit", *command(in_own_folder, kind), *QUICK, "--folds", "2", "--output", "found"]
    assert main(words) == 0
    assert len((in_own_folder / "found" / "audit" / "issues.csv").read_text().splitlines()) == 1 + 36


@pytest.mark.parametrize("source", SOURCES)
def test_fold_is_held_out_as_of_data_in_memory(tmp_path: Path, source: Callable[[Path], Make]) -> None:
    make, found = source(tmp_path), []
    for streamed in (False, True):
        data = make(streamed=streamed)
        hold_out(data, Fold(1, 2, seed=0))
        found.append(epochs(ready(data).split_dataloader("fold"), 1))
    assert found[0]
    assert equal(*found)


# -- other sources ----------------------------------------------------------------------------------------------------


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
