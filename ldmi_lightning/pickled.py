"""What a file that PyTorch refuses to load safely holds: objects that could run code, or mere damage."""

import pickletools
import zipfile
from pathlib import Path

import torch

HARMLESS = ("torch._utils._rebuild", "torch._tensor._rebuild", "collections.OrderedDict", "numpy", "_codecs.encode")
"""What tensors and arrays are made of begins so, in files of PyTorch's first format."""


def unsafe_globals(path: str | Path) -> list[str]:
    """Return the names of functions and classes in a pickled file that could run code if it were loaded; nothing is loaded.

    Args:
        path: a file of ``torch.save`` in either of its formats, or a plain pickle.

    Returns:
        Their names, in alphabetical order; none where the file is damaged or no pickle at all.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "weights.pt"
    >>> torch.save(torch.nn.Linear(1, 1), path)
    >>> unsafe_globals(path)
    ['torch.nn.modules.linear.Linear']
    """
    if not zipfile.is_zipfile(path):
        return sorted(_named(Path(path).read_bytes()))
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # whatever a damaged file makes PyTorch say
        return []


def _named(content: bytes) -> set[str]:
    """Return what well-formed pickles, one after the other, take from modules."""
    found: set[str] = set()
    begin = 0
    while content[begin : begin + 1] in (b"\x80", b"(", b"c", b"]", b"}"):
        inside, end = set(), 0
        try:
            for opcode, value, at in pickletools.genops(content[begin:]):
                end = at or end
                if opcode.name in ("GLOBAL", "INST"):
                    inside.add(str(value).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    inside.add("objects of Python's own pickle")
        except Exception:  # it is cut short, or no pickle
            break
        found |= inside
        begin += end + 1
    return {name for name in found if not name.startswith(HARMLESS) and not _is_storage(name)}


def _is_storage(name: str) -> bool:
    return name.startswith("torch.") and name.endswith("Storage")
