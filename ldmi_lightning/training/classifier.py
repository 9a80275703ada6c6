"""Classifier: what a model does whatever trains it: map inputs to probabilities, validate, test, predict."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from ldmi_lightning.batch import Batch, as_batch, check_labels
from ldmi_lightning.errors import UserError
from ldmi_lightning.method import KeepsFloat64, Method
from ldmi_lightning.training import nets
from ldmi_lightning.training.compat import SeesTrainer
from ldmi_lightning.training.evaluation import HeldOut, HeldOutSums, accuracies


class Classifier(KeepsFloat64, SeesTrainer):
    """A backbone, a second net where a method wants one, and the methods that train them.

    Args:
        backbone: maps inputs to logits ``(N, num_classes)``; ``None`` calls :meth:`build_backbone`.
        num_classes: C.
        methods: by the names of their stages.
    """

    def __init__(self, backbone: nn.Module | None, num_classes: int, methods: Mapping[str, Method]) -> None:
        super().__init__()
        self.save_plain_hyperparameters()  # first: build_backbone() may read them
        if not isinstance(num_classes, int) or num_classes < 2:
            raise UserError(
                f"num_classes must be a whole number of at least 2, but got {num_classes}. On the command line it is taken "
                "from the datamodule, which needs an attribute num_classes."
            )
        self.num_classes = num_classes
        self.losses = nn.ModuleDict(methods)
        self.backbone = self.build_backbone() if backbone is None else backbone
        nets.check_logits(self.backbone, num_classes)
        self._builds = backbone is None
        two = any(each.networks == 2 for each in methods.values())
        self.second_backbone = self.make_second() if two else None
        self.confusion = MulticlassConfusionMatrix(num_classes, validate_args=False)
        self.holds = next(iter(methods))
        """Name of the stage whose weights the module holds."""
        self.class_names: list[str] | None = None
        """Names of the classes, from the data or from a checkpoint."""
        self._held_out = HeldOutSums()
        self._labels_unchecked = False

    def save_plain_hyperparameters(self) -> None:
        """Keep the arguments that a checkpoint can hold."""

    def build_backbone(self) -> nn.Module:
        """Make the backbone; for subclasses that are given none."""
        raise UserError(
            f"{type(self).__name__} has no backbone: give one (--model.backbone), or override build_backbone()."
        )

    def make_second(self) -> nn.Module:
        """Make a second net like the backbone, with weights from a seed of its own."""
        second = nets.second_like(self.backbone, self.build_backbone if self._builds else None)
        if self._builds:
            nets.check_logits(second, self.num_classes)
        return second

    def method(self) -> Method:
        """Return the method of the stage whose weights the module holds."""
        return cast(Method, self.losses[self.holds])

    def nets(self) -> Sequence[nn.Module]:
        """Return the nets of that method: the module itself, so that an overridden ``forward`` counts, or two backbones."""
        return [self] if self.method().networks == 1 else [self.backbone, cast(nn.Module, self.second_backbone)]

    def forward(self, x: Any) -> Tensor:
        """Map inputs to logits, shape ``(N, C)``; those of two nets are the logarithm of their mean probabilities."""
        if self.method().networks == 2:
            return self.probabilities(x).log()
        return cast(Tensor, self.backbone(x))

    def probabilities(self, x: Any) -> Tensor:
        """Return softmax outputs, shape ``(N, C)``, float32, whatever precision the nets work in."""
        if not len(x):  # a rank's share of a batch smaller than the number of ranks
            return torch.zeros(0, self.num_classes, device=self.device, dtype=torch.float32)
        return self.method().probabilities(self.nets(), x).float()

    # -- validation, test, prediction ---------------------------------------------------------------------------------

    def checked(self, batch: Any, batch_idx: int) -> Batch:
        """Take a batch; where the data cannot speak of its labels, look at them (on a GPU, which waits, at the first)."""
        checked = as_batch(batch)
        if self._labels_unchecked and (batch_idx == 0 or checked.y.device.type == "cpu"):
            check_labels(checked.y, self.num_classes)
        return checked

    def on_validation_epoch_start(self) -> None:
        """Begin the sums anew."""
        self._held_out = HeldOutSums()

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Add a batch to the sums; return ``probs`` and ``y`` for callbacks."""
        taken = self.checked(batch, batch_idx)
        probs = self.probabilities(taken.x)
        # A loss is not yet prepared before the sanity check.
        noisy = probs if self.trainer.sanity_checking else self.method().noisy_probs(probs)
        self._held_out.add(probs, noisy, taken.y, taken.index)
        return {"probs": probs, "y": taken.y}

    def on_validation_epoch_end(self) -> None:
        """Compute the figures over the whole split and all ranks, and log them."""
        if self.trainer.sanity_checking:
            return
        held_out = self._held_out.compute(self.num_classes, self.device)
        self.log_dict(held_out.figures, sync_dist=True)
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.select(held_out)

    def select(self, held_out: HeldOut) -> None:
        """Look at a validation within a fit."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch to the confusion matrix with clean labels."""
        taken = as_batch(batch)
        self.confusion.update(self.probabilities(taken.x), taken.y)

    def on_test_epoch_end(self) -> None:
        """Log accuracy and balanced accuracy over the whole test set and all ranks."""
        self.log_dict(accuracies(self.confusion.compute()), sync_dist=True)
        self.confusion.reset()

    def predict_step(self, batch: Any, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Return positions in the split ``(N,)`` and softmax outputs ``(N, C)``."""
        taken = as_batch(batch)
        return taken.index, self.probabilities(taken.x)
