"""The joint distribution matrix U in the loggers: a heatmap in W&B, pictures in TensorBoard and beside a CSV file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from torch import Tensor

from ldmi_lightning.joint import dmi_normalised, joint_sum, log_dmi
from ldmi_lightning.pictures import NAMED_CLASSES, draw_joints, pixels, row_shares, save
from ldmi_lightning.ranks import sum_over_ranks


class JointMatrixLogger(Callback):
    """Log U on the validation set, of any LightningModule whose ``validation_step`` returns ``probs`` and ``y``.

    ``validation_step`` must return a dict with ``"probs"``, softmax outputs ``(N, C)``, and ``"y"``, labels ``(N,)``, as
    ``LDMIModule``'s does. Logged are ``val/log_dmi``, ``val/dmi``, ``val/dmi_normalised`` and
    ``val/smallest_singular_value``; and U itself as ``joint/counts`` and ``joint/row_normalised`` (rows: noisy labels,
    columns: predictions): in W&B an interactive heatmap up to 20 classes and an image above, in TensorBoard an image,
    beside a CSVLogger's file a PNG.

    Args:
        every_n_epochs: validations between two logs; the first is always logged.
        class_names: names of the classes; ``None`` takes the datamodule's, where it has some.
    """

    def __init__(self, every_n_epochs: int = 5, class_names: Sequence[str] | None = None) -> None:
        self.every_n_epochs = every_n_epochs
        self.class_names = class_names
        self._counts: Tensor | None = None

    def _is_due(self, trainer: pl.Trainer) -> bool:
        return (
            trainer.current_epoch % self.every_n_epochs == 0 and bool(trainer.loggers) and not trainer.sanity_checking
        )

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any, **__: Any
    ) -> None:
        """Add a batch to U."""
        if not (self._is_due(trainer) and isinstance(outputs, Mapping) and {"probs", "y"} <= outputs.keys()):
            return
        counts = joint_sum(outputs["probs"], outputs["y"])
        self._counts = counts if self._counts is None else self._counts + counts

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log U over all batches and ranks."""
        if self._counts is None:
            return
        counts = sum_over_ranks(self._counts).cpu()
        self._counts = None
        if not trainer.is_global_zero:
            return
        names = self.class_names or getattr(getattr(trainer, "datamodule", None), "class_names", [])
        joint = counts / counts.sum()
        value = log_dmi(joint)
        scalars = {
            "val/log_dmi": value.item(),
            "val/dmi": value.exp().item(),
            "val/dmi_normalised": dmi_normalised(joint).item(),
            "val/smallest_singular_value": torch.linalg.svdvals(joint)[-1].item(),
        }
        missing = {name: number for name, number in scalars.items() if name not in trainer.callback_metrics}
        for logger in trainer.loggers:
            logger.log_metrics({**missing, "epoch": trainer.current_epoch}, trainer.global_step)
            self._log_matrix(logger, counts, list(names), trainer)

    def _log_matrix(self, logger: Logger, counts: Tensor, names: list[str], trainer: pl.Trainer) -> None:
        step, epoch, joint = trainer.global_step, trainer.current_epoch, counts / counts.sum()
        if isinstance(logger, WandbLogger):
            parts = {"joint/counts": counts, "joint/row_normalised": row_shares(joint)}
            charts = {title: _wandb_chart(title, part, names) for title, part in parts.items()}
            logger.experiment.log({**charts, "epoch": epoch, "trainer/global_step": step})
        elif isinstance(logger, TensorBoardLogger):
            picture = pixels(draw_joints({f"epoch {epoch + 1}": joint}, names))
            logger.experiment.add_image("joint/row_normalised", picture, step, dataformats="HWC")
        elif isinstance(logger, CSVLogger):
            figure = draw_joints({f"epoch {epoch + 1}": joint}, names)
            save(figure, Path(logger.log_dir) / "joint" / f"epoch-{epoch + 1:04d}.png")


def _wandb_chart(title: str, matrix: Tensor, names: list[str]) -> Any:
    """Return an interactive heatmap, or an image where there are too many classes for one."""
    import wandb

    if len(matrix) > NAMED_CLASSES:
        return wandb.Image((matrix / matrix.max()).numpy(), caption="rows: noisy labels, columns: predictions")
    names = names or [str(label) for label in range(len(matrix))]
    cells = [[names[i], names[j], matrix[i, j].item()] for i in range(len(matrix)) for j in range(len(matrix))]
    columns: list[str | int] = ["Actual", "Predicted", "nPredictions"]
    return wandb.plot_table(
        "wandb/confusion_matrix/v1",
        wandb.Table(columns=columns, data=cells),
        {str(column): str(column) for column in columns},
        {"title": f"{title} (actual: noisy label)"},
    )
