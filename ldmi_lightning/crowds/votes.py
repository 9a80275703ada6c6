"""Votes, several labels of a sample by several people: read from a CSV of single votes or from an array of all of them."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.csv_file import original_text, read_csv
from ldmi_lightning.errors import UserError
from ldmi_lightning.file_kinds import kind_of_file
from ldmi_lightning.label_table import NO_LABEL, named_class, whole_number

NO_VOTE = -1
COLUMNS = ("item", "annotator", "label")
SHOWN = 10
"""So many names of classes an error lists."""

Votes = NDArray[np.int64]
Texts = NDArray[np.str_]


class WrittenVotes(NamedTuple):
    """R single votes, one a row, as texts; nothing of them has been looked up.

    Attributes:
        item: which sample each is on, shape ``(R,)``.
        annotator: whose it is, shape ``(R,)``.
        label: what it says, shape ``(R,)``.
        lines: where in the file it stands, from 1, R of them.
        notes: what was found out about the file, to say it.
    """

    item: Texts
    annotator: Texts
    label: Texts
    lines: Sequence[int]
    notes: Sequence[str] = ()


class VoteTable(NamedTuple):
    """The votes of A annotators on M items, each of which has one at least.

    Attributes:
        items: original indices, int64, or names, as text; ascending, no two alike, shape ``(M,)``.
        votes: shape ``(M, A)``, int64, -1 where an annotator gave none.
        annotators: names, in the order of the columns.
    """

    items: NDArray[Any]
    votes: Votes
    annotators: list[str]


def read_written_votes(path: Path, *, what: str, encoding: str = "utf-8", option: str | None = None) -> WrittenVotes:
    """Read the columns ``item``, ``annotator`` and ``label`` of a CSV file, in any order; further columns are not read.

    Args:
        path: the file.
        what: what it is called in messages.
        encoding: how its characters are stored.
        option: the option that sets ``encoding``, to name it in messages.

    Raises:
        UserError: it cannot be read, lacks a column, or has an empty cell.
    """
    try:
        found = read_csv(path, COLUMNS, encoding, what=what, option=option, skip_blank=True)
    except OSError as error:
        raise UserError(f"{what} cannot be read ({error.strerror}).") from error
    columns: dict[str, Texts] = {}
    for name in COLUMNS:
        if name not in found.cells:
            raise UserError(
                f"{what} cannot be read: its first line names no column {name}, but {','.join(found.names)[:80]!r}. Name the "
                "columns item,annotator,label: one vote a line."
            )
        cells = [cell.strip() for cell in found.cells[name]]
        if "" in cells:
            raise UserError(
                f"{what}, line {found.lines[cells.index('')]} has no {name}: write one, or leave the line out."
            )
        columns[name] = np.array(cells, dtype=np.str_)
    if not found.lines:
        raise UserError(f"{what} has no votes: write one a line below item,annotator,label.")
    return WrittenVotes(columns["item"], columns["annotator"], columns["label"], found.lines, found.notes)


def vote_table(
    written: WrittenVotes, num_classes: int, class_names: Sequence[str] = (), *, what: str, names: bool = False
) -> VoteTable:
    """Return single votes as a table.

    Annotators stand in the order of their
    names; numbers in their own.

    Args:
        written: the votes.
        num_classes: C.
        class_names: names of the classes, in the order of the labels; empty where nobody knows them.
        what: what the file is called in messages.
        names: whether items are names, rather than original indices.

    Raises:
        UserError: a label is no class, or somebody has two votes on one item.

    >>> rows = [np.array(cells) for cells in (["7", "7", "3"], ["bo", "al", "bo"], ["cat", "1", "0"])]
    >>> vote_table(WrittenVotes(*rows, lines=[2, 3, 4]), 2, ["cat", "dog"], what="v.csv").votes.tolist()  # items 3, 7; al, bo
    [[-1, 0], [1, 0]]
    """
    labels = _class_numbers(written, num_classes, class_names, what)
    spelled, item = np.unique(written.item, return_inverse=True)
    items: NDArray[Any] = spelled
    if not names:
        numbers = np.array([whole_number(text) for text in spelled.tolist()], np.int64)
        items, again = np.unique(numbers, return_inverse=True)  # 3 and 3.0 are one
        item = again[item]
    people, annotator = np.unique(written.annotator, return_inverse=True)
    order = sorted(range(len(people)), key=lambda place: _by_number(str(people[place])))
    annotator = np.argsort(order)[annotator]
    cell = item * len(people) + annotator
    _refuse_second_votes(cell, written, what)
    votes = np.full(len(items) * len(people), NO_VOTE, np.int64)
    votes[cell] = labels
    return VoteTable(items, votes.reshape(len(items), len(people)), [str(people[place]) for place in order])


def are_indices(items: Texts) -> bool:
    """Whether all items are whole numbers from 0 on.

    >>> are_indices(np.array(["3", "4.0"])), are_indices(np.array(["3", "-1"])), are_indices(np.array(["a.png"]))
    (True, False, False)
    """
    return all((whole_number(item) if item[:1] != "-" else None) is not None for item in set(items.tolist()))


def _by_number(name: str) -> tuple[bool, int, str]:
    number = whole_number(name)
    return number is None, number or 0, name


def _refuse_second_votes(cell: NDArray[np.int64], written: WrittenVotes, what: str) -> None:
    order = np.argsort(cell, kind="stable")
    twice = np.flatnonzero(cell[order][1:] == cell[order][:-1])
    if len(twice):
        first, second = order[twice[0]], order[twice[0] + 1]
        raise UserError(
            f"{what}, lines {written.lines[first]} and {written.lines[second]} are two votes of "
            f"{str(written.annotator[first])!r} on the item {str(written.item[first])!r} ({len(twice):,} such pairs in all). "
            "Keep one."
        )


def _class_numbers(written: WrittenVotes, num_classes: int, class_names: Sequence[str], what: str) -> Votes:
    """Return labels as whole numbers: names are looked up."""
    spelled, which = np.unique(written.label, return_inverse=True)
    texts, names = spelled.tolist(), list(class_names)
    _refuse_unclear(texts, num_classes, names, what)
    numbers = []
    for place, text in enumerate(texts):
        named = named_class(text, names)
        number = named[0] if len(named) == 1 else whole_number(text) if not named else None
        if number is None or not 0 <= number < num_classes:
            line = written.lines[int(np.argmax(which == place))]
            raise UserError(f"{what}, line {line} has the label {text!r}, {_why(text, len(named), num_classes, names)}")
        numbers.append(number)
    return np.array(numbers, np.int64)[which]


def _why(text: str, meanings: int, num_classes: int, names: Sequence[str]) -> str:
    if text.lower() in NO_LABEL:
        return "which is none: leave the line out where somebody gave no vote."
    if meanings > 1:
        return f"which may mean two classes: write the labels as 0 to {num_classes - 1}."
    shown = ", ".join(map(repr, names[:SHOWN])) + (f", … ({len(names)} in all)" if names[SHOWN:] else "")
    return f"which is no class: labels are 0 to {num_classes - 1}" + (f", or the names {shown}." if names else ".")


def _refuse_unclear(texts: Sequence[str], num_classes: int, names: Sequence[str], what: str) -> None:
    """Refuse whole numbers where classes are called by other ones, unless one of them can only be a name."""
    called = [whole_number(name) for name in names]
    if not called or None in called or called == list(range(len(called))):
        return
    places = {str(number) for number in range(num_classes)}
    if {original_text(text) for text in texts} <= places:
        raise UserError(
            f"{what} holds numbers, and the classes are called by other ones ({', '.join(names[:5])}, …): it is unclear whether "
            "1 is the second class or the one called 1. Give an .npy array of 0 to C-1 instead."
        )


# -- arrays -----------------------------------------------------------------------------------------------------------


def votes_array(given: Any, annotators: Sequence[str] | None = None, *, what: str) -> VoteTable:
    """Return the votes of an array, whose row i is the item of original index i; rows without any vote are left out.

    Args:
        given: whole numbers, shape ``(N, A)``, -1 where annotator a gave no vote.
        annotators: names of the A annotators; ``None`` numbers them from 0.
        what: what the array is called in messages.

    Raises:
        UserError: it is of another shape or kind, holds numbers below -1, or no vote at all.

    >>> votes_array([[0, -1], [-1, -1], [1, 1]], what="votes")
    VoteTable(items=array([0, 2]), votes=array([[ 0, -1],
           [ 1,  1]]), annotators=['0', '1'])
    """
    try:
        votes = np.asarray(given)
    except ValueError:
        votes = np.empty(0, object)
    if votes.ndim != 2 or votes.dtype.kind not in "iu":
        raise UserError(
            f"{what} must be whole numbers of shape (N, A), -1 where annotator a gave no vote, but is {votes.dtype} of shape "
            f"{votes.shape}. Save such an array, or write a CSV: item,annotator,label."
        )
    votes = votes.astype(np.int64)
    if votes.size and votes.min() < NO_VOTE:
        row, column = np.argwhere(votes < NO_VOTE)[0]
        raise UserError(
            f"{what} has {votes[row, column]} in row {row}, column {column}: a vote is 0 to C-1, and none is -1."
        )
    items = np.flatnonzero((votes != NO_VOTE).any(axis=1))
    if not len(items):
        raise UserError(f"{what} has no votes: all of it is -1, or it is empty.")
    names = (
        [str(number) for number in range(votes.shape[1])] if annotators is None else [str(name) for name in annotators]
    )
    if len(names) != votes.shape[1] or len(set(names)) < len(names):
        raise UserError(
            f"{what} has {votes.shape[1]} columns, but annotators are {len(set(names))} names: give each column one of its own."
        )
    return VoteTable(items, votes[items], names)


def read_votes_array(path: Path, *, what: str) -> VoteTable:
    """Read an array from an NPY file, or from an NPZ file as ``votes`` and maybe ``annotators``; nothing is unpickled."""
    if kind := kind_of_file(path):
        raise UserError(f"{what} is {kind}.")
    try:
        held = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        if not isinstance(held, np.ndarray):
            with held:
                held = {name: held[name] for name in held}
    except OSError as error:
        raise UserError(f"{what} cannot be read ({error.strerror}).") from error
    except (EOFError, ValueError, zipfile.BadZipFile) as error:  # NumPy's own advice is to unpickle it
        raise UserError(
            f"{what} cannot be read: it is cut short, or holds more than numbers. Save whole numbers with numpy.save."
        ) from error
    if isinstance(held, np.ndarray):
        return votes_array(held, what=what)
    if "votes" not in held:
        raise UserError(
            f"{what} holds {', '.join(held) or 'nothing'}, but no array called votes: save it under that name."
        )
    return votes_array(held["votes"], held.get("annotators"), what=what)


def check_votes(table: VoteTable, num_classes: int, what: str) -> None:
    """Raise :class:`UserError` where a vote is for no class."""
    if int(table.votes.max()) >= num_classes:
        row, column = np.argwhere(table.votes >= num_classes)[0]
        raise UserError(
            f"{what} has the vote {table.votes[row, column]} of annotator {table.annotators[column]} on item {table.items[row]}, "
            f"but with {num_classes} classes votes must lie in 0..{num_classes - 1}."
        )
