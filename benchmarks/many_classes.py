"""Hundreds of classes: what a step of L_DMI with a memory costs, and what it learns beside cross-entropy.

    python benchmarks/many_classes.py

Gaussian classes, a linear classifier, labels flipped to one other class each: all classes at 0.4, or half of them at 0.6. Both
losses begin with the same warm-up and take the same number of steps. In the last rows the warm-up was never shown some classes.
One process, one thread; a step is forward pass, loss, backward pass and Adam, and its time is the median of CPU seconds.
"""

import argparse
import copy
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ldmi_lightning.cpu_speed import prepare_process
from ldmi_lightning.losses import CELoss, DMILoss, Loss, Predictions
from ldmi_lightning.models import Probe
from ldmi_lightning.noise import ClassDependentNoise

STEP_DEMAND = 80.0
"""Milliseconds on one core that a step may take at 1,000 classes and batches of 256."""
RATES = {"all": 0.4, "half": 0.6}


class Toy(NamedTuple):
    """Gaussian classes: inputs and noisy labels to learn from, inputs and true labels to judge by."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    num_classes: int


class Run(NamedTuple):
    """What continued training came to: test accuracy, whether loss and gradients were finite, singular steps, ms a step."""

    accuracy: float
    finite: bool
    singular: int
    ms: float


def make_toy(num_classes: int, flipped: str, per_class: int = 50, width: int = 64, distance: float = 6.0) -> Toy:
    """Draw classes whose means lie at random on a sphere of radius ``distance``, with unit variance in ``width`` dimensions."""
    random = np.random.RandomState(0)
    means = random.standard_normal((num_classes, width))
    means *= distance / np.linalg.norm(means, axis=1, keepdims=True)
    circle = random.permutation(num_classes)
    flips = dict(zip(circle.tolist(), np.roll(circle, 1).tolist(), strict=True))
    if flipped == "half":
        flips = {one: other for one, other in flips.items() if one < num_classes // 2}

    def draw(each: int) -> tuple[Tensor, np.ndarray]:
        y = np.repeat(np.arange(num_classes), each)
        return torch.from_numpy(means[y] + random.standard_normal((len(y), width))).float(), y

    (x, y), (test_x, test_y) = draw(per_class), draw(10)
    noisy = ClassDependentNoise(RATES[flipped], flips=flips, seed=0)(y, num_classes, index=np.arange(len(y)))
    return Toy(x, torch.from_numpy(noisy), test_x, torch.from_numpy(test_y), num_classes)


def train(toy: Toy, net: Probe, loss: Loss, epochs: int, batch: int, without: Sequence[int] = ()) -> Run:
    """Train a net, by Adam at 0.01, on all samples but those labelled ``without``."""
    shown = (~torch.isin(toy.y, torch.tensor(without, dtype=torch.int64))).nonzero().flatten()
    order, optimizer = torch.Generator().manual_seed(1), torch.optim.Adam(net.parameters(), lr=0.01)
    finite, singular, seconds = True, 0, []
    for _ in range(epochs):
        for index in shown[torch.randperm(len(shown), generator=order)].split(batch)[: len(shown) // batch]:
            begin = time.process_time()
            optimizer.zero_grad()
            value = loss(net(toy.x[index]), toy.y[index], index)
            value.backward()
            optimizer.step()
            seconds.append(time.process_time() - begin)
            gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
            finite &= all(bool(each.isfinite().all()) for each in (value, *gradients))
    if isinstance(loss, DMILoss):
        singular = int(loss.singular_steps)
    accuracy = (net(toy.test_x).argmax(dim=1) == toy.test_y).double().mean().item()
    return Run(accuracy, finite, singular, 1e3 * float(np.median(seconds)))


def warm_up(toy: Toy, epochs: int, batch: int, without: Sequence[int] = ()) -> Probe:
    """Return a classifier trained with cross-entropy."""
    torch.manual_seed(0)
    net = Probe(toy.x.shape[1], toy.num_classes)
    train(toy, net, CELoss(), epochs, batch, without)
    return net


def go_on(toy: Toy, net: Probe, loss: Loss, epochs: int, batch: int) -> Run:
    """Train a copy of a classifier further."""
    if loss.needs_predictions:
        with torch.no_grad():
            outputs = Predictions(net(toy.x).softmax(dim=1), toy.y, torch.arange(len(toy.y)))
        loss.prepare(outputs, outputs)
    return train(toy, copy.deepcopy(net), loss, epochs, batch)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--classes", type=int, nargs="+", default=[100, 1000], help="numbers of classes (default: 100 1000)"
    )
    parser.add_argument("--memory", type=float, nargs="+", default=[0.9, 0.99], help="of L_DMI (default: 0.9 0.99)")
    parser.add_argument("--warmup", type=int, default=4, help="epochs of the warm-up (default: 4)")
    parser.add_argument("--epochs", type=int, default=3, help="epochs after the warm-up (default: 3)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    prepare_process()
    slowest = 0.0
    print("| C | batch | flipped | never shown | loss | test accuracy | singular steps | all finite | ms a step |")
    print("|---|---|---|---|---|---|---|---|---|")
    for num_classes in options.classes:
        batch = 64 if num_classes <= 256 else 256
        for flipped, unseen in (("all", 0), ("half", 0), ("all", num_classes // 100), ("all", num_classes // 10)):
            toy = make_toy(num_classes, flipped)
            net = warm_up(toy, options.warmup, batch, range(unseen))
            before = (net(toy.test_x).argmax(dim=1) == toy.test_y).double().mean().item()
            row = f"| {num_classes} | {batch} | {flipped} at {RATES[flipped]} | {unseen} |"
            print(f"{row} the warm-up | {before:.3f} | | | |", flush=True)
            losses: dict[str, Loss] = {"CE": CELoss()} | {
                f"DMI, memory {each}": DMILoss(each) for each in options.memory
            }
            for name, loss in losses.items():
                run = go_on(toy, net, loss, options.epochs, batch)
                print(f"{row} {name} | {run.accuracy:.3f} | {run.singular} | {run.finite} | {run.ms:.1f} |", flush=True)
                slowest = max(slowest, run.ms)
    if slowest > STEP_DEMAND:
        raise SystemExit(f"A step takes {slowest:.1f} ms, more than {STEP_DEMAND}.")


if __name__ == "__main__":
    main()
