"""Which classes labels name: cleaned on request, counted from the labels, and looked up."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.errors import UserError

from .checks import check_labels
from .labels import GivenLabels, given_labels
from .own_data import check_class_names, shorten

NO_LABEL_WORDS = {"nan", "none", "null", "na", "n/a", "<na>"}
"""What programs write where there is nothing."""
CLEAN = "--data.clean_labels true"
MANY = 10
"""So many labels are named in a line."""


def cleaned(
    parts: Mapping[str, GivenLabels], class_names: Sequence[str] | None
) -> tuple[dict[str, GivenLabels], list[str]]:
    """Take names that differ by blanks or case alone for one, and words such as ``nan`` for no label.

    Args:
        parts: labels by split.
        class_names: names of the classes, whose spelling is taken; ``None`` takes the most frequent one.

    Returns:
        The same labels, and what was changed, in one line for all of it.

    >>> parts, notes = cleaned({"train": given_labels(["pos", "pos", "Pos ", "neg"], "y")}, None)
    >>> parts["train"].values.tolist(), notes
    (['pos', 'pos', 'pos', 'neg'], ["clean_labels: 'Pos ' (1) is taken for 'pos'."])
    """
    counts = Counter(
        name for part in parts.values() if not part.are_numbers for name in part.values[~part.missing].tolist()
    )
    kept = set(class_names or ())
    frequent: dict[str, Counter[str]] = {}
    for name, count in counts.items():
        frequent.setdefault(_key(name), Counter())[" ".join(name.split())] += count
    for name in class_names or ():
        frequent[_key(name)] = Counter({name: 1})
    spelling: dict[str, str] = {}
    for name in counts:
        best = min(frequent[_key(name)].items(), key=lambda item: (-item[1], item[0]))[0]
        spelling[name] = name if name in kept else "" if _is_no_label(name) and best not in kept else best
    changed: dict[str, list[str]] = {}
    for name, best in spelling.items():
        if name != best:
            changed.setdefault(best, []).append(f"{name!r} ({counts[name]})")
    told = [
        f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} taken for {repr(best) if best else 'no label'}"
        for best, names in changed.items()
    ]
    notes = [f"clean_labels: {'; '.join(told)}."] if told else []
    return {split: part if part.are_numbers else _respelled(part, spelling) for split, part in parts.items()}, notes


def _respelled(part: GivenLabels, spelling: Mapping[str, str]) -> GivenLabels:
    values = np.array([spelling.get(name, name) for name in part.values.tolist()], object)
    order = part.order and [name for name in dict.fromkeys(spelling.get(name, name) for name in part.order) if name]
    return part._replace(values=values, missing=values == "", order=order)


def _key(name: str) -> str:
    return " ".join(name.split()).casefold()


def _is_no_label(name: str) -> bool:
    return _key(name) in NO_LABEL_WORDS


# -- classes ----------------------------------------------------------------------------------------------------------


def names_in(parts: Mapping[str, GivenLabels]) -> list[str]:
    """Return the names of the classes that the labels hold.

    Those that a column brings are taken in their order; other names in alphabetical order, or by size where all are
    numbers. Numbers must be 0 to C-1, each of them there, and are named so.

    Args:
        parts: labels by split, none missing; the first is what is trained on.

    Raises:
        UserError: if names differ by blanks or case alone, look like no label, or numbers are not 0 to C-1.

    >>> names_in({"train": given_labels(["10", "9", "10"], "y")})
    ['9', '10']
    """
    first = next(iter(parts.values()))
    if first.order is not None:
        _refuse_lookalikes(first.order, first.what)
        return check_class_names(first.order, first.what)
    if any(part.are_numbers != first.are_numbers for part in parts.values()):
        raise UserError(
            f"{' and '.join(part.what for part in parts.values())} mix numbers with names: give names in all."
        )
    if first.are_numbers:
        return check_class_names(_numbered(parts), first.what)
    names = list(dict.fromkeys(name for part in parts.values() for name in part.distinct()))
    _refuse_lookalikes(names, first.what)
    return check_class_names(
        sorted(names, key=lambda name: (int(name), name)) if _are_numerals(names) else sorted(names), first.what
    )


def _numbered(parts: Mapping[str, GivenLabels]) -> list[str]:
    first, *others = parts.values()
    found = first.distinct()
    if not found:
        raise UserError(f"{first.what} has no samples.")
    if found != list(range(len(found))):
        names = [str(number) for number in found[:MANY]]
        raise UserError(
            f"{first.what} has the numbers {shorten(found)} as labels, which are not 0 to C-1. Name the classes: class_names "
            f"[{', '.join(f'{name!r}' for name in names)}{', …' if len(found) > MANY else ''}], or give the labels as strings."
        )
    number = len(found)
    for part in others:
        largest = max([*part.distinct(), 0])
        if largest >= len(first.values):
            raise UserError(f"{part.what} has the label {largest}, but {first.what} has 0 to {len(found) - 1}.")
        number = max(number, largest + 1)
    return [str(label) for label in range(number)]


def _are_numerals(names: Iterable[str]) -> bool:
    return all(re.fullmatch(r"-?[0-9]+", name) for name in names)


def _refuse_lookalikes(names: Sequence[str], what: str) -> None:
    if words := [name for name in names if _is_no_label(name)]:
        raise UserError(
            f"{what} has the label {words[0]!r}, which looks like no label. Where it is a class, name all in class_names; "
            f"where it is none, set {CLEAN}."
        )
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_key(name), []).append(name)
    if pairs := [spellings for spellings in alike.values() if len(spellings) > 1]:
        told = "; ".join(" and ".join(map(repr, spellings)) for spellings in pairs[:MANY])
        raise UserError(
            f"{what} has labels that differ by blanks or case alone: {told}. Set {CLEAN} to take them for one class each, in "
            "the most frequent spelling; or name all in class_names, where they are classes of their own."
        )


def class_indices(labels: Any, class_names: Sequence[str], what: str) -> NDArray[np.int64]:
    """Return labels as positions in ``class_names``.

    Names are looked up. Whole numbers are positions, also where a file has them as text, unless the classes are called by
    other numbers than 0 to C-1: then they are looked up.

    Args:
        labels: N labels, or :class:`GivenLabels`.
        class_names: names of the classes, in order.
        what: what has these labels, for the error.

    Returns:
        int64, shape ``(N,)``, in ``0..C-1``.

    Raises:
        UserError: if a label is missing, or names no class.

    >>> class_indices(["dog", "cat", "dog"], ["cat", "dog"], "it").tolist()
    [1, 0, 1]
    >>> class_indices([7, 1, 2], ["1", "2", "7"], "it").tolist()
    [2, 0, 1]
    """
    given = labels if isinstance(labels, GivenLabels) else given_labels(labels, what)
    if given.missing.any():
        raise UserError(
            f"{what} has the label None (sample {int(given.missing.argmax())}): give each sample one, or leave it out."
        )
    places = {name: place for place, name in enumerate(class_names)}
    own_numbers = _are_numerals(class_names) and list(places) != [str(place) for place in range(len(places))]
    distinct = given.distinct()
    if given.are_numbers and own_numbers:
        given = given._replace(values=given.values.astype(str).astype(object))
        distinct = given.distinct()
    if not given.are_numbers and not _are_numerals(class_names) and _are_numerals(distinct):
        given = given._replace(values=given.values.astype(np.int64))
    if given.are_numbers:
        found = given.values
        check_labels(found, len(class_names), what)
        return found
    if unknown := [name for name in distinct if name not in places]:
        raise UserError(_unknown(unknown[0], given, class_names, what))
    if not len(given.values):
        raise UserError(f"{what} has no samples.")
    return np.array([places[name] for name in given.values.tolist()], np.int64)


def _unknown(name: str, given: GivenLabels, class_names: Sequence[str], what: str) -> str:
    at = given.values.tolist().index(name)
    if _is_no_label(name):
        return (
            f"{what} has the label {name!r} (sample {at}), which looks like no label. Set {CLEAN} to take it for none."
        )
    if alike := [each for each in class_names if _key(each) == _key(name)]:
        return (
            f"{what} has the label {name!r} (sample {at}), which differs from the class {alike[0]!r} by blanks or case alone. "
            f"Set {CLEAN} to take one for the other."
        )
    return (
        f"{what} has the label {name} (sample {at}), which is neither a whole number nor one of the class names "
        f"{shorten(class_names)}."
    )
