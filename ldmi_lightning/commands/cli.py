"""Old names, until the tests import from their new places."""

from ldmi_lightning.commands import COMMANDS, main, parse_fit
from ldmi_lightning.commands.description import describe_labels
from ldmi_lightning.commands.lightning import LDMICLI


def FitConfig() -> object:
    """Return what parses the options of a fit."""
    return parse_fit


__all__ = ["COMMANDS", "LDMICLI", "FitConfig", "describe_labels", "main"]
