"""The data path of every data set against a per-sample PIL + DataLoader pipeline, and what it takes of time and memory.

    python benchmarks/data.py --root FOLDER

``FOLDER`` holds the data sets in the hub's layout, as ``fashion_mnist``, ``cifar10``, ``cats_vs_dogs`` and
``rotten_tomatoes``. Without it random images and texts of the same shapes are used, so that it runs anywhere.

One process, one thread, no workers; both sides take turns in each round, and a ratio is the median over the rounds of the
processor's time, so that other programs do not count. The PIL side holds decoded images and transforms one after the other
in ``__getitem__``; it pays for no file and no decoding. Clothing1M, where both sides read JPEG files, stands in
``clothing.py``, parquet images in ``streamed.py``, noise in ``noise.py``; this script runs them too.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import clothing
import noise
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ldmi_lightning import cpu_speed
from ldmi_lightning.datamodules import (
    CIFAR10DataModule,
    DogsVsCatsDataModule,
    Examples,
    FashionMNISTDataModule,
    MRDataModule,
    NoisyDataModule,
    TensorDataModule,
)
from ldmi_lightning.noise import SymmetricNoise, draw_labels

IMAGENET = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR = transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
PIPELINES: dict[str, list[Callable[[Any], Any]]] = {
    "fashion_mnist": [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))],
    "cifar10": [
        transforms.RandomCrop(32, padding=4),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        CIFAR,
    ],
    "cats_vs_dogs": [
        transforms.RandomHorizontalFlip(),
        transforms.RandomRotation(45),
        transforms.ToTensor(),
        IMAGENET,
    ],
}
MODULES: dict[str, type[NoisyDataModule]] = {
    "fashion_mnist": FashionMNISTDataModule,
    "cifar10": CIFAR10DataModule,
    "cats_vs_dogs": DogsVsCatsDataModule,
}
SHAPES = {
    "fashion_mnist": (50_000, 1, 28, 28),
    "cifar10": (40_000, 3, 32, 32),
    "cats_vs_dogs": (2_880, 3, 150, 150),
}
DEMANDS = {"fashion_mnist": 100, "cifar10": 30, "cats_vs_dogs": 1.8}
TABLE = (2_000_000, 20)
Result = TypeVar("Result")
PIL_IMAGES = 2560
"""Images that the PIL side goes through in a round: enough to measure, as its cost is the same for each."""


class PILImages(Dataset[tuple[Tensor, int]]):
    """Decoded images, transformed one by one."""

    def __init__(self, images: Tensor, pipeline: list[Callable[[Any], Any]]) -> None:
        pixels = images.permute(0, 2, 3, 1).squeeze(3).numpy()
        self.images = [Image.fromarray(image) for image in pixels]
        self.transform = transforms.Compose(pipeline)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), 0


def module_of(name: str, root: str | None) -> NoisyDataModule:
    """Return a data set, set up: the real one, or random images of its shape."""
    module = MODULES[name](root=f"{root}/{name}" if root else None)  # type: ignore[call-arg]
    if root is None:
        rng = np.random.RandomState(0)

        def load() -> Mapping[str, Examples]:
            return {
                split: Examples(
                    torch.from_numpy(rng.randint(0, 256, (size, *SHAPES[name][1:]), dtype=np.uint8)),
                    np.arange(size) % module.num_classes,
                    np.arange(size),
                )
                for split, size in {"train": SHAPES[name][0], "val": 100, "test": 100}.items()
            }

        module.load = load  # type: ignore[method-assign]
    module.setup("fit")
    return module


def seconds(batches: Iterable[Any]) -> float:
    """Return the processor's time for all batches."""
    begin = time.process_time()
    for _ in batches:
        pass
    return time.process_time() - begin


def compare(name: str, root: str | None, rounds: int) -> tuple[float, float]:
    """Make training batches on both sides.

    Returns:
        Images a second of the PIL pipeline, and how many times as fast ours is (median of the rounds).
    """
    module = module_of(name, root)
    ours, count = module.train_dataloader(), len(module.splits["train"]) // module.batch_size * module.batch_size
    images = module.splits["train"].x[:PIL_IMAGES]
    theirs = DataLoader(PILImages(images, PIPELINES[name]), module.batch_size, shuffle=True)
    seconds(islice(ours, 5))
    seconds(islice(theirs, 2))
    rates: list[tuple[float, float]] = []
    for number in range(rounds):
        ours.set_epoch(number)
        pair = {}
        for side in ("ours", "PIL")[:: -1 if number % 2 else 1]:
            pair[side] = count / seconds(ours) if side == "ours" else len(images) / seconds(theirs)
        rates.append((pair["PIL"], pair["ours"] / pair["PIL"]))
    return statistics.median(pil for pil, _ in rates), statistics.median(ratio for _, ratio in rates)


def text_batches(root: str | None, rounds: int) -> tuple[float, float]:
    """Return the sentences a second of MR's training batches, and the seconds that setting it up takes."""
    if root is None:
        return float("nan"), float("nan")
    module = MRDataModule(root=f"{root}/rotten_tomatoes")
    begin = time.process_time()
    module.setup("fit")
    ready = time.process_time() - begin
    loader = module.train_dataloader()
    seconds(loader)
    return statistics.median(len(module.splits["train"]) / seconds(loader) for _ in range(rounds)), ready


