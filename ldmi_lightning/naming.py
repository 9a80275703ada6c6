"""Names in a line: the first of them, and how many more there are."""

from collections.abc import Iterable

NAMED = 5
"""So many are named."""


def few(names: Iterable[object]) -> str:
    """Return the first names, and how many more there are.

    >>> few("ab"), few(range(7))
    ('a, b', '0, 1, 2, 3, 4 and 2 more')
    """
    said = [str(name) for name in names]
    more = f" and {len(said) - NAMED} more" if len(said) > NAMED else ""
    return ", ".join(said[:NAMED]) + more
