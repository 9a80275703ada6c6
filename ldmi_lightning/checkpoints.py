"""What may stand in a checkpoint: tensors and plain values, which load without running code."""

from collections.abc import Mapping
from typing import Any


def is_plain(value: Any) -> bool:
    """Whether a value is made of plain Python types only.

    >>> is_plain({"lr": 0.1, "sizes": [1, 2]}), is_plain(object())
    (True, False)
    """
    if isinstance(value, Mapping):
        return all(isinstance(key, str | int) and is_plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(is_plain(each) for each in value)
    return value is None or isinstance(value, bool | int | float | str)
