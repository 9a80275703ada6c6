"""Optimizers and schedulers that a function of one's own makes, in a configuration: annotated or not, with arguments or not.

jsonargparse takes classes, and functions that say what they return, but not their arguments. So a function's path is written
as one of the two classes here, which it makes the optimizer or scheduler for.
"""

import inspect
import json
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ldmi_lightning.errors import UserError


class FunctionOptimizer(Optimizer):
    """The optimizer that a function makes of the parameters.

    Args:
        params: what is trained.
        function: the function's path, as in ``package.module.function``.
        arguments: its other arguments, by name.

    >>> import torch
    >>> FunctionOptimizer([torch.zeros(1, requires_grad=True)], "torch.optim.SGD", {"lr": 0.5}).param_groups[0]["lr"]
    0.5
    """

    def __new__(cls, params: Iterable[Any], function: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Return what the function makes."""
        return call(function, params, arguments, (Optimizer,), "torch.optim.Optimizer")

    def __init__(self, params: Iterable[Any], function: str, arguments: dict[str, Any] | None = None) -> None:
        """Say what it takes: what :meth:`__new__` returns is initialised already."""


class FunctionScheduler(LRScheduler):
    """The scheduler that a function makes of the optimizer.

    Args:
        optimizer: whose learning rate it sets.
        function: the function's path, as in ``package.module.function``.
        arguments: its other arguments, by name.
    """

    def __new__(cls, optimizer: Optimizer, function: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Return what the function makes."""
        kinds = (LRScheduler, ReduceLROnPlateau)
        return call(function, optimizer, arguments, kinds, "scheduler of torch.optim.lr_scheduler")

    def __init__(self, optimizer: Optimizer, function: str, arguments: dict[str, Any] | None = None) -> None:
        """Say what it takes: what :meth:`__new__` returns is initialised already."""


STANDS_FOR: dict[str, type] = {"optimizer": FunctionOptimizer, "scheduler": FunctionScheduler}
"""By the option of a stage, the class that a function's path is written as."""


def call(function: str, first: Any, arguments: Mapping[str, Any] | None, kinds: tuple[type, ...], wanted: str) -> Any:
    """Call a function by its path; raise :class:`UserError` unless it returns what is wanted.

    Args:
        function: its path.
        first: what it is given.
        arguments: its other arguments, by name.
        kinds: what it may return.
        wanted: the same in words.
    """
    made = pkgutil.resolve_name(function)(first, **(arguments or {}))
    if not isinstance(made, kinds):
        raise UserError(f"{function} returns no {wanted}, but {'None' if made is None else type(made).__name__}")
    return made


def as_class(option: str, given: Any) -> Any:
    """Return the configuration of an optimizer or scheduler, in which a function's path is written as its class.

    Args:
        option: ``"optimizer"`` or ``"scheduler"``.
        given: what the configuration has: a path, or a mapping of ``class_path`` and ``init_args``.

    >>> as_class("optimizer", "torch.optim.Adam")
    'torch.optim.Adam'
    >>> as_class("optimizer", {"class_path": "math.dist", "init_args": {"q": 1}})["init_args"]
    {'function': 'math.dist', 'arguments': {'q': 1}}
    """
    path = given.get("class_path") if isinstance(given, Mapping) else given
    if not isinstance(path, str) or not is_function(path):
        return given
    arguments: dict[str, Any] = {}
    if isinstance(given, Mapping):
        arguments = {**(given.get("init_args") or {}), **(given.get("dict_kwargs") or {})}
    check_arguments(option, path, arguments)
    return {"class_path": path_of(STANDS_FOR[option]), "init_args": {"function": path, "arguments": arguments}}


def word_as_class(word: str, before: Mapping[str, Any]) -> str:
    """Return a stage's word ``--optimizer=PATH`` or ``--optimizer.NAME=VALUE`` in which a function is written as its class.

    Args:
        word: the word; any other is left as it is.
        before: what the stage's options are so far, as plain mappings.

    >>> word_as_class("--optimizer=math.dist", {})
    '--optimizer={"class_path": "ldmi_lightning.commands.functions.FunctionOptimizer", \
"init_args": {"function": "math.dist", "arguments": {}}}'
    """
    name, _, value = word.removeprefix("--").partition("=")
    option, _, argument = name.partition(".")
    if option not in STANDS_FOR:
        return word
    if not argument:
        given = yaml.safe_load(value) if value.startswith("{") else value
        written = as_class(option, given)
        return word if written is given else f"--{option}={json.dumps(written)}"
    now = before.get(option)
    argument = argument.removeprefix("init_args.").removeprefix("dict_kwargs.")
    if not isinstance(now, Mapping) or now.get("class_path") != path_of(STANDS_FOR[option]) or argument in OWN:
        return word
    init_args = now["init_args"]
    check_arguments(option, init_args["function"], [argument])
    changed = {**init_args, "arguments": {**(init_args["arguments"] or {}), argument: yaml.safe_load(value)}}
    return f"--{option}={json.dumps({**now, 'init_args': changed})}"


OWN = ("class_path", "function", "arguments")


def path_of(kind: type) -> str:
    """Return the dotted path of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def is_function(path: str) -> bool:
    """Whether a dotted path can be imported, and is that of something to call that is no class."""
    if "." not in path:
        return False
    try:
        found = pkgutil.resolve_name(path)
    except Exception:  # whatever a module of the user's raises; the parser says so
        return False
    return callable(found) and not inspect.isclass(found)


def check_arguments(option: str, path: str, arguments: Iterable[str]) -> None:
    """Raise for an argument that a function does not take."""
    function: Callable[..., Any] = pkgutil.resolve_name(path)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # built in, and says nothing
        return
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return
    known = [each.name for each in parameters[1:] if each.kind is not each.VAR_POSITIONAL]
    for name in arguments:
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise UserError(f"--{option}: {path} has no argument {name}: {takes}, beside what the stage gives it.")
