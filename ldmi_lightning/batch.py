"""What a datamodule and the module agree on: the batch, and what a datamodule can say of its labels."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ldmi_lightning.errors import UserError


class Batch(NamedTuple):
    """One batch of ``B`` samples.

    Attributes:
        x: inputs: a tensor of shape ``(B, ...)``, or a tuple or dict of tensors that share their first dimension, such as token
            ids and attention mask. The net gets it as it is.
        y: labels to learn from, shape ``(B,)``, int64; noisy in training and validation; test labels as they were given.
        index: position of each sample in its split, shape ``(B,)``, int64; -1 where it is unknown. Methods that keep
            something of each sample need it, and ``ldmi predict`` puts rows in order by it.
        y_clean: true labels, shape ``(B,)``, int64; -1 where they are unknown. For diagnostics only.
        second_view: inputs augmented once more, of the structure of ``x``, where a method asks for two views; else ``None``.
        votes: labels of ``A`` annotators, shape ``(B, A)``, int64, -1 where one gave none; ``None`` where ``y`` is all.
        weights: weights of the samples; no loss takes them, so that anything but ``None`` is refused.

    Fields are read by name: later ones may be added.
    """

    x: Any
    y: Tensor
    index: Tensor  # type: ignore[assignment]  # tuple.index is not needed here
    y_clean: Tensor
    second_view: Any = None
    votes: Tensor | None = None
    weights: Tensor | None = None


@runtime_checkable
class LabelledData(Protocol):
    """What the module asks of a datamodule beyond its loaders; someone else's datamodule may do without."""

    num_classes: int
    class_names: Sequence[str]
    batch_size: int
    views: int
    """How many augmented views of a sample the training batches hold; the module sets it for each stage."""

    def train_eval_dataloader(self, num_samples: int | None = None) -> Iterable[Batch]:
        """Return the training set (or a seeded subset) in index order, without augmentation.

        A stage that starts from the stage before's predictions reads it once at the switch, and ``index`` says whose they are.
        """

    def class_counts(self, split: str) -> Tensor:
        """Count the labels to learn from in ``"train"`` or ``"val"``, shape ``(C,)``."""

    def noise_report(self) -> dict[str, Any]:
        """Describe the injected noise: injector, seed, rates, realised matrix, SHA-256."""

    def identity(self) -> dict[str, Any]:
        """Return what must be the same when a run is resumed, as plain values under the names of the options."""


def as_batch(batch: Any) -> Batch:
    """Take a :class:`Batch`, or someone else's plain ``(x, y)``, whose x may be a tuple, list or dict of tensors.

    >>> as_batch((torch.zeros(2, 3), torch.tensor([0, 1]))).index.tolist()
    [-1, -1]
    """
    if isinstance(batch, Batch):
        if batch.weights is not None:
            raise UserError(
                "A batch has weights of its samples, but no loss takes them: leave Batch.weights out, or draw samples as often "
                "as they weigh."
            )
        return batch
    if isinstance(batch, list | tuple) and len(batch) == 2 and isinstance(batch[1], Tensor):
        x, y = batch
        unknown = torch.full_like(y, -1)
        return Batch(x, y, unknown, unknown)
    found = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, list | tuple) else type(batch).__name__
    raise UserError(
        f"A batch must be (x, y) or ldmi_lightning.Batch(x, y, index, y_clean), but got a {found}. "
        "Let the datamodule yield one of the two."
    )


def check_labels(y: Tensor, num_classes: int) -> None:
    """Raise :class:`UserError` unless all labels name a class."""
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < num_classes:
        raise UserError(
            f"A batch has labels from {int(y.min())} to {int(y.max())}, but with num_classes={num_classes} they must lie in "
            f"0..{num_classes - 1}. Number the classes so, or raise num_classes."
        )
