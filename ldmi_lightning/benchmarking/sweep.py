"""A grid as a W&B sweep: many machines carry out a cell each, and then the next."""

import os
from collections.abc import Sequence

import yaml

from ldmi_lightning.benchmarking.cells import Cell


def sweep_config(cells: Sequence[Cell], words: Sequence[str]) -> str:
    """Return the YAML of a sweep whose every run carries out one cell.

    Args:
        cells: the grid's cells.
        words: the command that carries out the grid, to which ``--cell=NAME`` is added.
    """
    sweep = {
        "program": "ldmi",
        "method": "grid",
        "parameters": {"cell": {"values": [cell.name for cell in cells]}},
        "command": ["${env}", *words, "${args}"],
    }
    return yaml.safe_dump(sweep, sort_keys=False)


def is_in_sweep() -> bool:
    """Whether `wandb agent` has started this process; its runs then log to W&B, whatever the grid says."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))
