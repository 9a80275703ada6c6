"""What model and backbone are told by the data: ``num_classes``, ``vocab_size`` and ``num_features``, unless they are given."""

import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from ldmi_lightning.commands.options import FROM_DATA
from ldmi_lightning.errors import UserError

BACKBONE = "model.init_args.backbone"
TARGETS = ("model.init_args.num_classes", *(f"{BACKBONE}.init_args.{name}" for name in FROM_DATA))
"""Where the values go; a backbone that takes no such argument is not given it."""


def may_be_given(words: Sequence[str]) -> bool:
    """Whether any of the names stands in the words of a command line, or in a file that they name.

    >>> may_be_given(["--model.backbone.vocab_size=9"]), may_be_given(["--data.batch_size", "9"])
    (True, False)
    """
    texts = list(words)
    for word in words:
        with suppress(OSError, UnicodeDecodeError, ValueError):
            path = Path(word.removeprefix("--config="))
            texts += [path.read_text("utf-8")] if path.is_file() else []
    return any(name in text for text in texts for name in FROM_DATA)


def given_in(config: Namespace) -> dict[str, Any]:
    """Return the values that a configuration without defaults has, by where they go."""
    return {target: config.get(target) for target in TARGETS if config.get(target) is not None}


def without_told(config: Namespace, given: Mapping[str, Any]) -> Namespace:
    """Return a configuration without the values that the data will tell, as it is kept."""
    kept = config.clone()
    for target in TARGETS:
        if target in kept and target not in given:
            del kept[target]
    place = f"{BACKBONE}.init_args"
    if place in kept and not kept[place]:
        del kept[place]
    return kept


def told(config: Namespace, given: Mapping[str, Any], data: object) -> dict[str, Any]:
    """Return the values by where they go: those given, else what the datamodule knows, else the backbone's own defaults.

    Args:
        config: the configuration, with defaults.
        given: what the user has given of it.
        data: the datamodule, which knows a value by an attribute of the same name.

    Raises:
        UserError: model or backbone needs a value that is neither given nor known.
    """
    values = {}
    for target in TARGETS:
        name = target.rpartition(".")[2]
        known = given.get(target, getattr(data, name, None) if target in config else None)
        values[target] = known if known is not None else config.get(target)
        if (
            target in config
            and not values[target]
            and is_required(config.get(target.rpartition(".init_args.")[0]), name)
        ):
            raise UserError(needed(config, target, data))
    return values


def is_required(part: Namespace, name: str) -> bool:
    """Whether a class or function of the configuration cannot do without an argument; a model never without its classes."""
    found = pkgutil.resolve_name(part.class_path)
    for each in found.__mro__ if inspect.isclass(found) else (found,):
        parameter = inspect.signature(each.__init__ if inspect.isclass(each) else each).parameters.get(name)
        if parameter is not None:
            return parameter.default in (parameter.empty, 0)
    return False


def needed(config: Namespace, target: str, data: object) -> str:
    """Say that a value is missing."""
    name, has = target.rpartition(".")[2], f"{type(data).__name__} has no attribute {target.rpartition('.')[2]}"
    if name == "num_classes":
        return f"The model takes its number of classes from the data, but {has}. Give it one."
    backbone = str(config.get(f"{BACKBONE}.class_path")).rpartition(".")[2]
    return f"{backbone} takes {name} from the data, but {has}. Take other data, or give --model.backbone.{name}."
