"""The tables of a grid: `table.md` to read, `table.csv` to compute with."""

import csv
import io
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldmi_lightning.benchmarking import published
from ldmi_lightning.benchmarking.cells import LOG, Cell
from ldmi_lightning.benchmarking.summary import FIGURES, Row, Spread

HEADS = (
    *("r", "method", "n", "accuracy", "balanced", "last epoch: accuracy", "balanced"),
    *("selected by", "epoch", "T̂ error", "paper"),
)
NOTE = """\
Accuracy and balanced accuracy in percent, on clean test labels that no selection saw: of the epoch of each method's last
stage that was selected by the highest or lowest value of what is named, and of its last epoch. Mean ± standard deviation
(n - 1 in the denominator) over n seeds; a seed draws the noise too, and all methods get the same labels. T̂ error: mean L1
distance of the rows of the estimated transition matrix to those of the injected one. r\\*: T is not diagonally dominant."""


def markdown(
    head: Sequence[str],
    cells: Sequence[Cell],
    rows: Sequence[Row],
    results: Mapping[str, Mapping[str, Any]],
    failed: Mapping[str, str],
) -> str:
    """Return ``table.md``.

    Args:
        head: its first lines: the title, the command, the machine.
        cells: the grid's cells.
        rows: see :func:`~ldmi_lightning.benchmarking.summary.summarise`.
        results: the content of ``results.json`` by the names of the finished cells.
        failed: what failed cells said last, by their names.
    """
    missing = len(cells) - len(results) - len(failed)
    versions = dict.fromkeys(_versions(results[cell.name]) for cell in cells if cell.name in results)
    hours = sum(each["wall_time_s"] for each in results.values()) / 3600
    lines = [
        *head,
        f"- cells: {len(results)} done, {missing} missing, {len(failed)} failed; computing time {hours:.1f} h",
        *([f"- versions: {'; '.join(versions)}"] if versions else []),
        "",
        NOTE,
    ]
    if failed:
        lines += ["", "Failed, with what each said last:", ""]
        lines += [f"- {name}: {_plain(line)} (see its `{LOG}`)" for name, line in failed.items()]
    for (data, noise), same in itertools.groupby(rows, lambda row: (row.data, row.noise)):
        lines += ["", f"## {_plain(data)}: {_plain(noise)}", ""]
        lines += [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
        paper = published.find(next(cell.config for cell in cells if (cell.data, cell.noise) == (data, noise)))
        sign = "" if paper and paper.exact else "≈ "
        lines += [f"| {' | '.join(_markdown_cells(row, sign))} |" for row in same]
        if paper:
            lines += ["", f"paper: Xu et al. (NeurIPS 2019), {paper.source}."]
    return "\n".join(lines) + "\n"


def _versions(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found["versions"].items())


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


def _markdown_cells(row: Row, sign: str) -> list[str]:
    rate = "–" if row.rate is None else f"{row.rate:g}" + ("\\*" if row.dominant is False else "")
    accuracies = [percent(row.figures[figure]) for figure in FIGURES[:4]]
    error = row.figures["transition_error"]
    return [
        rate,
        _plain(row.method),
        str(len(row.seeds)),
        *accuracies,
        row.selected_by or "–",
        ", ".join(map(str, row.best_epochs)) or "–",
        _plus_minus(error, "{:.3f}"),
        "–" if row.paper is None else f"{sign}{row.paper:g}",
    ]


def percent(share: Spread) -> str:
    """Write a share in percent.

    >>> percent(Spread(0.9762, 0.0031)), percent(Spread(0.5, None)), percent(Spread(None, None))
    ('97.62 ± 0.31', '50.00', '–')
    """
    return _plus_minus(Spread(*(None if value is None else 100 * value for value in share)), "{:.2f}")


def _plus_minus(spread: Spread, form: str) -> str:
    return " ± ".join(form.format(value) for value in spread if value is not None) or "–"


def comma_separated(rows: Sequence[Row]) -> str:
    """Return ``table.csv``: shares as in ``results.json``, the paper's accuracy too; empty for what is not known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    figures = [f"{figure}_{of}" for figure in FIGURES for of in Spread._fields]
    writer.writerow(
        [
            *("data", "noise", "rate", "diagonally_dominant", "method", "stage", "loss", "n", "seeds"),
            *("selected_by", "best_epochs", *figures, "paper_acc"),
        ]
    )
    for row in rows:
        numbers = [value for figure in FIGURES for value in row.figures[figure]]
        writer.writerow(
            [
                *(row.data, row.noise, row.rate, row.dominant, row.method, row.stage, row.loss, len(row.seeds)),
                *(" ".join(map(str, row.seeds)), row.selected_by, " ".join(map(str, row.best_epochs))),
                *(None if value is None else f"{value:.6f}" for value in numbers),
                None if row.paper is None else f"{row.paper / 100:.4f}",
            ]
        )
    return text.getvalue()


def write(path: Path, content: bytes) -> None:
    """Write so that the file is never seen half-written, whoever else writes it."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    unfinished.write_bytes(content)
    unfinished.replace(path)
