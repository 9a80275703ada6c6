"""Batches by index: which samples each rank sees in batch k of epoch e, and a loader that gathers them.

The loader contract: ``batch_size`` is the GLOBAL batch. The union of the ranks' k-th batches is the single process's
k-th batch, all ranks see equally many batches, the order depends on seed and epoch alone, and no sample is seen twice
in an epoch.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ldmi_lightning.batch import Batch
from ldmi_lightning.errors import UserError
from ldmi_lightning.inputs import in_memory, map_tensors, take
from ldmi_lightning.seeding import derived_seed


class Split:
    """One split: its inputs, which are resident in memory or files, and its labels.

    Args:
        x: inputs, shape ``(N, ...)``, uint8 or integer tokens; a tuple or dict of such tensors; or anything else of that
            length that is read piece by piece.
        y: labels to learn from, shape ``(N,)``, int64.
        y_clean: true labels, shape ``(N,)``, int64; -1 where unknown.
        original_index: position of each sample in the original data set, shape ``(N,)``, int64.
        votes: labels of A annotators, shape ``(N, A)``, int64, -1 where one gave none; ``None`` where ``y`` is all.
    """

    def __init__(self, x: Any, y: Tensor, y_clean: Tensor, original_index: Tensor, votes: Tensor | None = None) -> None:
        self.x, self.y, self.y_clean, self.original_index, self.votes = x, y, y_clean, original_index, votes

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device) -> "Split":
        """Return the split with labels, and inputs that are tensors, on ``device``."""
        x = map_tensors(lambda each: each.to(device), self.x) if in_memory(self.x) else self.x
        votes = None if self.votes is None else self.votes.to(device)
        return Split(x, self.y.to(device), self.y_clean.to(device), self.original_index, votes)

    def labels(self, where: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return what goes after ``x`` into a split of some of the samples: labels, indices and votes.

        Args:
            where: positions, or which samples as bool of shape ``(N,)``; on the CPU.
        """
        here = where.to(self.y.device)
        votes = None if self.votes is None else self.votes[here]
        return self.y[here], self.y_clean[here], self.original_index[where], votes


def train_batches(n: int, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """Return the global training batches of an epoch; the last incomplete one is dropped, unless it is the only one.

    >>> [batch.tolist() for batch in train_batches(5, 2, seed=0, epoch=0)]
    [[2, 1], [0, 3]]
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(derived_seed(seed, epoch)))
    batches = list(order.split(batch_size))
    return batches if len(batches) == 1 or n % batch_size == 0 else batches[:-1]


def eval_batches(n: int, batch_size: int) -> list[Tensor]:
    """Return all samples in index order, in global batches of nearly equal size (so that each rank gets some of each).

    >>> [batch.tolist() for batch in eval_batches(5, 2)]
    [[0, 1], [2, 3], [4]]
    """
    return list(torch.arange(n).tensor_split(-(-n // batch_size)))


class IndexLoader:
    """Which samples this process gets in which batch; a subclass gets them.

    Args:
        split: the data.
        batch_size: size of the GLOBAL batch, at least the number of ranks.
        transform: maps a batch of stored inputs, on the device, to the model's inputs.
        shuffle_seed: seed of the epochs' orders; ``None`` for index order, nothing dropped.
        only: positions to which the loader keeps; ``None`` for the whole split.
        views: tells how many views of a sample the batches of the next epoch hold: 1, or 2, each transformed by itself.
        rank: this process.
        world_size: number of processes.
        device: where batches are made.
    """

    batch_sampler = None  # Lightning looks for one wherever it finds a `sampler`.

    def __init__(
        self,
        split: Split,
        batch_size: int,
        transform: nn.Module,
        *,
        shuffle_seed: int | None = None,
        only: Tensor | None = None,
        views: Callable[[], int] = lambda: 1,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | None = None,
    ) -> None:
        if batch_size < world_size:
            raise UserError(
                f"--data.batch_size is the global batch, shared by all devices, but {batch_size} is less than the "
                f"{world_size} devices. Raise it to at least {world_size}."
            )
        self.device = device or torch.device("cpu")
        self.split = split
        self.batch_size = batch_size
        self.transform = transform.to(self.device)
        self.shuffle_seed = shuffle_seed
        self.only = only if only is not None else torch.arange(len(split))
        self.views = views
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    @property
    def sampler(self) -> "IndexLoader":
        """Lightning tells a loader's ``sampler`` which epoch it is, also when it resumes a run."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order."""
        self.epoch = epoch

    def __len__(self) -> int:
        n, size = len(self.only), self.batch_size
        return max(1, n // size) if self.shuffle_seed is not None else -(-n // size)

    def batch(self, x: Any, index: Tensor) -> Batch:
        """Return the batch of stored inputs, on the device, and their positions there."""
        y, y_clean = self.split.y.index_select(0, index), self.split.y_clean.index_select(0, index)
        votes = None if self.split.votes is None else self.split.votes.index_select(0, index)
        if self.views() == 1:
            return Batch(self.transform(x), y, index, y_clean, votes=votes)
        first = self.transform(map_tensors(torch.clone, x))  # the transform may change its inputs
        return Batch(first, y, index, y_clean, second_view=self.transform(x), votes=votes)

    def batches(self) -> Iterator[Tensor]:
        """Yield this process's part of each batch of the epoch: positions in the split, on the CPU."""
        n, size, seed = len(self.only), self.batch_size, self.shuffle_seed
        for batch in eval_batches(n, size) if seed is None else train_batches(n, size, seed, self.epoch):
            yield self.only[batch].tensor_split(self.world_size)[self.rank]


class ResidentLoader(IndexLoader):
    """Gathers whole batches of a resident split by index, on the device, and transforms them there.

    Its arguments are those of :class:`IndexLoader`; the split is moved to the device once.
    """

    def __init__(self, split: Split, *args: Any, **kwargs: Any) -> None:
        super().__init__(split, *args, **kwargs)
        self.split = split.to(self.device)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: its body runs at the first batch, after Lightning has told the epoch.
        batches = list(self.batches())
        # One copy to the device for the whole epoch: each copy makes the host wait.
        for index in torch.cat(batches).to(self.device).split([len(batch) for batch in batches]):
            yield self.batch(take(self.split.x, index), index)
