"""LightningCLI's parser that answers a mistake with one line, and takes no abbreviations."""

import difflib
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]
from pytorch_lightning.cli import LightningArgumentParser

from ldmi_lightning.commands.class_paths import base_in, class_path_in, fault_of_import, why_not
from ldmi_lightning.commands.from_data import given_in, without_told
from ldmi_lightning.commands.functions import STANDS_FOR, as_class, word_as_class
from ldmi_lightning.commands.parsing import SEED_RULE, one_line
from ldmi_lightning.errors import UserError
from ldmi_lightning.training.stages import Stage

CONFIG_HELP = "YAML file of options; can be repeated, and a later one wins."


def plain(config: Any) -> Any:
    """Return a configuration as mappings."""
    return config.as_dict() if isinstance(config, Namespace) else config


class Parser(LightningArgumentParser):
    """LightningCLI's parser that answers a mistake with one line, and takes no abbreviations."""

    command = "fit"
    """The command whose help lists the options; of the class, since jsonargparse makes inner parsers from it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._made_for: Any = None
        self.given: dict[str, Any] = {}
        """What was given of :data:`~ldmi_lightning.commands.from_data.TARGETS`."""
        self.told: dict[str, Any] = {}
        """The values that go there, once there are data."""
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    @classmethod
    def of(cls, command: str, description: str, config_help: str = CONFIG_HELP) -> "Parser":
        """Return the parser of a command, with ``--config`` and nothing else."""
        own = type(f"{command.title()}Parser", (cls,), {"command": command})
        parser: Parser = own(prog=f"ldmi {command}", description=description)
        parser.add_argument("-c", "--config", action=ActionConfigFile, help=config_help)
        return parser

    def parse_args(  # type: ignore[override]
        self, args: Any = None, namespace: Any = None, **kwargs: Any
    ) -> Any:
        """Parse words: the command line's, or what it says of a class."""
        try:
            if self._made_for is Stage:
                args = [word_as_class(word, plain(namespace) or {}) for word in args]
            return super().parse_args(args, namespace, **kwargs)
        except UnicodeDecodeError as error:
            raise UserError("What --config names is no text: give a YAML file, such as RUN/config.yaml.") from error
        except UserError:
            raise
        except Exception as error:
            if fault := fault_of_import(error):
                raise UserError(fault) from error
            raise

    def parse_object(self, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Parse what a file says of a class."""
        if self._made_for is Stage:
            said = plain(obj)
            obj = {**said, **{name: as_class(name, said[name]) for name in STANDS_FOR if name in said}}
        return super().parse_object(obj, *args, **kwargs)

    def value_for(self, target: str, data: object) -> Any:
        """Return what model or backbone is told, for a link from the data."""
        return self.told.get(target)

    def dump(self, cfg: Namespace, *args: Any, skip_link_targets: bool = True, **kwargs: Any) -> str:
        """Return the text of a configuration, which keeps what was given of that which the data would tell, too.

        jsonargparse would leave it out, also in the texts of inner parsers, of which it puts the whole together.
        """
        if skip_link_targets and cfg.get("model") is not None:
            cfg = without_told(cfg, given_in(cfg))
        text: str = super().dump(cfg, *args, skip_link_targets=False, **kwargs)
        return text

    def add_class_arguments(self, of_class: Any, *args: Any, **kwargs: Any) -> list[str]:
        """Note whose arguments these are; what the data will tell has no default, so that a value which is there was given."""
        self._made_for = of_class
        added: list[str] = super().add_class_arguments(of_class, *args, **kwargs)
        return self._without_defaults(added, kwargs.get("linked_targets"))

    def add_function_arguments(self, *args: Any, linked_targets: Any = None, **kwargs: Any) -> list[str]:
        """Take a function for a class, such as ``torchvision.models.resnet18``, where arguments are linked.

        jsonargparse itself frees linked arguments from being required, but hands its note of them to this method, which
        does not know it.
        """
        added: list[str] = super().add_function_arguments(*args, **kwargs)
        return self._without_defaults(added, linked_targets)

    def _without_defaults(self, added: list[str], linked_targets: Iterable[str] | None) -> list[str]:
        self.set_defaults({name: None for name in added if name in (linked_targets or ())})
        return added

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a :class:`UserError` with the innermost cause, its full key and the nearest valid name."""
        path, key = class_path_in(message)
        reason = f"--{key}: {why_not(path, key, base_in(message))}" if path else one_line(message)
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
