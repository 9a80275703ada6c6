"""How fast features are computed: EncodedDataModule's pass against the bare encoder, and two processes against one.

    python benchmarks/encode.py [--images 1024] [--size 96] [--rounds 5]

The bare encoder runs over the same batches, decoded and normalised in memory beforehand; rounds of the two alternate, and the
ratio is that of their medians. Weights are random, which takes as long as others. One thread each.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torchvision.models import mobilenet_v3_small

from ldmi_lightning import cpu_speed
from ldmi_lightning.datamodules import EncodedDataModule, TensorDataModule
from ldmi_lightning.datamodules.encoding.encode import BATCH, Place, encode

CPU = torch.device("cpu")


def encoder() -> nn.Module:
    """Return the encoder: timm's EfficientNet-lite0, or a net of torchvision's where timm is not installed."""
    torch.manual_seed(0)
    try:
        import timm
    except ImportError:
        return mobilenet_v3_small()
    net: nn.Module = timm.create_model("tf_efficientnet_lite0")
    return net


def make(images: int, size: int, cache: Path) -> EncodedDataModule:
    """Return data of random images of 32×32, of which nearly all are to train on."""
    pixels = np.random.RandomState(0).randint(0, 256, (images + 20, 32, 32, 3)).astype(np.uint8)
    share = 10 / (images + 20)
    inner = TensorDataModule(pixels, np.arange(images + 20) % 2, val_share=share, test_share=share)
    data = EncodedDataModule(inner, encoder(), cache=str(cache), image_size=size)
    data.setup("fit")
    return data


def one_pass(data: EncodedDataModule, cache: Path, rank: int = 0, ranks: int = 1) -> float:
    """Return the seconds of a pass over the training set into an empty cache."""
    data.features.cache = str(cache)
    run = data.features.made_by("train", 0)
    folder = data.features.folder(run)  # the key is made once for all splits and passes of a run
    begun = time.perf_counter()
    encode(run, data.encoder, folder, Place(CPU, rank, ranks))
    return time.perf_counter() - begun


def bare(data: EncodedDataModule) -> float:
    """Return the seconds that the encoder alone takes for the batches of the same pass."""
    run = data.features.made_by("train", 0)
    batches = [batch.x for batch in run.loader([range(len(run.split))], CPU)]
    begun = time.perf_counter()
    with torch.inference_mode():
        for x in batches:
            data.encoder(x)
    return time.perf_counter() - begun


def _rank(rank: int, ranks: int, options: argparse.Namespace, folder: Path) -> None:
    torch.set_num_threads(1)
    cpu_speed.prepare_process()
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=ranks)
    data = make(options.images, options.size, folder / "warm")
    data.encoder(torch.zeros(BATCH, 3, options.size, options.size))
    seconds = one_pass(data, folder / "cache", rank, ranks)
    (folder / f"seconds-{rank}").write_text(str(seconds))
    if ranks > 1:
        dist.destroy_process_group()


def in_processes(ranks: int, options: argparse.Namespace) -> float:
    """Return the seconds of a pass by so many processes: those of the slowest."""
    with tempfile.TemporaryDirectory() as name:
        spawn = multiprocessing.get_context("spawn")
        processes = [spawn.Process(target=_rank, args=(rank, ranks, options, Path(name))) for rank in range(ranks)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        return max(float((Path(name) / f"seconds-{rank}").read_text()) for rank in range(ranks))


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    cpu_speed.prepare_process()  # as an EncodedDataModule does, so that both sides of the ratio have it
    alone, ours = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as name:
        data = make(options.images, options.size, Path(name) / "warm")
        bare(data)
        for number in range(options.rounds):
            alone.append(bare(data))
            ours.append(one_pass(data, Path(name) / str(number)))
    first, second = statistics.median(alone), statistics.median(ours)
    images = options.images
    print(f"{type(data.encoder).__name__} at {options.size}×{options.size}, {images} images, one thread")
    print(f"bare encoder, batches in memory: {images / first:7.1f} images per second")
    print(f"EncodedDataModule:               {images / second:7.1f} images per second, ratio {first / second:.3f}")
    if (os.cpu_count() or 1) > 1:
        pairs = [(in_processes(1, options), in_processes(2, options)) for _ in range(3)]
        one, two = (statistics.median(each) for each in zip(*pairs, strict=True))
        print(f"two processes against one: {one:.1f} s and {two:.1f} s, ratio {one / two:.2f}")


if __name__ == "__main__":
    main()
