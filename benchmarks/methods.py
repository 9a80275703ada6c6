"""Each method beside cross-entropy that is continued for as many epochs, on two small sets of data.

    python benchmarks/methods.py [--data toy digits] [--seeds 1 2 3] [--methods ce dmi …] [--rows FILE]

``toy``: two Gaussians in 20 dimensions, of which a net can tell 95 % apart, 40 % of all labels flipped; 1,000 rows to train on,
which a net of 128 hidden units learns by heart. ``digits``: configs/quickstart.yaml, where four classes carry another one's label
in 60 % of the cases. A row is the accuracy on clean test labels at the epoch that the method's own rule selects on noisy
validation labels, and at the last one, over all seeds; and the difference to cross-entropy, seed by seed, with its standard
error. FILE keeps what is finished, so that the command can be given again.
"""

import argparse
import json
import logging
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.cpu_speed import prepare_process
from ldmi_lightning.datamodules import DigitsDataModule, NoisyDataModule, TensorDataModule
from ldmi_lightning.losses import CELoss, DMILoss, ELRLoss, ForwardLoss, GCELoss, LCCNLoss, SCELoss, VolMinLoss
from ldmi_lightning.method import Method
from ldmi_lightning.methods import CoTeaching, DivideMix
from ldmi_lightning.models import DigitsCNN
from ldmi_lightning.noise import ClassDependentNoise, SymmetricNoise

EPOCHS = 30
"""Of all that follows the warm-up."""
ADAM = partial(torch.optim.Adam, lr=1e-3)
APART = 1.645
"""How far each class's centre is from the middle, in deviations: the best classifier has 95 %."""
DMI = partial(DMILoss, 0.9)
FEATURES_MIX = partial(DivideMix, views=1)
METHODS: dict[str, list[tuple[Callable[[], Method], int]]] = {
    **{
        name: [(make, EPOCHS)]
        for name, make in {
            "ce": CELoss,
            "fw": ForwardLoss,
            "gce": GCELoss,
            "sce": SCELoss,
            "lccn": LCCNLoss,
            "elr": ELRLoss,
            "volminnet": VolMinLoss,
            "co-teaching": CoTeaching,
            "dividemix": FEATURES_MIX,
            "dmi": DMI,
        }.items()
    },
    "dmi-refine": [(DMI, 20), (partial(ForwardLoss, "held_out", renew=True), 10)],
    "dmi, dividemix": [(DMI, 10), (partial(FEATURES_MIX, warmup=2), 20)],
}
"""For each method the stages after the warm-up, and how many epochs each has."""


class Task(NamedTuple):
    """What is learnt: data of a seed, a net, the number of classes, and the warm-up's epochs."""

    data: Callable[[int], NoisyDataModule]
    net: Callable[[], nn.Module]
    num_classes: int
    warmup: int


def toy(seed: int) -> TensorDataModule:
    """Return two Gaussians, with as many rows of each."""
    random = np.random.RandomState(seed)

    def rows(n: int) -> tuple[Any, Any]:
        y = np.arange(n) % 2
        return (random.randn(n, 20) + (2 * y[:, None] - 1) * APART / np.sqrt(20)).astype(np.float32), y

    noise = SymmetricNoise(0.4, seed=seed)
    return TensorDataModule(*rows(1250), *rows(5000), noise=noise, batch_size=64, val_share=0.2)


def digits(seed: int) -> DigitsDataModule:
    """Return the quickstart's data."""
    return DigitsDataModule(ClassDependentNoise(0.6, flips={9: 1, 2: 0, 4: 7, 3: 5}, seed=seed), 64)


TASKS = {
    "toy": Task(toy, lambda: nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 2)), 2, 3),
    "digits": Task(digits, lambda: DigitsCNN(10), 10, 20),
}


class TestCurve(pl.Callback):
    """Notes the accuracy on the test set after each epoch, by stage."""

    def __init__(self, data: NoisyDataModule) -> None:
        data.setup("test")
        self.x, self.y = data.eval_transform()(data.splits["test"].x), data.splits["test"].y
        self.stages: dict[str, list[float]] = {}

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Look at the nets as they are."""
        if not trainer.sanity_checking:
            right = pl_module.stage.loss.probabilities(pl_module.nets(), self.x).argmax(1) == self.y
            self.stages.setdefault(pl_module.progress.stage, []).append(float(right.float().mean()))


class Quiet(LDMIModule):
    """A module that does not say where its stages begin."""

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print nothing."""


def carry_out(task: Task, method: str, seed: int) -> dict[str, float]:
    """Return the accuracies of a run: ``selected`` and ``last``, of the last stage."""
    pl.seed_everything(seed, verbose=False)
    warmup, data = Stage(CELoss(), task.warmup, ADAM), task.data(seed)
    stages = {f"stage{number}": Stage(make(), epochs, ADAM) for number, (make, epochs) in enumerate(METHODS[method])}
    module, curve = Quiet(task.net(), task.num_classes, warmup, more_stages=stages), TestCurve(data)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[curve],
    )
    trainer.fit(module, data)
    name, best = module.progress.stage, module.progress.best_epoch or 0
    return {"selected": curve.stages[name][best - 1], "last": curve.stages[name][-1]}


def show(task: str, rows: list[dict[str, Any]]) -> None:
    """Print a table of all methods that are finished."""
    found = {(row["method"], row["seed"]): row for row in rows if row["data"] == task}
    print(f"\n{task}: accuracy in %, mean ± standard deviation\n")
    print("| method | seeds | selected epoch | last epoch | selected, less cross-entropy's |\n|---|---|---|---|---|")
    for method in METHODS:
        seeds = [seed for name, seed in found if name == method]
        if not seeds:
            continue
        selected, last = (np.array([100 * found[method, seed][key] for seed in seeds]) for key in ("selected", "last"))
        both = [seed for seed in seeds if ("ce", seed) in found]
        more = np.array([100 * (found[method, s]["selected"] - found["ce", s]["selected"]) for s in both])
        error = f" ± {more.std(ddof=1) / np.sqrt(len(more)):.1f}" if len(more) > 1 else ""
        difference = f"{more.mean():+.1f}{error}" if len(more) and method != "ce" else ""
        print(
            f"| {method} | {len(seeds)} | {selected.mean():.1f} ± {selected.std():.1f} | {last.mean():.1f} ± {last.std():.1f} "
            f"| {difference} |"
        )


def main() -> None:
    """Carry out what is missing, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rows", type=Path, help="file of finished runs, a line each, which is added to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    prepare_process()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    kept = options.rows.read_text().splitlines() if options.rows and options.rows.exists() else []
    rows = [json.loads(line) for line in kept]
    for data in options.data:
        for seed in options.seeds:
            for method in options.methods:
                run = {"data": data, "method": method, "seed": seed}
                if any(run.items() <= row.items() for row in rows):
                    continue
                rows.append({**run, **carry_out(TASKS[data], method, seed)})
                if options.rows:
                    with options.rows.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
        show(data, rows)


if __name__ == "__main__":
    main()
