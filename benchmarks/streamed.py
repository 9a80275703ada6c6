"""Data larger than memory: parquet images that are streamed, against decoding alone and a plain PyTorch DataLoader.

    python benchmarks/streamed.py --million
    python benchmarks/streamed.py --peaks
    python benchmarks/streamed.py

Smooth random JPEG images of 32×32 in ten classes are written to ten parquet shards in ``--folder`` (kept, and used again), or
in a temporary one. ``datasets`` keeps an Arrow copy of them beside, in which any row is read without the others; an epoch is
shuffled over all rows.

Without an option: images a second and core (the processor's time of all processes, so that other programs do not count) of
our training batches and of a plain ``DataLoader`` that decodes the same rows with PIL, turn by turn. ``--peaks``: the most
private memory that an epoch takes, at once, four and sixteen times as many images, each in a process of its own.
``--million``: an epoch of a linear probe on a million images: its memory after the first tenth and at its most later on, its
rate, and that of decoding alone: the same batches from the same workers, of which nothing is made.

Memory is ``Pss_Anon`` of ``/proc/PID/smaps_rollup``, summed over this process and its workers: what they have for themselves,
pages that several share counted once. Pages that are mapped from files are not counted, since the system takes them back when
it needs them.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ldmi_lightning import LDMIModule, Stage, cpu_speed
from ldmi_lightning.datamodules import HFDataModule
from ldmi_lightning.losses import CELoss

CLASSES, SIZE, SHARDS, BATCH_SIZE = 10, 32, 10, 256
ONCE = 20_000
COMPARED, ALONE = 60, 300
"""So many batches are read where sides are compared (fewer than there are: workers that have ended are not counted), and of
decoding alone."""
TICKS = os.sysconf("SC_CLK_TCK")


def write_shards(folder: Path, images: int) -> Path:
    """Write images and labels, unless they are there."""
    folder = folder / f"{images}"
    folder.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=CLASSES)})
    for number in range(SHARDS):
        path = folder / f"train-{number:05}-of-{SHARDS:05}.parquet"
        if path.exists():
            continue
        rng = np.random.RandomState(number)
        labels = rng.randint(CLASSES, size=images // SHARDS)
        coarse = (rng.randint(0, 128, (len(labels), 4, 4, 3)) + 12 * labels[:, None, None, None]).astype(np.uint8)
        rows = {"image": [{"bytes": encoded(each), "path": None} for each in coarse], "label": labels.tolist()}
        datasets.Dataset.from_dict(rows, features).to_parquet(path)
    return folder


def encoded(coarse: np.ndarray[Any, Any]) -> bytes:
    """Return a smooth JPEG image."""
    file = io.BytesIO()
    Image.fromarray(coarse).resize((SIZE, SIZE)).save(file, "jpeg", quality=85)
    return file.getvalue()


def module_of(folder: Path, workers: int) -> HFDataModule:
    """Return the data set, streamed."""
    columns: dict[str, Any] = {"image_column": "image", "image_size": SIZE, "val_share": 0.01, "test_share": 0.01}
    return HFDataModule(str(folder), **columns, batch_size=BATCH_SIZE, streamed=True, num_workers=workers)


def processes() -> list[int]:
    """Return this process and its workers."""
    return [os.getpid(), *(child.pid for child in active_children() if child.pid)]


def private_memory() -> int:
    """Return bytes of memory that this process and its workers have for themselves."""
    found = 0
    for pid in processes():
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        found += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon"))
    return found


def spent() -> float:
    """Return the processor's seconds of this process and its workers so far."""
    stat = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in processes())
    return sum(int(each[11]) + int(each[12]) for each in stat) / TICKS


def rates_of(batches: Iterable[Any], most: int) -> tuple[float, float]:
    """Read so many full batches, or all; return the images for each second that passed, and for each of the processor's."""
    reading = iter(batches)
    next(reading)  # workers begin
    wall, cpu = time.perf_counter(), spent()
    images = sum(BATCH_SIZE for _ in islice(reading, most))
    return images / (time.perf_counter() - wall), images / (spent() - cpu)


class PlainRows(Dataset[tuple[Tensor, int]]):
    """What one writes for a hub data set: a row is decoded by ``datasets``, and normalised."""

    def __init__(self, folder: Path) -> None:
        self.rows = datasets.load_dataset(str(folder))["train"]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = self.rows[index]
        pixels = torch.from_numpy(np.array(row["image"].convert("RGB").resize((SIZE, SIZE))))
        return pixels.permute(2, 0, 1).float().div(255).sub(0.5).div(0.25), row["label"]


def compare(folder: Path, rounds: int, workers: int) -> None:
    """Print the images a second and core of both sides."""
    data = module_of(write_shards(folder, ONCE), workers)
    data.setup("fit")
    plain = PlainRows(folder / f"{ONCE}")
    rates: dict[str, list[float]] = {"streamed": [], "DataLoader": []}
    for number in range(rounds):
        for side in list(rates)[:: -1 if number % 2 else 1]:
            ours = data.train_dataloader()
            loader = ours if side == "streamed" else DataLoader(plain, BATCH_SIZE, shuffle=True, num_workers=workers)
            if loader is ours:
                ours.set_epoch(number)
            rates[side].append(rates_of(loader, COMPARED)[1])
            data.teardown("fit")
    ours_rate, plain_rate = (statistics.median(each) for each in rates.values())
    ratio = statistics.median(a / b for a, b in zip(*rates.values(), strict=True))
    print(
        f"{ONCE:,} parquet images of {SIZE}×{SIZE}, {workers} workers, images a second and core: streamed {ours_rate:,.0f}, "
        f"plain DataLoader {plain_rate:,.0f}, ratio {ratio:.2f}"
    )


