"""`curves.csv`: what each epoch of a run has come to, whatever its logger."""

import csv
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ldmi_lightning import files
from ldmi_lightning.errors import UserError

EPOCH, STAGE = "epoch", "stage"
FIRST = (EPOCH, STAGE)
"""The columns that come first: the run's epoch, from 0 as loggers count, and the name of its stage."""


def write_curves(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write the file anew as a whole, a row for each epoch."""
    told = list(rows)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, dict.fromkeys([*FIRST, *sorted({name for row in told for name in row})]))
    writer.writeheader()
    writer.writerows(told)
    files.write(path, text.getvalue().encode())


def read_curves(path: Path, stages: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Read such a file, or the ``metrics.csv`` of a CSVLogger, which has several rows for an epoch, as a row an epoch.

    Args:
        path: the file.
        stages: names of the stages in order, which ``metrics.csv`` counts.

    Returns:
        For each epoch, in order, ``epoch``, ``stage`` and the figures that are known and finite.

    Raises:
        UserError: it cannot be read as such a file.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "curves.csv"
    >>> write_curves([{"epoch": 0, "stage": "warmup", "lr": 0.5}, {"epoch": 1, "stage": "robust", "val/acc": 0.75}], path)
    >>> for row in read_curves(path):
    ...     print(row)
    {'epoch': 0, 'stage': 'warmup', 'lr': 0.5}
    {'epoch': 1, 'stage': 'robust', 'val/acc': 0.75}
    """
    names = list(stages)
    epochs: dict[int, dict[str, Any]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file, strict=True):
                epoch = int(float(row[EPOCH]))
                known = epochs.setdefault(epoch, {EPOCH: epoch})
                for name, value in row.items():
                    if name == STAGE and value:
                        known[STAGE] = names[int(float(value))] if names and value not in names else value
                    elif name not in FIRST and value and math.isfinite(figure := float(value)):
                        known[name] = figure
    except (KeyError, IndexError, TypeError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} is no file of curves ({error}): remove it, and the report is written without them."
        ) from error
    return [epochs[epoch] for epoch in sorted(epochs) if STAGE in epochs[epoch]]  # the test after the last has none
