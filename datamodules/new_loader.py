"""Batches of new samples for ``predict``: whole chunks, dealt out to the ranks in turn, so that outputs depend on no rank."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray

from ldmi_lightning.batch import Batch
from ldmi_lightning.errors import UserError

from .base import NoisyDataModule
from .class_names import class_indices, cleaned
from .images import SHOWN
from .labels import given_labels
from .new_data import NewData
from .new_tables import INPUT, Chunk, Place


class Step(NamedTuple):
    """What all ranks predict at once.

    Attributes:
        first: number of the first sample.
        keys: what each sample is called, N of them.
        labels: given labels, -1 where there is none, shape ``(N,)``; ``None`` where there is no column of labels.
    """

    first: int
    keys: list[str | int]
    labels: NDArray[np.int64] | None


class NewLoader:
    """Reads the samples of a place once, a chunk for each rank in a step; the ranks make equally many steps.

    A sample that cannot be read is left out of its batch, and noted.

    Args:
        place: where they are.
        new: makes inputs of them.
        batch_size: samples of a chunk, whatever the number of ranks.
        labels_of: reads the labels of a chunk.
        rank: this process.
        ranks: number of processes.
    """

    def __init__(
        self,
        place: Place,
        new: NewData,
        batch_size: int,
        labels_of: Callable[[list[Any]], NDArray[np.int64]],
        rank: int,
        ranks: int,
    ) -> None:
        self.place, self.new, self.batch_size, self.labels_of = place, new, batch_size, labels_of
        self.rank, self.ranks = rank, ranks
        self.steps: deque[Step] = deque()
        """What was read and not yet written."""
        self.faults: list[tuple[int, str, str]] = []
        """Number, name and fault of the first samples that this process could not read."""
        self.num_faults = 0

    def __iter__(self) -> Iterator[Batch]:
        chunks, first = self.place.chunks(self.batch_size), 0
        while group := list(islice(chunks, self.ranks)):
            self.steps.append(self._step(first, group))
            begins = [first, *(first + end for end in np.cumsum([len(chunk.keys) for chunk in group]).tolist())]
            yield self._batch(begins[self.rank], group[self.rank]) if self.rank < len(group) else _batch(None, [])
            first = begins[-1]

    def _step(self, first: int, group: Sequence[Chunk]) -> Step:
        keys = [key for chunk in group for key in chunk.keys]
        labels = None
        if group[0].labels is not None:
            labels = np.concatenate([self.labels_of(chunk.labels or []) for chunk in group])
        return Step(first, keys, labels)

    def _batch(self, first: int, chunk: Chunk) -> Batch:
        prepared = self.new.prepare(chunk.samples)
        for place, reason in prepared.faults[: SHOWN - len(self.faults)]:
            self.faults.append((first + place, str(chunk.keys[place]), reason))
        self.num_faults += len(prepared.faults)
        return _batch(prepared.x, [first + place for place in prepared.kept])


def _batch(x: Any, numbers: list[int]) -> Batch:
    unknown = torch.full((len(numbers),), -1)
    return Batch(torch.empty(0, 1) if x is None else x, unknown, torch.tensor(numbers, dtype=torch.int64), unknown)


class NewSamples(pl.LightningDataModule):
    """What ``predict`` is given in place of the run's own data.

    Args:
        data: the run's data set, into which the state of its checkpoint was loaded.
        place: where the new samples are.
        class_names: names of the classes, in the order of the net's outputs.
    """

    loader: NewLoader

    def __init__(self, data: NoisyDataModule, place: Place, class_names: Sequence[str]) -> None:
        super().__init__()
        self.data, self.place = data, place
        self.class_names, self.num_classes = list(class_names), len(class_names)
        self.notes: Counter[str] = Counter()
        """What was done to labels."""

    def predict_dataloader(self) -> NewLoader:
        """Return the batches of this process."""
        trainer = self.trainer
        device = trainer.strategy.root_device if trainer is not None else torch.device("cpu")
        rank, ranks = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        new = NewData(self.data, device)
        self.loader = NewLoader(self.place, new, self.data.batch_size, self.labels_of, rank, ranks)
        return self.loader

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave inputs where they are: they are made on the device."""
        return batch

    def labels_of(self, cells: list[Any]) -> NDArray[np.int64]:
        """Return labels as numbers of the run's classes, -1 where there is none, shape ``(N,)``.

        Raises:
            UserError: a label names no class of the run.
        """
        what = f"{INPUT}, column {self.data.new_from().label_column},"
        given = given_labels(cells, what, self.place.label_names)
        if getattr(self.data.new_from(), "clean_labels", False):
            parts, notes = cleaned({"new": given}, self.class_names)
            given = parts["new"]
            self.notes.update(notes)
        gone = given.unlabelled(self.class_names)
        labels = np.full(len(gone), -1)
        if not gone.all():
            try:
                labels[~gone] = class_indices(given.without(gone), self.class_names, what)
            except UserError as error:
                raise UserError(f"{error} The run's classes are {', '.join(self.class_names[:20])}.") from error
        return labels
