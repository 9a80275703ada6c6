"""Seconds per warm-up epoch of Fashion-MNIST: the resident data path against the usual per-sample PIL pipeline.

    python benchmarks/data_path.py --root FOLDER

Without ``--root`` it uses random images of the same shape and number, so that it runs anywhere.

One process, one thread, rounds interleaved (and begun by either side in turn), so that whatever else the machine does
hits both alike. Both sides run one hand-written training loop: cross-entropy, FashionCNN, Adam 1e-4, global batch 128.
The PIL side is a Dataset of PIL images, ToTensor and Normalize per sample, and a shuffled DataLoader without workers;
its images are decoded before the clock starts, so that it pays for neither files nor PNG. A pipeline that decodes
in ``__getitem__`` would be slower.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ldmi_lightning.datamodules import Examples, FashionMNISTDataModule
from ldmi_lightning.models import FashionCNN

BATCH_SIZE = 128
WARM_UP_BATCHES = 20


class RandomFashionMNIST(FashionMNISTDataModule):
    """Random images in place of the real ones."""

    def load(self) -> Mapping[str, Examples]:
        """Return splits of the real sizes."""
        rng = np.random.RandomState(0)
        return {
            name: Examples(
                torch.from_numpy(rng.randint(0, 256, (size, 1, 28, 28), dtype=np.uint8)),
                rng.randint(0, self.num_classes, size),
                np.arange(size),
            )
            for name, size in {"train": 50_000, "val": 10_000, "test": 10_000}.items()
        }


class PILImages(Dataset[tuple[Tensor, int]]):
    """Decoded images, transformed one by one."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = [Image.fromarray(image.numpy()) for image in images.squeeze(1)]
        self.labels: list[int] = labels.tolist()
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def train(batches: Iterable[Any]) -> None:
    """Warm a fresh net up over the batches."""
    torch.manual_seed(0)
    model = FashionCNN(2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    for x, y, *_ in batches:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def load(batches: Iterable[Any]) -> None:
    """Make the batches and do nothing with them."""
    for _ in batches:
        pass


class Seconds(NamedTuple):
    """By the clock on the wall, and of the processor: the latter leaves out the waiting for other programs."""

    wall: float
    cpu: float


def measure(work: Callable[[Iterable[Any]], None], loader: Iterable[Any], batches: int) -> Seconds:
    """Time some batches of an epoch, the start of the epoch included."""
    wall, cpu = time.perf_counter(), time.process_time()
    work(islice(loader, batches))
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def medians(times: Sequence[Seconds]) -> Seconds:
    """Return the median of each clock."""
    return Seconds(*(statistics.median(column) for column in zip(*times, strict=True)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", help="folder with Fashion-MNIST in the hub's layout; random images without it")
    parser.add_argument("--rounds", type=int, default=5, help="epochs that each side runs (default: 5)")
    parser.add_argument("--batches", type=int, help="batches of each epoch; all of them without it")
    options = parser.parse_args()
    if options.rounds < 1 or (options.batches is not None and options.batches < 1):
        parser.error("--rounds and --batches must be at least 1")

    torch.set_num_threads(1)
    data = FashionMNISTDataModule if options.root else RandomFashionMNIST
    module = data("bag", batch_size=BATCH_SIZE, root=options.root)
    module.setup("fit")
    split = module.splits["train"]
    pil = PILImages(split.x, split.y)
    sides: dict[str, Iterable[Any]] = {
        "ours": module.train_dataloader(),
        "PIL": DataLoader(pil, BATCH_SIZE, shuffle=True, num_workers=0, drop_last=True),
    }
    torch.testing.assert_close(module.train_transform()(split.x[:100]), torch.stack([pil[i][0] for i in range(100)]))

    whole = len(split) // BATCH_SIZE
    batches = min(options.batches or whole, whole)
    for loader in sides.values():
        measure(train, loader, WARM_UP_BATCHES)
    training: dict[str, list[Seconds]] = {side: [] for side in sides}
    loading: dict[str, list[Seconds]] = {side: [] for side in sides}
    for number in range(options.rounds):
        for side in list(sides)[:: -1 if number % 2 else 1]:
            training[side].append(measure(train, sides[side], batches))
            loading[side].append(measure(load, sides[side], batches))

    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread, {options.root or 'random images'}")
    print(
        f"{options.rounds} interleaved rounds; an epoch here is {batches} of {whole} batches of {BATCH_SIZE}; medians"
    )
    print(f"{'':12}{'s per epoch':>12}{'range':>16}{'CPU s':>8}{'data path alone, images/s':>28}")
    for side in sides:
        walls, epoch = [times.wall for times in training[side]], medians(training[side])
        spread = f"{min(walls):.2f}-{max(walls):.2f}"
        rate = batches * BATCH_SIZE / medians(loading[side]).wall
        print(f"{side:12}{epoch.wall:12.2f}{spread:>16}{epoch.cpu:8.2f}{rate:28,.0f}")
    pairs = zip(training["ours"], training["PIL"], strict=True)
    ratio = medians([Seconds(ours.wall / theirs.wall, ours.cpu / theirs.cpu) for ours, theirs in pairs])
    faster = medians(loading["PIL"]).wall / medians(loading["ours"]).wall
    print(f"{'ours / PIL':12}{ratio.wall:12.3f}{'':16}{ratio.cpu:8.3f}{f'{faster:.0f} times as fast':>28}")


if __name__ == "__main__":
    main()
