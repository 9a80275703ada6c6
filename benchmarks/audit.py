"""How well audits found wrong labels, beside cleanlab on the same probabilities, where the true labels are known.

    python benchmarks/audit.py AUDIT [AUDIT …]

AUDIT is what ``ldmi audit … --folds N --output AUDIT`` has left. For each, the ranking is compared with every rank of cleanlab's,
and the number of wrong labels with both of its ways to count them. Audits whose names differ in the number at their end alone
(``pairs-1``, ``pairs-2``) are repetitions: of several, mean and standard deviation follow. cleanlab is no dependency: where it is
not installed (pip install cleanlab), a line says so and its rows are left out. One thread; seconds for each audit.
"""

import argparse
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.audit import against_truth, audit
from ldmi_lightning.audit.truth import auroc, average_precision
from ldmi_lightning.datamodules.fold_splits import FOLD
from ldmi_lightning.runs.outputs import Outputs, read

try:
    from cleanlab.count import num_label_issues
    from cleanlab.rank import get_label_quality_scores
except ImportError:
    num_label_issues = get_label_quality_scores = None

RANKS = (
    ("self_confidence", False),
    ("self_confidence", True),
    ("normalized_margin", False),
    ("normalized_margin", True),
    ("confidence_weighted_entropy", False),
)
"""cleanlab's scores of a label, each with and without adjusting for the classes' own confidence, as far as it can."""
COUNTS = ("off_diagonal", "off_diagonal_calibrated")
"""cleanlab's ways to count wrong labels."""
HEAD = "| rank or count | AUROC | average precision | number of wrong labels |\n|---|---|---|---|"


class Row(NamedTuple):
    """A row of the table: figures, ``None`` for what a way does not give.

    Attributes:
        auroc: of the ranking.
        precision: average precision.
        number: estimated number of wrong labels, divided by the true one, less 1.
    """

    auroc: float | None = None
    precision: float | None = None
    number: float | None = None


def rows_of(folder: Path) -> tuple[Outputs, NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Return what a fold's run says, and of the rows of all folds probabilities, given labels and true ones."""
    summary = json.loads((folder / "audit/summary.json").read_text())
    of_folds = summary["made_by"]["runs"][:-1]  # the last has trained on everything
    places = [place for run in of_folds for place in (folder / "cells" / Path(run).name).glob("*/outputs.npz")]
    said = [read(place.parent) for place in places]
    parts = [each.splits[FOLD] for each in said]
    probs, given, clean = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("probs", "given", "clean")
    )
    known = clean >= 0
    return said[0], probs[known], given[known], clean[known]


def measured(folder: Path) -> dict[str, Row]:
    """Print an audit's table, and return its rows by name."""
    said, probs, given, true = rows_of(folder)
    is_wrong = given != true
    found = audit(probs, given, outputs=said.outputs)
    truth = against_truth(found, true)
    print(
        f"\n**{folder.name}**: {is_wrong.sum():,} of {len(given):,} labels are wrong. {said.stage}'s outputs, of {said.outputs} "
        f"labels: {found.wrong.value:,.0f} ({found.wrong.low:,.0f} to {found.wrong.high:,.0f}) estimated. Right: "
        f"{100 * truth['given_accuracy']:.1f} % as given, {100 * (probs.argmax(axis=1) == true).mean():.1f} % by the net, "
        f"{100 * truth['corrected_accuracy']:.1f} % corrected.\n\n{HEAD}"
    )

    def ranked(quality: NDArray[np.float64], number: float | None = None) -> Row:
        error = None if number is None else number / is_wrong.sum() - 1
        return Row(auroc(-quality, is_wrong), average_precision(-quality, is_wrong), error)

    rows = {"`ldmi audit`": ranked(found.quality, found.wrong.value)}
    if get_label_quality_scores is not None and num_label_issues is not None:
        exact = probs.astype(np.float64)
        exact /= exact.sum(axis=1, keepdims=True)
        for rank, adjusted in RANKS:
            quality = get_label_quality_scores(given, exact, method=rank, adjust_pred_probs=adjusted)
            rows[f"cleanlab, {rank}{', adjusted' if adjusted else ''}"] = ranked(quality)
        for way in COUNTS:
            number = num_label_issues(given, exact, estimation_method=way)
            rows[f"cleanlab, {way}"] = Row(number=number / is_wrong.sum() - 1)
    for name, row in rows.items():
        print(f"| {name} | {cell([row.auroc])} | {cell([row.precision])} | {cell([row.number], of_number=True)} |")
    return rows


def cell(values: list[float | None], of_number: bool = False) -> str:
    """Return mean and standard deviation of figures as a cell of a table, or a figure alone."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    scale, form, unit = (100, "+.1f", " %") if of_number else (1, ".3f", "")
    spread = f" ± {scale * np.std(known, ddof=1):{form.lstrip('+')}}" if len(known) > 1 else ""
    return f"{scale * np.mean(known):{form}}{spread}{unit}"


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audits", nargs="+", type=Path, metavar="AUDIT")
    options = parser.parse_args()
    if missing := [str(folder) for folder in options.audits if not (folder / "audit/summary.json").is_file()]:
        parser.error(f"{missing[0]} holds no audit/summary.json: give what ldmi audit --folds N --output has left.")
    if get_label_quality_scores is None:
        print("cleanlab is not installed: its rows are left out. pip install cleanlab, and run again.")
    repeated: dict[str, list[dict[str, Row]]] = {}
    for folder in options.audits:
        repeated.setdefault(re.sub(r"-\d+$", "", folder.name), []).append(measured(folder))
    for name, each in repeated.items():
        if len(each) > 1:
            print(f"\n**{name}**, mean and standard deviation of {len(each)}:\n\n{HEAD}")
            for way in each[0]:
                of_way = [rows[way] for rows in each]
                figures = (cell([row.auroc for row in of_way]), cell([row.precision for row in of_way]))
                print(f"| {way} | {' | '.join(figures)} | {cell([row.number for row in of_way], of_number=True)} |")


if __name__ == "__main__":
    main()
