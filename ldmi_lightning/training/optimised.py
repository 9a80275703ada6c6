"""A staged classifier whose parameters are optimised: which of them, at which rate, and by which schedule."""

from collections.abc import Mapping
from typing import Any, cast

from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ldmi_lightning import checkpoints
from ldmi_lightning.training import frozen, nets, trainer_rules
from ldmi_lightning.training.groups import Rates, base_rate
from ldmi_lightning.training.optimizers import make_optimizer, with_scheduler
from ldmi_lightning.training.staged import StagedClassifier
from ldmi_lightning.training.stages import Stage


class OptimisedClassifier(StagedClassifier):
    """A staged classifier that makes each stage's optimizer and scheduler.

    Args:
        backbone: see :class:`~ldmi_lightning.training.classifier.Classifier`.
        num_classes: C.
        stages: by name, in order.
        freeze: patterns of the names of parameters of the backbone that are not trained.
        rates: what is said of single parameters.
    """

    def __init__(
        self,
        backbone: nn.Module | None,
        num_classes: int,
        stages: Mapping[str, Stage],
        freeze: list[str] | str | None,
        rates: Rates,
    ) -> None:
        super().__init__(backbone, num_classes, stages, [freeze] if isinstance(freeze, str) else freeze or [])
        rates.check(self.backbone)
        self.rates = rates

    def _identity(self) -> dict[str, Any]:
        own: dict[str, Any] = {"model.freeze": self.frozen_patterns} if self.frozen_patterns else {}
        own |= checkpoints.flatten(self.rates.factors, "model.lr_factors")
        if not self.rates.decay_norms_and_biases:
            own["model.decay_norms_and_biases"] = False
        return super()._identity() | own

    # -- what is trained ----------------------------------------------------------------------------------------------

    def trained(self) -> list[nn.Module]:
        """Return the nets that the running stage trains."""
        second = self.stage.loss.networks == 2
        return [self.backbone, *([cast(nn.Module, self.second_backbone)] if second else [])]

    def parameter_groups(self, name: str) -> list[Any]:
        """Return what a stage's optimizer takes: the parameters of its nets, and of its loss."""
        named = [each for net in self.trained() for each in net.named_parameters()]
        loss = self.stages[name].loss
        return self.rates.groups(named, list(loss.parameters()), loss.lr)

    def frozen_parts(self) -> list[nn.Module]:
        """Return the parts of both nets that stay in evaluation mode."""
        both = [net for net in (self.backbone, self.second_backbone) if net is not None and self.frozen_patterns]
        return [part for net in both for part in frozen.frozen_parts(net)]

    def set_frozen(self, training: bool) -> None:
        """Put the frozen parts into training or evaluation mode; Lightning warns of the latter where a fit begins."""
        for part in self.frozen_parts():
            part.train(training)

    def normalises_by_batch(self) -> bool:
        """Whether a part that is trained normalises by its batch."""
        return nets.has_batch_norm(self.backbone, {each for part in self.frozen_parts() for each in part.modules()})

    # -- what the Trainer calls ---------------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the running stage's optimizer and scheduler."""
        name = self.progress.stage
        optimizer = make_optimizer(self.stages, name, self.parameter_groups(name), self.course.first_stage_lr)
        return with_scheduler(
            optimizer, name, self.stage, lambda: trainer_rules.steps_of(self.trainer, self.epochs_of(name))
        )

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step a scheduler, but ReduceLROnPlateau at the epoch's end."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            super().lr_scheduler_step(scheduler, metric)

    def rate_now(self) -> float:
        """Return the optimizer's learning rate, of which parameter groups may have shares."""
        return base_rate(self.trainer.optimizers[0])

    def on_after_backward(self) -> None:
        """Average over the ranks the gradients that DDP leaves alone."""
        if self.trainer.world_size > 1:
            left = [*self.trained()[1:], self.stage.loss]
            nets.average_gradients(parameter for part in left for parameter in part.parameters())
