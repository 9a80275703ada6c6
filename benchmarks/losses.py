"""What a method costs: a whole training step of FashionCNN with each, against one with cross-entropy.

    python benchmarks/losses.py

One process, one thread, random images of 1×28×28 in batches of 128. A step is what ``training_step`` and the optimizer
do: forward pass, loss, backward pass, Adam. Each loss has a net of its own; in every round each takes one step, in an
order that is drawn anew, so that whatever else the machine does hits all alike. Shown is the median of CPU seconds: wall
seconds hold the waiting for other programs as well. The ratio to cross-entropy is the median over the rounds of the
ratio of two steps that were taken next to each other in time.

LCCN takes its T from the counts in every 200th step, FW renews T, and DMI keeps a memory: each pays for all that it can do.
Co-teaching trains two nets, and DivideMix passes five batches through two: its mixture at the end of an epoch is not in the step.
At a thousand classes a C×C matrix has a million entries, and what is asked of L_DMI there is a time, not a ratio.
"""

import argparse
import random
import time
from collections.abc import Callable

import numpy as np
import torch

from ldmi_lightning.batch import Batch
from ldmi_lightning.cpu_speed import prepare_process
from ldmi_lightning.losses import (
    CELoss,
    DMILoss,
    ELRLoss,
    ForwardLoss,
    GCELoss,
    LCCNLoss,
    Predictions,
    SCELoss,
    VolMinLoss,
)
from ldmi_lightning.method import Clock, Method
from ldmi_lightning.methods import CoTeaching, DivideMix
from ldmi_lightning.models import FashionCNN

SAMPLES, BATCH = 20_000, 128
RATIO_DEMAND, DMI_DEMAND = 1.1, 0.5
MANY, DMI_DEMAND_MANY = 1000, 60.0
"""From so many classes on, L_DMI may cost so many milliseconds more than cross-entropy, and nothing is asked of the others."""
TWO_NETS = {"Co-teaching": 2.2, "DivideMix": float("inf")}
"""How many steps of cross-entropy a step of two nets may cost."""
METHODS: dict[str, Callable[[], Method]] = {
    "CE": CELoss,
    "GCE": GCELoss,
    "FW": lambda: ForwardLoss("held_out", renew=True),
    "LCCN": lambda: LCCNLoss(warmup_steps=0),
    "DMI": lambda: DMILoss(0.99),
    "SCE": SCELoss,
    "ELR": ELRLoss,
    "VolMinNet": VolMinLoss,
    "Co-teaching": lambda: CoTeaching(0.4),
    "DivideMix": lambda: DivideMix(warmup=1),
}
CLOCK = Clock(epoch=20, epochs=40, batch=0)


class Rival:
    """A method, its nets and their optimizer."""

    def __init__(self, method: Method, num_classes: int, predictions: Predictions) -> None:
        torch.manual_seed(0)
        self.nets = [FashionCNN(num_classes) for _ in range(method.networks)]
        method.build(num_classes)
        self.method = method
        parameters = [parameter for part in (*self.nets, method) for parameter in part.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=1e-4)
        if method.needs_predictions:
            method.prepare(predictions, predictions)

    def step(self, batch: Batch) -> float:
        """Take a step; return its CPU seconds."""
        begin = time.process_time()
        self.optimizer.zero_grad()
        self.method.step(self.nets, batch, CLOCK).backward()
        self.optimizer.step()
        return time.process_time() - begin


def measure(num_classes: int, rounds: int) -> dict[str, np.ndarray]:
    """Return the CPU seconds of each method's steps, shape ``(rounds,)``."""
    torch.manual_seed(1)
    y = torch.arange(SAMPLES) % num_classes
    logits = torch.randn(SAMPLES, num_classes)
    logits[torch.arange(SAMPLES), y] += 3
    probs = logits.softmax(1)
    rivals = {
        name: Rival(make(), num_classes, Predictions(probs, y, torch.arange(SAMPLES))) for name, make in METHODS.items()
    }
    images = torch.randn(8 * BATCH, 1, 28, 28)
    order = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(rounds + 20):
        x = images[number % 8 * BATCH :][:BATCH]
        index = torch.randperm(SAMPLES)[:BATCH]
        for name in order.sample(list(rivals), len(rivals)):
            spent = rivals[name].step(Batch(x, y[index], index, y[index], x))
            if number >= 20:  # the first ones warm up
                seconds[name].append(spent)
    return {name: np.array(each) for name, each in seconds.items()}


def show(num_classes: int, seconds: dict[str, np.ndarray]) -> bool:
    """Print a table; return whether the demands are met."""
    print(f"\nC = {num_classes}, {len(seconds['CE'])} rounds")
    print(f"{'':12}{'median step':>14}{'/ CE':>9}{'- CE':>12}  demanded")
    base, met = seconds["CE"], True
    for name, each in seconds.items():
        ratio, more = float(np.median(each / base)), float(np.median(each - base)) * 1e3
        limit = (RATIO_DEMAND - 1) * float(np.median(base)) * 1e3 + DMI_DEMAND
        limit = DMI_DEMAND_MANY if num_classes >= MANY else limit
        most = TWO_NETS.get(name, RATIO_DEMAND)
        good = more <= limit if name == "DMI" else ratio <= most or num_classes >= MANY
        demanded = f"- CE <= {limit:.2f} ms" if name == "DMI" else f"/ CE <= {most}"
        asked = name == "DMI" or (name not in ("CE", "DivideMix") and num_classes < MANY)
        verdict = f"  {demanded}: {'met' if good else 'MISSED'}" if asked else ""
        print(f"{name:12}{np.median(each) * 1e3:11.2f} ms{ratio:9.3f}{more:9.2f} ms{verdict}")
        met &= good
    return met


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200, help="steps that each method takes (default: 200)")
    parser.add_argument(
        "--classes", type=int, nargs="+", default=[2, 10, 100, 1000], help="numbers of classes (default: 2 10 100 1000)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    prepare_process()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread, FashionCNN, batch {BATCH}, CPU time")
    met = [show(each, measure(each, options.rounds)) for each in options.classes]
    if not all(met):
        raise SystemExit("A demand is missed.")


if __name__ == "__main__":
    main()
