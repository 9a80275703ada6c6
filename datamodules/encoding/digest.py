"""What tells one encoder from another: digests of its weights, settings and code, and the versions of its libraries."""

import hashlib
import inspect
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import nn

from ldmi_lightning.datamodules.fingerprints import as_bytes
from ldmi_lightning.datamodules.streamed import Streamed
from ldmi_lightning.inputs import tensors_in

LIBRARIES = ("torch", "torchvision", "timm", "transformers")
"""Their modules' code is known by the library's version."""


def encoder_digest(encoder: nn.Module) -> str:
    """Return the SHA-256 of an encoder's weights and buffers, and of the classes and plain settings of its modules.

    >>> net = nn.Linear(2, 2)
    >>> before = encoder_digest(net)
    >>> _ = net.weight.data.mul_(2)
    >>> before == encoder_digest(net)
    False
    """
    digest = hashlib.sha256()
    for name, module in encoder.named_modules():
        digest.update(f"{name} {type(module).__qualname__}({', '.join(_settings(module))})\n".encode())
    for name, tensor in [*encoder.named_parameters(), *encoder.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(as_bytes(tensor))
    return digest.hexdigest()


def _settings(module: nn.Module) -> Iterator[str]:
    for name, value in sorted(vars(module).items()):
        if name != "training" and name[0] != "_" and _is_plain(value):
            yield f"{name}={value!r}"


def _is_plain(value: Any) -> bool:
    """Whether a value's text is the same in each process."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | str)


def encoder_versions(encoder: nn.Module) -> dict[str, str]:
    """Return the versions of the libraries that an encoder's modules come from.

    >>> list(encoder_versions(nn.Linear(2, 2)))
    ['torch']
    """
    used = {"torch", *(each.__module__.split(".")[0] for each in _classes(encoder))}
    found: dict[str, str] = {}
    for library in LIBRARIES:
        try:
            found |= {library: version(library)} if library in used else {}
        except PackageNotFoundError:  # the folder of that name is the user's own
            continue
    return found


def encoder_code(encoder: nn.Module) -> str:
    """Return the SHA-256 of the source files of an encoder's classes, but for those of :data:`LIBRARIES`."""
    own = sorted(
        (each for each in _classes(encoder) if each.__module__.split(".")[0] not in LIBRARIES),
        key=lambda each: each.__qualname__,
    )
    digest, seen = hashlib.sha256(), set[Path]()
    for each in own:
        source = _source_file(each)
        if source is None:
            digest.update(_source_text(each).encode())
        elif source not in seen:
            seen.add(source)
            digest.update(source.read_bytes())
    return digest.hexdigest()


def _classes(encoder: nn.Module) -> set[type]:
    every = {each for module in encoder.modules() for each in type(module).__mro__}
    return {each for each in every if each.__module__ != "builtins"}


def _source_file(each: type) -> Path | None:
    try:
        found = inspect.getsourcefile(each)
    except TypeError:  # made at a prompt
        return None
    return Path(found) if found is not None and Path(found).is_file() else None


def _source_text(each: type) -> str:
    try:
        return inspect.getsource(each)
    except (OSError, TypeError):
        codes = [getattr(value, "__code__", None) for _, value in sorted(vars(each).items())]
        return repr([(code.co_code, code.co_names) for code in codes if code is not None])


def stored_digest(x: Any) -> str:
    """Return the SHA-256 of a split's stored inputs; of streamed ones, of what tells them from others.

    >>> import torch
    >>> stored_digest(torch.zeros(2)) == stored_digest({"ids": torch.zeros(2)})
    False
    """
    digest = hashlib.sha256()
    if isinstance(x, Streamed):
        digest.update(f"{x.how()}\n".encode())
        for trait in x.traits(None):
            digest.update(trait)
        return digest.hexdigest()
    for where, tensor in tensors_in(x):
        digest.update(f"{where} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(as_bytes(tensor))
    return digest.hexdigest()
