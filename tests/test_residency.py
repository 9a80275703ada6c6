"""What decides whether own images and texts are held in memory or streamed: the memory that is free, and their source."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from own_data import ready
from own_sources import SOURCES, Make, parquet_of_images
from refusals import refusal
from torch import Tensor

from ldmi_lightning.datamodules import HFDataModule, residency
from ldmi_lightning.datamodules.streamed import Streamed
from ldmi_lightning.noise import InstanceDependentNoise

pytestmark = pytest.mark.usefixtures("hub_of_its_own")


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
