"""What it brings on a CPU to let glibc keep freed memory: a training step with and without, in processes that take turns.

python benchmarks/cpu_memory.py
"""

import statistics
import subprocess
import sys
import time

import torch
from torch import nn

from ldmi_lightning import cpu_speed
from ldmi_lightning.models import CIFARCNN, FashionCNN

NETS = {"CIFARCNN, batch 256": (CIFARCNN, (256, 3, 32, 32)), "FashionCNN, batch 128": (FashionCNN, (128, 1, 28, 28))}
ROUNDS, STEPS = 3, 12


def measure() -> None:
    """Print the median CPU milliseconds of a step for each net."""
    torch.set_num_threads(1)
    for net, shape in NETS.values():
        model, x, y = net(10), torch.randn(shape), torch.randint(0, 10, shape[:1])
        seconds = []
        for _ in range(STEPS):
            begin = time.process_time()
            nn.functional.cross_entropy(model(x), y).backward()
            seconds.append(time.process_time() - begin)
        print(statistics.median(seconds[2:]) * 1e3)


def main() -> None:
    """Measure in processes of their own, and print."""
    found: dict[str, list[list[float]]] = {"given back": [], "kept": []}
    for _ in range(ROUNDS):
        for side in found:
            done = subprocess.run([sys.executable, __file__, side], capture_output=True, text=True, check=True)
            found[side].append([float(line) for line in done.stdout.split()])
    print(
        f"torch {torch.__version__}, one thread; CPU ms a step (forward and backward), medians of {ROUNDS} processes each"
    )
    for at, net in enumerate(NETS):
        back, kept = (statistics.median(run[at] for run in found[side]) for side in found)
        print(f"{net:24} memory given back {back:7.1f}   kept {kept:7.1f}   ratio {back / kept:.2f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        if sys.argv[1] == "kept":
            cpu_speed.prepare_process()
        measure()
    else:
        main()
