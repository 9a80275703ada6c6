"""Labels of several people: their votes from a file or an array, and one label for each sample from these."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.crowds.aggregate import Aggregate, agreement, dawid_skene, majority_vote
from ldmi_lightning.crowds.votes import (
    NO_VOTE,
    VoteTable,
    WrittenVotes,
    are_indices,
    check_votes,
    read_votes_array,
    read_written_votes,
    vote_table,
    votes_array,
)
from ldmi_lightning.errors import UserError
from ldmi_lightning.noise.base import Labels, Noise
from ldmi_lightning.noise.human import KEYS, Kind, read_human_labels
from ldmi_lightning.noise.label_file import WrittenLabels, look_up
from ldmi_lightning.saying import say

AggregateName = Literal["majority", "dawid_skene"]
AGGREGATES: dict[AggregateName, Callable[[Labels, int], Aggregate]] = {
    "majority": majority_vote,
    "dawid_skene": dawid_skene,
}
SUFFIXES = (".csv", ".npy", ".npz", ".pt")
PEOPLE: tuple[Kind, ...] = ("rand1", "rand2", "rand3")
"""The three people of CIFAR-10N."""


class CrowdLabels(Noise):
    """Votes of several people on each sample, and the label that they come to; batches hold both.

    - CSV with a first line that names the columns ``item``, ``annotator`` and ``label``, in any order: one vote a line. An
      item is a sample's original index; where not all items are whole numbers, its file's path below the data's root; with
      ``item_column`` the cell of that column of the data's table. Labels are ``0..C-1`` or class names.
    - NPY of whole numbers, shape ``(N, A)``, row i for original index i, -1 where annotator a gave no vote; or NPZ with such
      an array as ``votes``, and the people's names as ``annotators``.
    - ``CIFAR-10_human.pt``: the three people of CIFAR-10N; its clean labels are compared with the data's.

    All votes of the file count in the aggregate, also those on samples that are in no split.

    Args:
        file: the file; in Python also an array of votes, shape ``(N, A)``.
        aggregate: ``majority``, or ``dawid_skene``, which needs the extra ``crowd``.
        unvoted: what is done about training and validation samples without a vote: ``refuse`` them, or ``drop`` them.
        item_column: the column of the data's table that holds the items.
        own_labels: whether the labels that the data itself has are ``true``, so that votes are compared with them in
            diagnostics, or ``unknown``.
        encoding: how characters are stored in a CSV file.

    Attributes:
        annotators: names, in the order of the columns of :meth:`votes`; empty before the labels are asked for.
        table: all votes; ``None`` before the labels are asked for.
        aggregated: what they come to, item by item of the table; likewise.
    """

    def __init__(
        self,
        file: str | Any,
        aggregate: AggregateName = "majority",
        unvoted: Literal["refuse", "drop"] = "refuse",
        item_column: str | None = None,
        own_labels: Literal["true", "unknown"] = "true",
        encoding: str = "utf-8",
    ) -> None:
        super().__init__()
        if aggregate not in AGGREGATES:
            known = ", ".join(get_args(AggregateName))
            raise UserError(f"--data.noise.aggregate must be one of {known}, but got {aggregate}.")
        self.file, self.aggregate, self.unvoted = file, aggregate, unvoted
        self.item_column, self.own_labels, self.encoding = item_column, own_labels, encoding
        self.source = f"--data.noise.file {file}" if isinstance(file, str) else "votes"
        self.takes_true_labels = own_labels == "true"
        self.table: VoteTable | None = None
        self.aggregated: Aggregate | None = None
        self._clean: WrittenLabels | None = None
        self._given = self._read(file)
        self._rows: dict[str, int] | None = None
        self.needs_names = isinstance(self._given, WrittenVotes) and (
            item_column is not None or not are_indices(self._given.item)
        )

    def __call__(self, labels: Labels, num_classes: int, *, index: Labels, x: object = None) -> Labels:
        """Return the labels that the votes come to; the first time, say what was found out about them."""
        if self._clean is not None:
            look_up(self._clean, labels, num_classes, index, self.source)  # refuses those of another data set
        found = self.aggregate_votes(num_classes)
        rows = self._rows_of(index)
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            assert self.table is not None
            raise UserError(
                f"{self.source} has no vote on {len(missing):,} of {len(index):,} samples, the first of which is "
                f"{self._called(int(index[missing[0]]))}; its {len(self.table.items):,} items are {self.table.items[0]} to "
                f"{self.table.items[-1]}. Leave such samples out with --data.noise.unvoted drop, or is it of another data set?"
            )
        return found.labels[rows]

    def aggregate_votes(self, num_classes: int) -> Aggregate:
        """Return what all votes come to, item by item of the table."""
        if self.aggregated is None or self.aggregated.posterior.shape[1] != num_classes:
            given = self._given
            if isinstance(given, WrittenVotes):
                self._refuse_nameless(given)
                given = vote_table(given, num_classes, self.class_names, what=self.source, names=self.needs_names)
            check_votes(given, num_classes, self.source)
            self.annotators = given.annotators
            self.table, self.aggregated = given, AGGREGATES[self.aggregate](given.votes, num_classes)
            for line in self._told(given, self.aggregated):
                say(line)
        return self.aggregated

    def _refuse_nameless(self, given: WrittenVotes) -> None:
        if self.needs_names and not self.item_names:
            first = next(
                place for place, item in enumerate(given.item) if not are_indices(given.item[place : place + 1])
            )
            raise UserError(
                f"{self.source}, line {given.lines[first]} has the item {str(given.item[first])!r}, which is no whole number, "
                "and the data's samples have no names: number items by original index, from 0, or name the column of the data's "
                "table that holds them with --data.noise.item_column."
            )

    def _told(self, table: VoteTable, found: Aggregate) -> list[str]:
        notes = list(self._given.notes) if isinstance(self._given, WrittenVotes) else []
        votes, items, people = int((table.votes != NO_VOTE).sum()), len(table.items), len(table.annotators)
        tied = f"{found.ties:,} ties are decided by lot" if found.ties else "no ties"
        return [*notes, f"{self.source}: {votes:,} votes of {people:,} annotators on {items:,} items, {tied}."]

    # -- which row is whose -------------------------------------------------------------------------------------------

    def votes(self, index: Labels) -> Labels | None:
        """Return the votes on samples, shape ``(N, A)``, -1 where there is none; known after the labels.

        Args:
            index: original index of each, shape ``(N,)``.
        """
        assert self.table is not None
        return self._of(index, self.table.votes, NO_VOTE)

    def posterior(self, index: Labels) -> NDArray[np.float64]:
        """Return the probability of each class for samples, shape ``(N, C)``; NaN where one has no vote.

        Args:
            index: original index of each, shape ``(N,)``.
        """
        assert self.aggregated is not None
        return self._of(index, self.aggregated.posterior, np.nan)

    def has_label(self, index: Labels, num_classes: int) -> NDArray[np.bool_] | None:
        """Return which samples have a vote, where the others are to be left out; ``None`` where none is."""
        if self.unvoted == "refuse":
            return None
        self.aggregate_votes(num_classes)
        return self._rows_of(index) >= 0

    def _of(self, index: Labels, values: NDArray[Any], none: float) -> NDArray[Any]:
        rows = self._rows_of(index)
        found = values[rows]
        found[rows < 0] = none
        return found

    def _rows_of(self, index: Labels) -> Labels:
        """Return the row of the table for each original index, -1 where there is none."""
        assert self.table is not None
        items = self.table.items
        if items.dtype.kind != "U":
            place = np.searchsorted(items, index).clip(max=len(items) - 1)
            return np.where(items[place] == index, place, -1)
        if self._rows is None:
            self._rows = {name: row for row, name in enumerate(items.tolist())}
        return np.array([self._rows.get(self.item_names.get(each, ""), -1) for each in index.tolist()], np.int64)

    def _called(self, index: int) -> str:
        name = self.item_names.get(index)
        return f"original index {index}" if name is None else repr(name)

    def unused(self, index: Labels) -> str | None:
        """Return a line that counts the items of which the data has no sample; ``None`` where it has all."""
        assert self.table is not None
        used = np.zeros(len(self.table.items), bool)
        rows = self._rows_of(index)
        used[rows[rows >= 0]] = True
        if used.all():
            return None
        first = self.table.items[int(np.argmin(used))]
        return (
            f"{self.source}: the data has no sample of {(~used).sum():,} of {len(used):,} items, first {str(first)!r}: their "
            "votes count in the aggregate alone."
        )

    def facts(self) -> dict[str, Any]:
        """Return what a report says of the votes, in plain JSON types."""
        assert self.table is not None
        assert self.aggregated is not None
        given = self.table.votes != NO_VOTE
        agreeing = agreement(self.table.votes)
        return {
            "votes": {
                "aggregate": self.aggregate,
                "annotators": len(self.table.annotators),
                "items": len(given),
                "votes": int(given.sum()),
                "agreement": None if np.isnan(agreeing) else agreeing,
                "ties": self.aggregated.ties,
            }
        }

    # -- reading ------------------------------------------------------------------------------------------------------

    def _read(self, file: str | Any) -> WrittenVotes | VoteTable:
        if not isinstance(file, str):
            return votes_array(file, what=self.source)
        path = Path(file)
        if path.suffix not in SUFFIXES:
            raise UserError(f"{self.source} must be a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file.")
        if not path.is_file():
            raise UserError(f"{self.source} is no file. Give one of votes, such as a CSV: item,annotator,label.")
        if path.suffix == ".pt":
            people = [read_human_labels(file, kind) for kind in PEOPLE]
            self._clean = people[0]
            votes = np.stack([np.asarray(each.label, np.int64) for each in people], axis=1)
            return votes_array(votes, [KEYS[kind] for kind in PEOPLE], what=self.source)
        if path.suffix == ".csv":
            return read_written_votes(path, what=self.source, encoding=self.encoding, option="--data.noise.encoding")
        return read_votes_array(path, what=self.source)
