"""LightningCLI's parser that answers a mistake with one line, and takes no abbreviations."""

import difflib
import re
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]
from pytorch_lightning.cli import LightningArgumentParser

from ldmi_lightning.commands.parsing import SEED_RULE, one_line
from ldmi_lightning.errors import UserError

CONFIG_HELP = "YAML file of options; can be repeated, and a later one wins."


class Parser(LightningArgumentParser):
    """LightningCLI's parser that answers a mistake with one line, and takes no abbreviations."""

    command = "fit"
    """The command whose help lists the options; of the class, since jsonargparse makes inner parsers from it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    @classmethod
    def of(cls, command: str, description: str, config_help: str = CONFIG_HELP) -> "Parser":
        """Return the parser of a command, with ``--config`` and nothing else."""
        own = type(f"{command.title()}Parser", (cls,), {"command": command})
        parser: Parser = own(prog=f"ldmi {command}", description=description)
        parser.add_argument("-c", "--config", action=ActionConfigFile, help=config_help)
        return parser

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the command line."""
        try:
            return super().parse_args(*args, **kwargs)
        except UnicodeDecodeError as error:
            raise UserError("What --config names is no text: give a YAML file, such as RUN/config.yaml.") from error

    def add_function_arguments(self, *args: Any, linked_targets: Any = None, **kwargs: Any) -> list[str]:
        """Take a function for a class, such as ``torchvision.models.resnet18``, where arguments are linked.

        jsonargparse itself frees linked arguments from being required, but hands its note of them to this method, which
        does not know it.
        """
        added: list[str] = super().add_function_arguments(*args, **kwargs)
        return added

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a :class:`UserError` with the innermost cause, its full key and the nearest valid name."""
        reason = one_line(message)
        if reason.startswith("--seed_everything: Given value: "):
            reason = f"{SEED_RULE} {reason.rpartition(': ')[2].replace('None', 'null')}."
        unknown = re.search(r"(?:nrecognized arguments: --|nested key '|Key '|Option '|key \")([\w.]+)", reason)
        if unknown and "lists the options" not in reason:
            reason = f"{reason.rstrip('.')}. {self._hint(unknown[1])}"
        raise UserError(reason) from ex

    def _hint(self, unknown: str) -> str:
        known = sorted({action.dest for action in self._actions if action.dest})
        remedy = f"`ldmi {self.command} --help` lists the options."
        for name in (unknown, unknown.split(".")[0]):
            if close := difflib.get_close_matches(name, known, n=1, cutoff=0.6):
                return f"Did you mean {close[0]}? {remedy}"
        return remedy
