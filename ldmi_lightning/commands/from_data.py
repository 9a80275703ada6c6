"""What model and backbone are told by the data: ``num_classes``, ``vocab_size`` and ``num_features``, unless they are given."""

import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

from ldmi_lightning.commands.options import FROM_DATA
from ldmi_lightning.errors import UserError

BACKBONE = "model.init_args.backbone"
TARGETS = ("model.init_args.num_classes", *(f"{BACKBONE}.init_args.{name}" for name in FROM_DATA))
"""Where the values go; a backbone that takes no such argument is not given it."""
VOCABULARY = f"{BACKBONE}.init_args.vocab_size"


def given_in(config: Namespace) -> dict[str, Any]:
    """Return the values that were given, by where they go: a parser gives them no default."""
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
        if target in config and not values[target]:
            values[target], can_do_without = own_default(config.get(target.rpartition(".init_args.")[0]), name)
            if not can_do_without:
                raise UserError(needed(config, target, data))
    return values


def own_default(part: Namespace, name: str) -> tuple[Any, bool]:
    """Return the default of an argument of a class or function of the configuration, and whether it can do without the argument.

    >>> own_default(Namespace(class_path="torchvision.models.resnet18"), "num_classes")
    (None, True)
    >>> own_default(Namespace(class_path="torch.nn.Linear"), "in_features")
    (None, False)
    """
    found = pkgutil.resolve_name(part.class_path)
    for each in found.__mro__ if inspect.isclass(found) else (found,):
        parameter = inspect.signature(each.__init__ if inspect.isclass(each) else each).parameters.get(name)
        if parameter is not None:
            required = parameter.default in (parameter.empty, 0)  # a model never does without its classes
            return (None, False) if required else (parameter.default, True)
    return None, True


def needed(config: Namespace, target: str, data: object) -> str:
    """Say that a value is missing."""
    name, has = target.rpartition(".")[2], f"{type(data).__name__} has no attribute {target.rpartition('.')[2]}"
    if name == "num_classes":
        return f"The model takes its number of classes from the data, but {has}. Give it one."
    backbone = str(config.get(f"{BACKBONE}.class_path")).rpartition(".")[2]
    return f"{backbone} takes {name} from the data, but {has}. Take other data, or give --model.backbone.{name}."
