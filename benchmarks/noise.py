"""Microseconds a label to draw noisy labels: all at once against the authors' loop over single draws.

    python benchmarks/noise.py

One process, one thread, rounds interleaved (and begun by either side in turn), so that whatever else the machine does
hits both alike. The loop is ``np.random.seed`` and then one ``np.random.choice(C, 1, p=T[y])`` a label, on as many labels
as it does in a second; what is drawn at once is a million. The labels of both are compared, one by one.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.noise import SymmetricNoise, draw_labels

CLASSES = (2, 10, 14, 100)
MILLION = 1_000_000
RATE = 0.4


class Figures(NamedTuple):
    """Medians in seconds, and what follows from them.

    Attributes:
        loop: a label, drawn by itself.
        million: a million labels at once.
        least: the same, its quickest round.
        ratio: how many times as fast a label is drawn at once.
    """

    loop: float
    million: float
    least: float
    ratio: float


def one_by_one(labels: NDArray[np.int64], transition: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """Draw as the authors' released code does."""
    np.random.seed(seed)
    return np.array([np.random.choice(len(transition), 1, p=transition[label])[0] for label in labels])


def measure(num_classes: int, size: int = 50_000, rounds: int = 5) -> Figures:
    """Time the loop on ``size`` labels, and a million at once."""
    transition = SymmetricNoise(RATE).transition_matrix(num_classes)
    labels = np.random.RandomState(0).randint(num_classes, size=MILLION)
    sides: dict[str, Callable[[], NDArray[np.int64]]] = {
        "loop": lambda: one_by_one(labels[:size], transition, 1),
        "million": lambda: draw_labels(labels, transition, 1),
    }
    np.testing.assert_array_equal(sides["loop"](), sides["million"]()[:size])
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in list(sides)[:: -1 if number % 2 else 1]:
            begin = time.perf_counter()
            sides[side]()
            times[side].append(time.perf_counter() - begin)
    loop, million = statistics.median(times["loop"]) / size, statistics.median(times["million"])
    return Figures(loop, million, min(times["million"]), loop / (million / MILLION))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=int, default=50_000, help="labels that the loop draws (default: 50000)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    options = parser.parse_args()
    if not 1 <= options.labels <= MILLION or options.rounds < 1:
        parser.error("--labels must lie in 1..1000000, and --rounds be at least 1")
    print(f"{options.rounds} interleaved rounds, medians; the loop draws {options.labels:,} labels")
    print(f"{'classes':>7}{'loop, us a label':>19}{'a million at once, ms (least)':>32}{'times as fast':>16}")
    for num_classes in CLASSES:
        found = measure(num_classes, options.labels, options.rounds)
        million = f"{found.million * 1e3:.0f} ({found.least * 1e3:.0f})"
        print(f"{num_classes:7}{found.loop * 1e6:19.1f}{million:>32}{found.ratio:16.0f}")


if __name__ == "__main__":
    main()
