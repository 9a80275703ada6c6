"""Classifier: what a model does whatever trains it: map inputs to probabilities, validate, test, predict."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from ldmi_lightning.batch import Batch, as_batch, check_labels
from ldmi_lightning.errors import UserError
from ldmi_lightning.inputs import num_samples
from ldmi_lightning.method import KeepsFloat64, Method
from ldmi_lightning.training import frozen, nets
from ldmi_lightning.training.compat import SeesTrainer
from ldmi_lightning.training.evaluation import HeldOut, HeldOutSums, accuracies
from ldmi_lightning.training.plain_inputs import inputs_of


class Classifier(KeepsFloat64, SeesTrainer):
    """A backbone, a second net where a method wants one, and the methods that train them.

    Args:
        backbone: maps inputs to logits ``(N, num_classes)``; ``None`` calls :meth:`build_backbone`.
        num_classes: C.
        methods: by the names of their stages.
        freeze: patterns of the names of parameters of the backbone that are not trained.
    """

    def __init__(
        self, backbone: nn.Module | None, num_classes: int, methods: Mapping[str, Method], freeze: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.save_plain_hyperparameters()  # first: build_backbone() may read them
        if not isinstance(num_classes, int) or num_classes < 2:
            raise UserError(
                f"num_classes must be a whole number of at least 2, but got {num_classes}. On the command line it is taken "
                "from the datamodule, which needs an attribute num_classes."
            )
        self.num_classes = num_classes
        for method in methods.values():
            method.build(num_classes)
        self.losses = nn.ModuleDict(methods)
        self.backbone = self.build_backbone() if backbone is None else backbone
        nets.check_logits(self.backbone, num_classes)
        self.frozen_patterns = list(freeze)
        frozen.freeze(self.backbone, self.frozen_patterns)
        self._builds = backbone is None
        two = any(each.networks == 2 for each in methods.values())
        self.second_backbone = self.make_second() if two else None
        self.confusion = MulticlassConfusionMatrix(num_classes, validate_args=False)
        self.tested: Tensor | None = None
        """Counts of the last test: row = true class, column = prediction; int64, shape ``(C, C)``, on the CPU."""
        self.holds = next(iter(methods))
        """Name of the stage whose weights the module holds."""
        self.class_names: list[str] | None = None
        """Names of the classes, from the data or from a checkpoint."""
        self.class_order: list[int] | None = None
        """Where each class of the data stands among the model's; ``None`` where the order is the same."""
        self._told_of_tuples = False
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
        frozen.freeze(second, self.frozen_patterns)
        self.copy_frozen(second)
        return second

    def copy_frozen(self, second: nn.Module | None = None) -> None:
        """Give the frozen parts of the backbone to a second net: they are not trained, so that only given ones are of use."""
        second = second or self.second_backbone
        if self.frozen_patterns and second is not None:
            frozen.copy_frozen(self.backbone, second)

    def method(self) -> Method:
        """Return the method of the stage whose weights the module holds."""
        return cast(Method, self.losses[self.holds])

    def nets(self) -> Sequence[nn.Module]:
        """Return the nets of that method: the module itself, so that an overridden ``forward`` counts, or two backbones."""
        return [self] if self.method().networks == 1 else [self.backbone, cast(nn.Module, self.second_backbone)]

    def forward(self, x: Any) -> Tensor:
        """Map inputs to logits, shape ``(N, C)``; those of two nets are the logarithm of their mean probabilities."""
        if self.method().networks == 2:
            return self._own_probabilities(x).log()
        return cast(Tensor, self.backbone(x))

    def probabilities(self, x: Any) -> Tensor:
        """Return softmax outputs, shape ``(N, C)``, float32, whatever precision; the classes are in the data's order."""
        return self._in_data_order(self._own_probabilities(x))

    def _in_data_order(self, probs: Tensor) -> Tensor:
        return probs if self.class_order is None else probs[:, self.class_order]

    def _own_probabilities(self, x: Any) -> Tensor:
        if not num_samples(x):  # a rank's share of a batch smaller than the number of ranks
            return torch.zeros(0, self.num_classes, device=self.device, dtype=torch.float32)
        try:
            return self.method().probabilities(self.nets(), x).float()
        except RuntimeError as error:
            nets.explain_misfit(error, self.backbone, x)
            raise

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
        probs = self._own_probabilities(taken.x)
        # A loss is not yet prepared before the sanity check.
        noisy, labels = (probs, taken.y) if self.trainer.sanity_checking else self.method().noisy_labels(probs, taken)
        probs, noisy = self._in_data_order(probs), self._in_data_order(noisy)
        self._held_out.add(probs, noisy, labels, taken.y, taken.index)
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
        self.tested = self.confusion.compute().cpu()
        self.log_dict(accuracies(self.tested), sync_dist=True)
        self.confusion.reset()

    def predict_step(self, batch: Any, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Return positions in the split ``(N,)`` and softmax outputs ``(N, C)``; a batch may be inputs alone."""
        x, index = inputs_of(batch)
        if isinstance(x, tuple | list) and x is batch and not self._told_of_tuples:
            self.print(
                f"predict: a batch of {len(x)} tensors, of which the last is no row of labels, is taken for inputs alone."
            )
            self._told_of_tuples = True
        return index, self.probabilities(x)
