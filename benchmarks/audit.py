"""How well wrong labels are found: the audit beside cleanlab, on Fashion-MNIST's ten classes with errors that are known.

    python benchmarks/audit.py --root FASHION_MNIST [--seeds 1 2 3] [--settings pairs symmetric] [--save FOLDER]

Of the first 25,000 images 20,000 are trained on and 5,000 select; the next 10,000, which no model has seen, are audited. In
``pairs`` 60 % of five classes are labelled as what they are most like: T-shirt → Shirt, Pullover → Coat, Sandal → Sneaker,
Trouser → Dress, Bag → Ankle boot; in ``symmetric`` 40 % of all labels are any other class. FashionCNN is trained by L_DMI and
refine, and by cross-entropy for as many epochs. For each, every rank of cleanlab's is shown, and its number of label errors by
both of its ways. cleanlab is no dependency: where it is not installed (pip install cleanlab), a line says so and its rows are
left out. Probabilities that lie in ``--save`` from before are read. One thread; two minutes for each setting and seed.
"""

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.audit import against_truth, audit
from ldmi_lightning.audit.truth import auroc, average_precision
from ldmi_lightning.cpu_speed import prepare_process
from ldmi_lightning.datamodules import FashionMNISTDataModule, TensorDataModule
from ldmi_lightning.losses import CELoss, DMILoss, ForwardLoss
from ldmi_lightning.models import FashionCNN
from ldmi_lightning.noise import ClassDependentNoise, SymmetricNoise
from ldmi_lightning.training.predictions import predict_split

try:
    from cleanlab.count import num_label_issues
    from cleanlab.rank import get_label_quality_scores
except ImportError:
    num_label_issues = get_label_quality_scores = None

KNOWN, ALL = 25_000, 35_000
"""So many images train and select; those after them are audited."""

FLIPS = {0: 6, 2: 4, 5: 7, 1: 3, 8: 9}
RANKS = (
    ("self_confidence", False),
    ("self_confidence", True),
    ("normalized_margin", False),
    ("normalized_margin", True),
    ("confidence_weighted_entropy", False),
)
"""cleanlab's scores of a label, each with and without adjusting for the classes' own confidence, as far as it can."""


def noise(setting: str, seed: int) -> ClassDependentNoise | SymmetricNoise:
    """Return what makes the labels wrong."""
    if setting == "pairs":
        return ClassDependentNoise(rate=0.6, flips=FLIPS, seed=seed)
    return SymmetricNoise(rate=0.4, seed=seed)


def stages(method: str) -> dict[str, Stage]:
    """Return the stages of a method, of 20 epochs in all."""

    def adam(rate: float) -> Any:
        return lambda params: torch.optim.Adam(params, lr=rate)

    def falling(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, [4], 0.2)

    warmup = Stage(CELoss(), 6, adam(1e-3), falling)
    if method == "cross-entropy":
        return {"warmup": warmup, "robust": Stage(CELoss(), 14, adam(3e-4), falling)}
    refine = Stage(ForwardLoss("held_out", renew=True), 8, adam(3e-4), falling)
    return {"warmup": warmup, "robust": Stage(DMILoss(0.9), 6, adam(3e-4), falling), "refine": refine}


def probabilities(method: str, images: Any, labels: NDArray[np.int64], seed: int) -> tuple[NDArray[np.float32], str]:
    """Train on the first images; return softmax outputs for those after them, and the stage that was kept."""
    pl.seed_everything(seed, verbose=False)
    rest = labels[KNOWN:]
    data = TensorDataModule(images[:KNOWN], labels[:KNOWN], images[KNOWN:], rest, batch_size=128, val_share=0.2)
    module = LDMIModule(FashionCNN(10), 10, **stages(method))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    with redirect_stdout(sys.stderr):
        trainer.fit(module, data)
    data.setup("test")
    return predict_split(module, data.test_dataloader()).probs.float().numpy(), str(module.chosen)


def show(name: str, scores: NDArray[np.float64], is_wrong: NDArray[np.bool_], number: float | None) -> None:
    """Print a row of the table."""
    wrong = is_wrong.sum()
    said = "" if number is None else f"{number:,.0f} ({100 * (number / wrong - 1):+.1f} %)"
    print(
        f"| {name} | {auroc(scores, is_wrong):.4f} | {average_precision(scores, is_wrong):.4f} | {said} |", flush=True
    )


def compare(method: str, kept: str, probs: NDArray[np.float32], y: NDArray[np.int64], true: NDArray[np.int64]) -> None:
    """Print what the audit and cleanlab find by the same probabilities."""
    outputs: Any = "true" if kept == "refine" or (kept == "robust" and method != "cross-entropy") else "given"
    found = audit(probs, y, outputs=outputs)
    truth = against_truth(found, true)
    is_wrong = y != true
    name = f"{method} ({kept})"
    show(f"{name}: audit, outputs={outputs!r}", 1 - found.quality, is_wrong, found.wrong.value)
    print(
        f"|   95 % interval {found.wrong.low:,.0f} to {found.wrong.high:,.0f}; right: {truth['given_accuracy']:.3f} as given, "
        f"{(probs.argmax(axis=1) == true).mean():.3f} by the net, {truth['corrected_accuracy']:.3f} corrected | | | |"
    )
    if get_label_quality_scores is None or num_label_issues is None:
        return
    exact = probs.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)
    for rank, adjusted in RANKS:
        quality = get_label_quality_scores(y, exact, method=rank, adjust_pred_probs=adjusted)
        show(f"{name}: cleanlab, {rank}{', adjusted' if adjusted else ''}", -quality, is_wrong, None)
    for way in ("off_diagonal", "off_diagonal_calibrated"):
        number = num_label_issues(y, exact, estimation_method=way)
        print(f"| {name}: cleanlab, number, {way} | | | {number:,} ({100 * (number / is_wrong.sum() - 1):+.1f} %) |")


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="a local folder with Fashion-MNIST; without it the hub's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--settings", nargs="+", default=["pairs", "symmetric"], choices=["pairs", "symmetric"])
    parser.add_argument("--save", type=Path, help="a folder to keep probabilities and labels in, and to read them from")
    options = parser.parse_args()
    prepare_process()
    torch.set_num_threads(1)
    if get_label_quality_scores is None:
        print("cleanlab is not installed: its rows are left out. pip install cleanlab, and run again.")
    examples = FashionMNISTDataModule("all", root=options.root).load()["train"]
    images, clean = np.asarray(examples.x)[:ALL], np.asarray(examples.y)[:ALL]
    for setting in options.settings:
        for seed in options.seeds:
            given = noise(setting, seed)(clean, 10, index=np.arange(ALL))
            y, true = given[KNOWN:], clean[KNOWN:]
            print(f"\n{setting}, seed {seed}: {(y != true).sum():,} of {len(y):,} labels are wrong\n")
            print("| probabilities: rank | AUROC | average precision | number |\n|---|---|---|---|")
            for method in ("L_DMI + refine", "cross-entropy"):
                place = None
                if options.save is not None:
                    options.save.mkdir(parents=True, exist_ok=True)
                    place = options.save / f"{setting}-{seed}-{'dmi' if method.startswith('L') else 'ce'}.npz"
                if place is not None and place.is_file():
                    with np.load(place) as stored:
                        probs, kept = stored["probs"], str(stored["kept"])
                else:
                    probs, kept = probabilities(method, images, given, seed)
                    if place is not None:
                        np.savez(place, probs=probs, kept=kept, given=y, true=true)
                compare(method, kept, probs, y, true)


if __name__ == "__main__":
    main()
