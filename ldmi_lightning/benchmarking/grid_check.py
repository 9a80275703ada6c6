"""Checks of the parts of a grid's file, each with one line for a mistake."""

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ldmi_lightning.errors import UserError


class Check:
    """Checks of the grid in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def keys(self, what: str, entry: Any, known: Mapping[str, Any], required: Collection[str]) -> None:
        """Refuse an entry that is no mapping, has a key that is not known or empty, or lacks one that is required."""
        if not isinstance(entry, dict):
            raise self.mistake(f"{what} must map names to values, such as {', '.join(known)}.")
        for key, value in entry.items():
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f"Did you mean {close[0]}?" if close else f"It may have {', '.join(known)}."
                raise self.mistake(f"{what} has no key {key}. {hint}")
            if not isinstance(value, known[key]):
                kinds = {dict: "a mapping", list: "a list", str: "a text"}
                meant = " or ".join(kinds[each] for each in listed(known[key]))
                raise self.mistake(f"{key} of {what} must be {meant}, but got {value}.")
            if not value and key not in ("options", "init_args"):
                raise self.mistake(f"{key} of {what} is empty.")
        for key in required:
            if key not in entry:
                raise self.mistake(f"{what} lacks {key}.")

    def mistake(self, said: str) -> UserError:
        """Return the error that says what is wrong, and where a grid is shown."""
        return UserError(f"{self.path}: {said} `ldmi benchmark --help` shows a grid.")

    def numbers(self, what: str, values: list[Any], largest: float, rule: str, whole: bool = False) -> list[Any]:
        """Refuse values that are no numbers from 0 to ``largest``, or stand there twice."""
        for value in values:
            right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if not right or not 0 <= value <= largest:
                raise UserError(f"{self.path}: {what} must each be {rule}, but got {value}.")
        if len(set(values)) < len(values):
            raise UserError(f"{self.path}: {what} holds a value twice: {values}.")
        return values

    def file(self, name: Any) -> Path:
        """Find a file, named from the grid's folder, one of those around it, or the working directory."""
        folders = [*self.path.absolute().parents, Path()]
        found = next((folder / str(name) for folder in folders if (folder / str(name)).is_file()), None)
        if found is None:
            raise UserError(
                f"{self.path} names {name}, but there is no such file, neither around the grid's file nor in the working "
                "directory."
            )
        return found


def listed(value: Any) -> list[Any]:
    """Return a list or a single value as a list."""
    return list(value) if isinstance(value, list | tuple) else [value]
