"""``ldmi audit --votes FILE``: the votes of several people on the rows of an audit, without PyTorch."""

import dataclasses
from pathlib import Path

import numpy as np

from ldmi_lightning.audit.rows import Rows
from ldmi_lightning.crowds.votes import (
    NO_VOTE,
    VoteTable,
    are_indices,
    check_votes,
    read_votes_array,
    read_written_votes,
    vote_table,
)
from ldmi_lightning.errors import UserError


def with_votes(rows: Rows, file: str | None) -> Rows:
    """Return the rows with the votes of a file, which take the place of those that they have; without a file, as they are."""
    if file is None:
        return rows
    table = read_votes(Path(file), rows)
    place = np.searchsorted(table.items, rows.index).clip(max=len(table.items) - 1)
    votes = np.where((table.items[place] == rows.index)[:, None], table.votes[place], NO_VOTE)
    if not (votes != NO_VOTE).any():
        raise UserError(
            f"--votes {file} has no vote on any of the {len(rows):,} rows: its items are {table.items[0]} to {table.items[-1]}. "
            "Items are the original indices of rows; is it of another data set?"
        )
    return dataclasses.replace(rows, votes=votes, annotators=table.annotators)


def read_votes(path: Path, rows: Rows) -> VoteTable:
    """Return the votes of a file, of items that are original indices.

    Raises:
        UserError: it cannot be read, or its items are anything else.
    """
    what = f"--votes {path}"
    if not path.is_file():
        raise UserError(f"{what} is no file. Give a CSV of item,annotator,label, or an array of votes, .npy or .npz.")
    classes = len(rows.class_names)
    if path.suffix == ".csv":
        written = read_written_votes(path, what=what)
        if not are_indices(written.item):
            first = next(
                place for place in range(len(written.item)) if not are_indices(written.item[place : place + 1])
            )
            raise UserError(
                f"{what}, line {written.lines[first]} has the item {str(written.item[first])!r}: items of an audit are the "
                "original indices of rows, whole numbers from 0."
            )
        table = vote_table(written, classes, rows.class_names, what=what)
    elif path.suffix in (".npy", ".npz"):
        table = read_votes_array(path, what=what)
    else:
        raise UserError(f"{what} must be a .csv, .npy or .npz file.")
    check_votes(table, classes, what)
    return table
