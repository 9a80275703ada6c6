"""The tables of a grid: `table.md` to read, `table.csv` to compute with."""

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ldmi_lightning.benchmarking import published
from ldmi_lightning.benchmarking.cells import Cell
from ldmi_lightning.benchmarking.chosen import Chosen, mean_regrets, tally
from ldmi_lightning.benchmarking.summary import FIGURES, Row, Spread
from ldmi_lightning.csv_file import safe_cell
from ldmi_lightning.runs.folder import LOG

HEADS = (
    *("r", "method", "n", "accuracy", "balanced", "last epoch: accuracy", "balanced"),
    *("selected by", "epoch", "chosen", "regret", "T̂ error", "paper"),
)
CHOSEN_NUMBERS = (
    *("chosen_acc_mean", "chosen_acc_std", "chosen_balanced_acc_mean", "chosen_balanced_acc_std"),
    *("regret_mean", "balanced_regret_mean"),
)
NOTE = """\
Accuracy and balanced accuracy in percent, on clean test labels that no selection saw: of the epoch of each method's last
stage that was selected by the highest or lowest value of what is named, and of its last epoch. Mean ± standard deviation
(n - 1 in the denominator) over n seeds; a seed draws the noise too, and all methods get the same labels. Chosen: the stage
that each run keeps to predict, by held-out noisy labels alone, and its accuracy. Regret, in points of accuracy / of balanced
accuracy: of the run's best stage, by clean test labels, minus that of the chosen one. T̂ error: mean L1 distance of the rows
of the estimated transition matrix to those of the injected one. r\\*: T is not diagonally dominant."""


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
    seconds = {cell.key: results[cell.name]["wall_time_s"] for cell in cells if cell.name in results}
    hours = sum(seconds.values()) / 3600  # two cells with one configuration are one run
    lines = [
        *head,
        f"- cells: {len(results)} done, {missing} missing, {len(failed)} failed; computing time {hours:.1f} h",
        *([f"- versions: {'; '.join(versions)}"] if versions else []),
        "",
        NOTE,
    ]
    if failed:
        lines += ["", "Failed, with what each said last:", ""]
        lines += [f"- {name}: {plain(line)} (see its `{LOG}`)" for name, line in failed.items()]
    for (data, noise), group in itertools.groupby(rows, lambda row: (row.data, row.noise)):
        same = list(group)
        lines += ["", f"## {plain(data)}: {plain(noise)}", ""]
        lines += [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
        paper = published.find(next(cell.config for cell in cells if (cell.data, cell.noise) == (data, noise)))
        sign = "" if paper and paper.exact else "≈ "
        lines += [f"| {' | '.join(_markdown_cells(row, sign))} |" for row in same]
        chosen = [each for row in same for each in row.chosen]
        if regrets := mean_regrets(chosen):
            accuracy, balanced = (f"{100 * regret:.2f}" for regret in regrets)
            runs = sum(each is not None for each in chosen)
            lines += [
                "",
                f"Mean regret of the choice, {runs} runs: {accuracy} points of accuracy, {balanced} of balanced accuracy.",
            ]
        if paper:
            lines += ["", f"paper: Xu et al. (NeurIPS 2019), {paper.source}."]
    return "\n".join(lines) + "\n"


def _versions(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found["versions"].items())


def plain(text: str) -> str:
    """Return text as it stands in a cell of a table of Markdown."""
    return text.replace("|", "\\|")


def _markdown_cells(row: Row, sign: str) -> list[str]:
    rate = "–" if row.rate is None else f"{row.rate:g}" + ("\\*" if row.dominant is False else "")
    accuracies = [percent(row.figures[figure]) for figure in FIGURES[:4]]
    error = row.figures["transition_error"]
    return [
        rate,
        plain(row.method),
        str(len(row.seeds)),
        *accuracies,
        row.selected_by or "–",
        ", ".join(map(str, row.best_epochs)) or "–",
        chosen_cell(row.chosen),
        regret_cell(row.chosen),
        _plus_minus(error, "{:.3f}"),
        "–" if row.paper is None else f"{sign}{row.paper:g}",
    ]


def chosen_cell(chosen: Sequence[Chosen | None]) -> str:
    """Write which stage is kept to predict, and its accuracy in percent.

    >>> one, other = Chosen("robust", 0.66, 0.65, 0.0, 0.0), Chosen("warmup", 0.68, 0.65, 0.01, 0.0)
    >>> chosen_cell([one]), chosen_cell([one, other]), chosen_cell([None])
    ('robust 66.00', 'robust 1, warmup 1: 67.00 ± 1.41', '–')
    """
    names, known = tally(chosen), [each.test_acc for each in chosen if each is not None]
    if not known:
        return "–"
    return f"{names}{':' if ' ' in names else ''} {percent(Spread.of(known))}"


def regret_cell(chosen: Sequence[Chosen | None]) -> str:
    """Write the mean regret in points of accuracy and of balanced accuracy.

    >>> regret_cell([Chosen("robust", 0.5, 0.5, 0.01, 0.0), Chosen("robust", 0.5, 0.5, 0.02, 0.0)]), regret_cell([])
    ('1.50 / 0.00', '–')
    """
    regrets = mean_regrets(chosen)
    return "–" if regrets is None else " / ".join(f"{100 * regret:.2f}" for regret in regrets)


def percent(share: Spread) -> str:
    """Write a share in percent.

    >>> percent(Spread(0.9762, 0.0031)), percent(Spread(0.5, None)), percent(Spread(None, None))
    ('97.62 ± 0.31', '50.00', '–')
    """
    return _plus_minus(Spread(*(None if value is None else 100 * value for value in share)), "{:.2f}")


def _plus_minus(spread: Spread, form: str) -> str:
    return " ± ".join(form.format(value) for value in spread if value is not None) or "–"


def comma_separated(rows: Sequence[Row]) -> str:
    """Return ``table.csv``: shares as in ``results.json``, the paper's accuracy too; empty for what is not known.

    Names that a spreadsheet would run stand after a single quote.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    figures = [f"{figure}_{of}" for figure in FIGURES for of in Spread._fields]
    writer.writerow(
        [
            *("data", "noise", "rate", "diagonally_dominant", "method", "stage", "loss", "n", "seeds"),
            *("selected_by", "best_epochs", *figures, "paper_acc", "chosen_stages", *CHOSEN_NUMBERS),
        ]
    )
    for row in rows:
        numbers = [value for figure in FIGURES for value in row.figures[figure]]
        known = any(row.chosen)
        writer.writerow(
            [
                *(safe_cell(row.data), safe_cell(row.noise), row.rate, row.dominant, safe_cell(row.method)),
                *(safe_cell(row.stage), safe_cell(row.loss), len(row.seeds)),
                *(" ".join(map(str, row.seeds)), row.selected_by, " ".join(map(str, row.best_epochs))),
                *(None if value is None else f"{value:.6f}" for value in numbers),
                None if row.paper is None else f"{row.paper / 100:.4f}",
                " ".join("-" if each is None else each.stage for each in row.chosen) if known else None,
                *(None if value is None else f"{value:.6f}" for value in _chosen_numbers(row.chosen)),
            ]
        )
    return text.getvalue()


def _chosen_numbers(chosen: Sequence[Chosen | None]) -> list[float | None]:
    known = [each for each in chosen if each is not None]
    accuracy, balanced = (
        Spread.of([getattr(each, name) for each in known]) for name in ("test_acc", "test_balanced_acc")
    )
    return [*accuracy, *balanced, *(mean_regrets(known) or (None, None))]
