"""Patterns that pick out parameters of the backbone by their names, as in a shell: ``body.*``, ``*.bias``."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from ldmi_lightning.errors import UserError

MOST = 12
"""How many names an error lists."""


def first_match(name: str, patterns: Iterable[str]) -> str | None:
    """Return the first of the patterns that a name matches; ``None`` if it matches none. A star stands for dots, too.

    >>> first_match("body.layer.0.weight", ["*.bias", "body.*"])
    'body.*'
    """
    return next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)


def refuse_unmatched(option: str, patterns: Iterable[str], names: Sequence[str]) -> None:
    """Refuse a pattern that no name matches.

    Args:
        option: where the patterns were given.
        patterns: the patterns.
        names: all parameters of the backbone.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(
                f"{option} has the pattern {pattern!r}, which no parameter of the backbone matches. There are: "
                f"{', '.join(shortened(names))}."
            )


def shortened(names: Sequence[str], most: int = MOST) -> list[str]:
    """Return names as patterns that cover them: as long as they can be with so many at most, as the names stand if possible.

    >>> shortened(["body.0.weight", "body.0.bias", "body.1.weight", "head.weight"], most=3)
    ['body.0.*', 'body.1.*', 'head.weight']
    """
    found, depth = list(names), max((name.count(".") for name in names), default=0)
    while len(found) > most and depth > 0:
        cut = [name if name.count(".") < depth else ".".join([*name.split(".")[:depth], "*"]) for name in names]
        found, depth = list(dict.fromkeys(cut)), depth - 1
    return found
