"""``ldmi noise``: look at the label noise of a configuration, and keep the labels, without training."""

import importlib

from ldmi_lightning.commands.noise_help import help_page
from ldmi_lightning.commands.output import show


def run(words: list[str]) -> int:
    """Carry out ``ldmi noise``; return its exit code."""
    if {"-h", "--help"} & set(words):
        show(help_page())
        raise SystemExit(0)
    return int(importlib.import_module("ldmi_lightning.commands.noise_run").run(words))
