"""The contract of a loss, the same for every method.

A loss is an ``nn.Module`` called as ``loss(logits, y, index)`` that returns a scalar: the mean over the GLOBAL batch.
Its state lives in buffers, so that checkpoints carry it, and is equal on all ranks.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from ldmi_lightning.ranks import is_distributed, sum_over_ranks
from ldmi_lightning.transition import noisy_probabilities


class Predictions(NamedTuple):
    """What the model selected in the stage before says of a split, in index order and equal on all ranks.

    Attributes:
        probs: softmax outputs, shape ``(N, C)``, float32, on the CPU.
        y: labels to learn from, shape ``(N,)``, int64.
        index: position in the split, shape ``(N,)``, int64; all -1 where the datamodule does not tell.
    """

    probs: Tensor
    y: Tensor
    index: Tensor  # type: ignore[assignment]  # tuple.index is not needed here


def global_mean(per_sample: Tensor) -> Tensor:
    """Average ``(N,)`` losses over the samples of ALL ranks, however unevenly they are spread.

    The value is this rank's share, ``local sum * world size / global count``: the mean of the ranks' values is the
    global mean, and so DDP's average of their gradients is the exact gradient.

    >>> global_mean(torch.tensor([1.0, 3.0])).item()
    2.0
    """
    if not is_distributed():
        return per_sample.mean()
    count = sum_over_ranks(torch.full((), float(len(per_sample)), device=per_sample.device))
    return per_sample.sum() * torch.distributed.get_world_size() / count


def log_probabilities(logits: Tensor) -> Tensor:
    """Return log-softmax outputs, shape ``(N, C)``, in 32 bits at least, whatever precision the model works in.

    >>> log_probabilities(torch.zeros(1, 2, dtype=torch.bfloat16)).exp()
    tensor([[0.5000, 0.5000]])
    """
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=1)


class Loss(nn.Module):
    """Base of all losses.

    Attributes:
        monitor: what selects a stage's best epoch, unless the stage says otherwise.
        mode: whether more (``"max"``) or less (``"min"``) of it is better.
    """

    monitor: str = "val/acc"
    mode: Literal["min", "max"] = "max"

    def forward(self, logits: Tensor, y: Tensor, index: Tensor) -> Tensor:
        """Return the mean loss over the global batch.

        Args:
            logits: this rank's outputs, shape ``(N, C)``.
            y: labels to learn from, shape ``(N,)``, int64.
            index: positions in the training set, shape ``(N,)``, int64; -1 where unknown.
        """
        raise NotImplementedError

    @property
    def needs_predictions(self) -> bool:
        """Whether :meth:`prepare` must be called before the loss can be used."""
        return False

    @property
    def needs_whole_batch(self) -> bool:
        """Whether the loss of a batch is no mean of its parts' losses, so that gradients cannot be accumulated."""
        return False

    def prepare(self, train: Predictions, held_out: Predictions) -> None:
        """Start the loss's state from what the selected model of the stage before predicts."""

    def noisy_probs(self, probs: Tensor) -> Tensor:
        """Return what the loss takes for the probabilities of each NOISY label, shape ``(N, C)``: here the outputs.

        A loss with a transition matrix T returns ``probs @ T``. ``val/nll`` is their likelihood on the validation set.

        Args:
            probs: softmax outputs, shape ``(N, C)``.
        """
        return probs

    def check_setting(self, num_classes: int, batch_size: int) -> None:
        """Raise :class:`~ldmi_lightning.errors.UserError` where the loss cannot work with this GLOBAL batch size."""

    def end_epoch(self) -> None:
        """Look back at the epoch; raise :class:`~ldmi_lightning.errors.UserError` if nothing was learnt in it."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `--trainer.precision bf16-true` converts all of a module; what a loss keeps in float64 needs it.
        kept = {name: each for name, each in self._buffers.items() if each is not None and each.dtype == torch.float64}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, each in kept.items():
            moved = self._buffers[name]
            assert moved is not None
            self._buffers[name] = each.to(moved.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # Buffers whose size is known only after `prepare` must load into a fresh module.
        for name, buffer in self._buffers.items():
            saved = state_dict.get(prefix + name)
            if buffer is not None and saved is not None and saved.shape != buffer.shape:
                self._buffers[name] = buffer.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class TransitionLoss(Loss):
    """Base of the losses that have a noise transition matrix T.

    Attributes:
        transition: T, float64, shape ``(C, C)``, a buffer; ``(0, 0)`` before it is known.
    """

    transition: Tensor

    def noisy_probs(self, probs: Tensor) -> Tensor:
        """Return ``probs @ T``, and ``probs`` as they are before T is known."""
        return noisy_probabilities(probs, self.transition) if len(self.transition) else probs