class Watch(pl.Callback):
    """Notes memory and time over an epoch of training."""

    def __init__(self) -> None:
        self.memory: list[int] = []
        self.begin = self.end = (0.0, 0.0)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note what is taken after each fiftieth step."""
        if batch_idx == 0:
            self.begin = time.perf_counter(), spent()
        if batch_idx % 50 == 0:
            self.memory.append(private_memory())
        self.steps = batch_idx
        self.end = time.perf_counter(), spent()


def probe_epoch(data: HFDataModule, seed: int = 0) -> Watch:
    """Train a linear probe for an epoch."""
    pl.seed_everything(seed, verbose=False)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, CLASSES))
    watch = Watch()
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    with tempfile.TemporaryDirectory() as root:
        trainer = pl.Trainer(accelerator="cpu", callbacks=[watch], default_root_dir=root, **quiet)
        trainer.fit(LDMIModule(net, CLASSES, warmup=Stage(CELoss(), epochs=1), robust=None, refine=None), data)
    return watch


def print_peak(folder: Path, images: int, workers: int) -> None:
    """Print the megabytes of images as pixels, and the private memory of an epoch at its most, workers included."""
    watch = probe_epoch(module_of(write_shards(folder, images), workers))
    print(images * 3 * SIZE * SIZE / 1e6, max(watch.memory) / 1e6)


def peaks(folder: Path, workers: int) -> None:
    """Print the peak memory at once, four and sixteen times the data."""
    for times in (1, 4, 16):
        datasets.load_dataset(str(write_shards(folder, times * ONCE)))  # here, so that it does not count
        command = [
            sys.executable,
            __file__,
            "--peak",
            str(times * ONCE),
            "--folder",
            str(folder),
            "--workers",
            str(workers),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        pixels, most = (float(number) for number in done.stdout.split()[-2:])
        print(
            f"{times:2}×: {times * ONCE:,} images ({pixels:,.0f} MB of pixels), private memory of an epoch {most:,.0f} MB"
        )


def million(folder: Path, workers: int, images: int) -> None:
    """Print what an epoch of a linear probe takes."""
    begin = time.perf_counter()
    write_shards(folder, images)
    print(f"{images:,} images written in {time.perf_counter() - begin:,.0f} s", flush=True)
    begin = time.perf_counter()
    data = module_of(folder / f"{images}", workers)
    data.setup("fit")
    print(f"set up in {time.perf_counter() - begin:,.0f} s", flush=True)

    def alone() -> tuple[float, float]:
        loader = data.train_dataloader()
        loader.transform = nn.Identity()
        found = rates_of(loader, ALONE)
        data.teardown("fit")
        return found

    before = alone()
    watch = probe_epoch(data)
    after = alone()
    wall, cpu = (watch.steps * BATCH_SIZE / (end - start) for start, end in zip(watch.begin, watch.end, strict=True))
    wall_alone, cpu_alone = (statistics.mean(pair) for pair in zip(before, after, strict=True))
    tenth = watch.memory[len(watch.memory) // 10]
    later = max(watch.memory[len(watch.memory) // 10 :])
    print(
        f"an epoch of a linear probe: {watch.steps + 1:,} steps of {BATCH_SIZE}, {workers} workers; private memory after a "
        f"tenth {tenth / 1e6:,.0f} MB, at most later {later / 1e6:,.0f} MB ({later / tenth:.3f}), at the end "
        f"{watch.memory[-1] / 1e6:,.0f} MB"
    )
    print(
        f"images a second: training {wall:,.0f}, decoding alone {wall_alone:,.0f}, ratio {wall / wall_alone:.2f}; of the "
        f"processor's time: {cpu:,.0f}, {cpu_alone:,.0f}, ratio {cpu / cpu_alone:.2f}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, help="where to write the images, and keep them; a temporary one without it"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that decode (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--peak", type=int, help="only print what an epoch of so many images takes")
    parser.add_argument("--peaks", action="store_true", help="print the peak memory at 1, 4 and 16 times the data")
    parser.add_argument("--million", action="store_true", help="train an epoch on a million images")
    parser.add_argument("--images", type=int, default=1_000_000, help="so many in place of a million")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cpu_speed.prepare_process()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        datasets.config.HF_DATASETS_CACHE = folder / "arrow"
        if options.peak:
            print_peak(folder, options.peak, options.workers)
        elif options.peaks:
            peaks(folder, options.workers)
        elif options.million:
            million(folder, options.workers, options.images)
        else:
            print(f"torch {torch.__version__}, one thread a process, {options.rounds} rounds")
            compare(folder, options.rounds, options.workers)


if __name__ == "__main__":
    main()
