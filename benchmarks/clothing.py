"""Clothing1M's streamed data path against the usual per-sample PIL pipeline: images a second of one core.

    python benchmarks/clothing.py --root FOLDER

One process, one thread, no workers, rounds interleaved; time of the processor, so that other programs do not count. The
images are JPEG files of 400 to 1000 pixels on the long side, 3:4, made from photographs (``FOLDER`` is Dogs vs. Cats in
the hub's layout) or, without ``--root``, from smooth random images; both get some grain, without which an enlarged image
would decode quicker than a photograph. All files lie in the page cache: this is about computing, not about disks.

The PIL side opens, converts, resizes to 256×256, crops, flips, makes floats and normalises, one sample after the other, in
a DataLoader. On our side "read" is what a worker does; "read + transform" adds what the device does otherwise.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ldmi_lightning.datamodules import Clothing1MDataModule
from ldmi_lightning.datamodules.image_files import ImageFiles
from ldmi_lightning.datamodules.loaders import Split
from ldmi_lightning.datamodules.streamed import StreamedLoader

IMAGES, BATCH_SIZE = 192, 64


class PILImages(Dataset[Tensor]):
    """Reads and transforms one by one."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.transform = transforms.Compose(
            [
                transforms.Resize((256, 256)),
                transforms.RandomCrop(224),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def pictures(root: str | None) -> Iterator[Image.Image]:
    """Yield photographs of the data set in ``root``, or smooth random images without it."""
    if root is None:
        rng = np.random.RandomState(0)
        while True:
            yield Image.fromarray(rng.randint(0, 256, (12, 16, 3), dtype=np.uint8))
    import datasets

    data = datasets.load_dataset(root)["train"].cast_column("image", datasets.Image(decode=False))
    for number in range(0, len(data), len(data) // IMAGES):
        yield Image.open(io.BytesIO(data[number]["image"]["bytes"])).convert("RGB")


def write_images(folder: Path, root: str | None) -> list[Path]:
    """Write JPEG files of the size of Clothing1M's."""
    rng = np.random.RandomState(0)
    paths = []
    for number, picture in zip(range(IMAGES), pictures(root), strict=False):
        long = rng.randint(400, 1001)
        enlarged = np.asarray(picture.resize((long, long * 3 // 4), Image.Resampling.BICUBIC), dtype=np.float64)
        grain = rng.normal(0, 4, (*enlarged.shape[:2], 1))
        paths.append(folder / f"{number}.jpg")
        Image.fromarray((enlarged + grain).clip(0, 255).astype(np.uint8)).save(paths[-1], quality=85)
    return paths


def seconds(loader: Iterable[Any]) -> float:
    """Return the processor's time for one epoch, for each image."""
    begin = time.process_time()
    for _ in loader:
        pass
    return (time.process_time() - begin) / IMAGES


def clothing1m(rounds: int, root: str | None = None) -> dict[str, float]:
    """Measure, on one thread.

    Args:
        rounds: epochs that each side runs.
        root: folder with Dogs vs. Cats in the hub's layout; ``None`` for random images.

    Returns:
        Images a second of the PIL pipeline, how many times as fast each of our ways is, and the cache's kB an image.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_images(folder, root)
        train = Clothing1MDataModule().train_transform()

        def ours(transform: nn.Module, cache: Path | None = None) -> StreamedLoader:
            files = ImageFiles([path.name for path in paths], 256, root=folder, cache=cache)
            unknown = torch.zeros(IMAGES, dtype=torch.int64)
            return StreamedLoader(Split(files, unknown, unknown, unknown), BATCH_SIZE, transform, shuffle_seed=0)

        sides: dict[str, Iterable[Any]] = {
            "PIL": DataLoader(PILImages(paths), BATCH_SIZE, shuffle=True),
            "read": ours(nn.Identity()),
            "read + transform": ours(train),
            "read from the cache": ours(nn.Identity(), folder / "cache"),
            "read from the cache + transform": ours(train, folder / "cache"),
        }
        times: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(rounds + 1):
            for side in list(sides)[:: -1 if number % 2 else 1]:
                times[side].append(seconds(sides[side]))
        kept = [path.stat().st_size for path in (folder / "cache").rglob("*.jpg")]
    # The first round fills the cache and warms up.
    median = {side: statistics.median(spent[1:]) for side, spent in times.items()}
    ratios = {side: median["PIL"] / median[side] for side in sides if side != "PIL"}
    return {"PIL images/s": 1 / median["PIL"], **ratios, "cache kB/image": sum(kept) / len(kept) / 1e3}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", help="folder with Dogs vs. Cats in the hub's layout; random images without it")
    parser.add_argument("--rounds", type=int, default=5, help="epochs that each side runs (default: 5)")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    found = clothing1m(options.rounds, options.root)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread, {options.root or 'random images'}")
    print(f"{IMAGES} JPEG files, batches of {BATCH_SIZE}, {options.rounds} interleaved rounds; medians")
    for name, value in found.items():
        print(f"{name:34}{value:8.1f}{'' if '/' in name else ' times as fast as PIL'}")


if __name__ == "__main__":
    main()
