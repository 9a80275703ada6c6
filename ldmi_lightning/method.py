"""The contract of a method: what a stage does with a batch, whatever the number of nets and views.

A :class:`~ldmi_lightning.losses.Loss` is the method of one net and one view; a method of two nets, two views, targets of its
own or a learnable matrix derives from :class:`Method` itself. Nothing that trains knows which method runs.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn

from ldmi_lightning.batch import Batch
from ldmi_lightning.joint import float64_device

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Predictions(NamedTuple):
    """What the model selected in the stage before says of a split, in index order and equal on all ranks.

    Attributes:
        probs: softmax outputs, shape ``(N, C)``, float32, on the CPU.
        y: labels to learn from, shape ``(N,)``, int64.
        index: position in the split, shape ``(N,)``, int64; all -1 where the datamodule does not tell.
        votes: labels of ``A`` annotators, shape ``(N, A)``, int64, -1 where one gave none; ``None`` where the batches have none.
    """

    probs: Tensor
    y: Tensor
    index: Tensor  # type: ignore[assignment]  # tuple.index is not needed here
    votes: Tensor | None = None


class Clock(NamedTuple):
    """Where in its stage a step stands.

    Attributes:
        epoch: epoch of the stage, from 0.
        epochs: how many epochs the stage has at most.
        batch: batch of the epoch, from 0.
    """

    epoch: int
    epochs: int
    batch: int


class KeepsFloat64(nn.Module):
    """A module whose methods keep their float64 state when the module is converted to another precision.

    ``--trainer.precision bf16-true`` converts all of a module, but a determinant or a transition matrix needs float64. On a
    device that has none, such as Apple's MPS, that state stays on the CPU.
    """

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Convert or move the module; see PyTorch for the arguments."""
        return _keeping_float64(self, lambda: super(KeepsFloat64, self).to(*args, **kwargs))

    def half(self) -> Self:
        """Convert to float16."""
        return _keeping_float64(self, super().half)

    def bfloat16(self) -> Self:
        """Convert to bfloat16."""
        return _keeping_float64(self, super().bfloat16)

    def float(self) -> Self:
        """Convert to float32."""
        return _keeping_float64(self, super().float)


class Method(KeepsFloat64):
    """Base of all methods.

    State lives in buffers, so that checkpoints carry it, and is equal on all ranks; a buffer that is empty until
    :meth:`prepare` loads from a checkpoint whatever its size. Parameters of a method's own are optimised with the nets'.

    Attributes:
        networks: how many copies of the backbone it trains, 1 or 2; the second starts from another seed.
        views: how many augmented views of a training sample it wants, 1 or 2; the second is ``batch.second_view``.
        monitor: what selects a stage's best epoch, unless the stage says otherwise.
        mode: whether more (``"max"``) or less (``"min"``) of it is better.
        lr: learning rate at which its own parameters begin, without weight decay, in the stage's optimizer; ``None`` for the
            nets' rate. A scheduler scales both alike.
    """

    networks: int = 1
    views: int = 1
    monitor: str = "val/acc"
    mode: Literal["min", "max"] = "max"
    lr: float | None = None

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(_resize_buffers)  # type: ignore[no-untyped-call]

    def build(self, num_classes: int) -> None:
        """Make the parameters whose shape depends on the number of classes; called once, when the module is made."""

    def step(self, nets: Sequence[nn.Module], batch: Batch, clock: Clock) -> Tensor:
        """Return the scalar that a training step minimises: a mean over the GLOBAL batch.

        Args:
            nets: :attr:`networks` nets, each of which maps inputs to logits ``(N, C)``.
            batch: this rank's part of the batch.
            clock: where in the stage the step stands.
        """
        raise NotImplementedError

    def probabilities(self, nets: Sequence[nn.Module], x: Tensor) -> Tensor:
        """Return softmax outputs, shape ``(N, C)``, float32: the mean over the nets."""
        outputs = [net(x) for net in nets]
        return torch.stack([each.float().softmax(dim=1) for each in outputs]).mean(dim=0)

    @property
    def needs_predictions(self) -> bool:
        """Whether :meth:`prepare` must be called before the method can be used."""
        return False

    @property
    def needs_whole_batch(self) -> bool:
        """Whether the loss of a batch is no mean of its parts' losses, so that gradients cannot be accumulated."""
        return False

    def prepare(self, train: Predictions, held_out: Predictions) -> None:
        """Start the method's state from what the selected model of the stage before predicts."""

    def noisy_probs(self, probs: Tensor) -> Tensor:
        """Return what the method takes for the probabilities of each NOISY label, shape ``(N, C)``: here the outputs.

        A method with a transition matrix T returns ``probs @ T``. ``val/nll`` is their likelihood on the validation set.

        Args:
            probs: softmax outputs, shape ``(N, C)``.
        """
        return probs

    def noisy_labels(self, probs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return what ``val/nll`` is the likelihood of: probabilities of M noisy labels, shape ``(M, C)``, and these.

        Here they are :meth:`noisy_probs` and the batch's labels; a method that learns from votes judges itself by them.

        Args:
            probs: softmax outputs, shape ``(N, C)``.
            batch: this rank's part of a validation batch.
        """
        return self.noisy_probs(probs), batch.y

    def remark(self) -> str:
        """Return what a user should know of how the stage begins, after :meth:`prepare`; nothing where all is as ever."""
        return ""

    def check_setting(self, num_classes: int, batch_size: int) -> None:
        """Raise :class:`~ldmi_lightning.errors.UserError` where the method cannot work with this GLOBAL batch size."""

    def check_inputs(self, x: Any) -> None:
        """Raise :class:`~ldmi_lightning.errors.UserError` where the method cannot work with such inputs of a batch."""

    def synchronise(self) -> None:
        """Make equal on all ranks what each has kept to itself meanwhile, before the state is looked at; all ranks call it."""

    def epoch_figures(self) -> dict[str, float]:
        """Return what is logged of the method for an epoch that ends, by name, beside its loss; equal on all ranks."""
        return {}

    def end_epoch(self) -> None:
        """Look back at the epoch; raise :class:`~ldmi_lightning.errors.UserError` if nothing was learnt in it."""


def _resize_buffers(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let buffers whose size is known only after ``prepare`` load into a fresh module."""
    for name, buffer in module.named_buffers(recurse=False):
        saved = state_dict.get(prefix + name)
        if isinstance(saved, Tensor) and saved.shape != buffer.shape:
            setattr(module, name, buffer.new_empty(saved.shape))


def _keeping_float64(module: ModuleT, convert: Callable[[], ModuleT]) -> ModuleT:
    kept = [
        (owner, name, buffer)
        for owner in module.modules()
        if isinstance(owner, Method)
        for name, buffer in owner.named_buffers(recurse=False)
        if buffer.dtype == torch.float64
    ]
    # Taken out meanwhile: a device without float64 would refuse them.
    for owner, name, buffer in kept:
        setattr(owner, name, buffer.new_empty(0, dtype=torch.float32))
    try:
        return convert()
    finally:
        for owner, name, buffer in kept:
            setattr(owner, name, buffer.to(float64_device(getattr(owner, name).device)))