def growth(rounds: int) -> dict[str, list[float]]:
    """Return nanoseconds a sample at once, twice, four and eight times as many samples: equal where cost is linear."""
    transition = SymmetricNoise(0.4).transition_matrix(10)
    found: dict[str, list[float]] = {"noise, ns a label": [], "CIFAR-10 batches, ns an image": []}
    for size in (12_500, 25_000, 50_000, 100_000):
        labels = np.random.RandomState(0).randint(10, size=size)
        drawn = []
        module = CIFAR10DataModule()
        images = Examples(torch.zeros(size, 3, 32, 32, dtype=torch.uint8), np.arange(size) % 10, np.arange(size))
        module.load = lambda images=images: {"train": images, "val": images, "test": images}  # type: ignore
        module.setup("fit")
        loader = module.train_dataloader()
        made = []
        for _ in range(rounds):
            begin = time.process_time()
            for _ in range(10):
                draw_labels(labels, transition, 1)
            drawn.append((time.process_time() - begin) / 10 / size)
            made.append(seconds(loader) / size)
        found["noise, ns a label"].append(min(drawn) * 1e9)
        found["CIFAR-10 batches, ns an image"].append(min(made) * 1e9)
    return found


def peak(name: str, root: str) -> tuple[float, float]:
    """Set a data set up in a process of its own.

    Returns:
        Megabytes of its uint8 images, and the peak of the memory that this took beyond what was there before, over that.
    """
    size, most = measured(name, "--root", root)
    return size, most


def measured(name: str, *options: str) -> list[float]:
    """Return the numbers that this script prints for ``--peak name`` in a process of its own."""
    command = [sys.executable, __file__, "--peak", name, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


def print_peak(name: str, root: str) -> None:
    """Print the same, of this process; what is mapped from files does not count, since it can be dropped at any time."""
    import datasets

    datasets.disable_progress_bars()
    datasets.load_dataset(f"{root}/{name}")  # the library, and the conversion that it does once
    module, most = with_peak(lambda: module_of(name, root))
    size = sum(split.x.nbytes for split in module.splits.values())
    print(size / 1e6, most / size)


def print_table() -> None:
    """Print what two million rows of twenty floats take beyond the array given: to set up, and for training epochs."""
    x = np.random.default_rng(0).standard_normal(TABLE, dtype=np.float32)
    y = (x[:, 0] > 0).astype(np.int64)

    def work() -> tuple[float, list[float]]:
        begin = time.process_time()
        module = TensorDataModule(x, y, batch_size=1024)
        module.setup("fit")
        ready = time.process_time() - begin
        return ready, [seconds(module.train_dataloader()) for _ in range(5)]

    (ready, epochs), most = with_peak(work)
    print(ready, min(epochs), most / x.nbytes)


def with_peak(work: Callable[[], Result]) -> tuple[Result, int]:
    """Do some work; return what it returns, and the most bytes of private memory at any time beyond those before."""

    def private() -> int:
        (line,) = (row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("RssAnon"))
        return int(line.split()[1]) * 1024

    before, most, over = private(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.002):
            most = max(most, private())

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = work()
    over.set()
    watcher.join()
    return result, most - before


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", help="folder with the data sets; random data without it")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--peak", choices=[*MODULES, "table"], help="only print the size and the peak of one data set")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak == "table":
        print_table()
        return
    if options.peak:
        print_peak(options.peak, options.root)
        return
    cpu_speed.prepare_process()  # as `fit` does
    print(f"torch {torch.__version__}, one thread, {options.root or 'random data'}, {options.rounds} rounds")
    print(f"{'training batches':24}{'PIL, images/s':>16}{'times as fast':>16}{'demand':>10}")
    for name in MODULES:
        rate, ratio = compare(name, options.root, options.rounds)
        print(f"{name:24}{rate:16,.0f}{ratio:16.1f}{DEMANDS[name]:10}")
    found = clothing.clothing1m(options.rounds, f"{options.root}/cats_vs_dogs" if options.root else None)
    print("Clothing1M: " + ", ".join(f"{key} {value:,.4g}" for key, value in found.items()) + " (demands: 2.2, 3.5)")
    with tempfile.TemporaryDirectory() as folder:
        for what in ([], ["--peaks"]):
            command = [sys.executable, str(Path(__file__).with_name("streamed.py")), "--folder", folder, *what]
            print(subprocess.run(command, capture_output=True, text=True, check=True).stdout, end="")
    rate, ready = text_batches(options.root, options.rounds)
    print(f"MR: {rate:,.0f} sentences a second; vocabulary and tokens in {ready:.2f} s")
    for num_classes in noise.CLASSES:
        drawn = noise.measure(num_classes, rounds=options.rounds)
        print(
            f"noise, {num_classes} classes: {drawn.ratio:.0f} times the loop, a million labels in {drawn.million * 1e3:.0f} ms"
        )
    for what, costs in growth(options.rounds).items():
        print(f"{what}, at 12,500 / 25,000 / 50,000 / 100,000: " + " / ".join(f"{cost:.0f}" for cost in costs))
    if Path("/proc/self/status").exists():
        ready, epoch, most = (
            statistics.median(column) for column in zip(*(measured("table") for _ in range(3)), strict=True)
        )
        print(
            f"{TABLE[0]:,} x {TABLE[1]} floats: set up in {ready:.2f} s, {epoch:.2f} s an epoch, peak {most:.2f} times their size"
        )
    if options.root and Path("/proc/self/status").exists():
        for name in MODULES:
            size, most = peak(name, options.root)
            print(f"{name}: {size:.0f} MB of uint8 images, peak {most:.2f} times that")


if __name__ == "__main__":
    main()
