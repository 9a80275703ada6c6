"""``ldmi predict``: write a checkpoint's predictions of the test set, or of new samples, one row for each, in their order."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import BasePredictionWriter, Callback
from torch import Tensor

from ldmi_lightning import files
from ldmi_lightning.checkpoints import read_checkpoint
from ldmi_lightning.commands.configuration import in_order
from ldmi_lightning.commands.from_checkpoint import data_of
from ldmi_lightning.commands.from_data import VOCABULARY
from ldmi_lightning.commands.lightning import LDMICLI, Run, carry_out
from ldmi_lightning.commands.predict_new import NewRows, judge_of, predict_new, samples_in
from ldmi_lightning.csv_file import safe_cell
from ldmi_lightning.datamodules.new_loader import NewSamples
from ldmi_lightning.errors import UserError
from ldmi_lightning.ranks import gather_over_ranks
from ldmi_lightning.saying import say

PREDICTIONS, PROBABILITIES = "predictions.csv", "probabilities.npy"


def run(words: list[str]) -> int:
    """Carry out ``ldmi predict``; return its exit code."""
    return carry_out(lambda run: predict(words, run))


def predict(words: list[str], run: Run) -> None:
    """Write ``predictions.csv`` (index, class, name, confidence) and ``probabilities.npy`` (N, C); of new samples the former."""
    cli = PredictCLI("predict", in_order(words), run)
    if isinstance(cli.datamodule, NewSamples):
        judge = judge_of(Path(cli.config.ckpt_path), cli.checkpoint)
        run.complete = predict_new(cli.trainer, cli.arguments(), cli.datamodule, judge, cli.output / PREDICTIONS)
        return
    cli.trainer.predict(**cli.arguments(), return_predictions=False)
    if not cli.trainer.is_global_zero:
        return
    index, probs = cli.rows.in_order()
    names = getattr(cli.datamodule, "class_names", [str(each) for each in range(probs.shape[1])])
    files.write(cli.output / PREDICTIONS, as_csv(index, probs, names).encode())
    files.write_with(cli.output / PROBABILITIES, lambda file: np.save(file, probs))
    say(f"{len(probs)} predictions: {cli.output / PREDICTIONS}, {cli.output / PROBABILITIES}")


class PredictCLI(LDMICLI):
    """The objects of ``ldmi predict``."""

    output: Path
    """Folder for the predictions."""
    rows: "Rows"
    """What the ranks have predicted."""
    checkpoint: dict[str, Any]
    """What the checkpoint holds, where new samples are predicted."""

    def look_for_checkpoint(self) -> None:
        """Make the folder before anything is computed."""
        super().look_for_checkpoint()
        self.output = Path(self.config.output or Path(self.config.ckpt_path).parent)
        self.output.mkdir(parents=True, exist_ok=True)

    def instantiate_classes(self) -> None:
        """Make the objects; for new samples the data set as the checkpoint knows it, whose own data nobody needs."""
        if self.config.input is None:
            super().instantiate_classes()
            return
        self.checkpoint = read_checkpoint(self.config.ckpt_path)
        self.config.fold = self.config.group = None
        self.config.data = data = data_of(self.parser, self.config, self.checkpoint)
        samples = samples_in(self.config.input, data, self.checkpoint)
        super().instantiate_classes()
        data.new_from().num_ids = self.parser.told.get(VOCABULARY)
        self.datamodule = samples

    def own_callbacks(self, given: Sequence[Callback]) -> list[Callback]:
        """Collect what is predicted, or write it at once."""
        if self.config.input is not None:
            return [NewRows()]
        self.rows = Rows()
        return [self.rows]


class Rows(BasePredictionWriter):
    """Collects the predictions of all ranks, and where each sample stands in the data set.

    A batch says so itself (``Batch.index``); for someone else's batches Lightning knows which samples its sampler drew.
    """

    def __init__(self) -> None:
        super().__init__("epoch")
        self.index = torch.empty(0, dtype=torch.int64)
        self.drawn = torch.empty(0, dtype=torch.int64)
        self.probs = torch.empty(0, 0)
        self.ranks = 1

    def write_on_epoch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Gather over the ranks, of which one may have had no batch."""
        if len(batch_indices) > 1:
            raise UserError(
                f"predict_dataloader gives {len(batch_indices)} loaders, whose rows cannot be told apart: let it give one."
            )
        drawn = [torch.tensor(each, dtype=torch.int64) for each in batch_indices[0]]
        classes: int = pl_module.num_classes  # type: ignore[assignment]
        index = torch.cat([*(each for each, _ in predictions), self.index])
        probs = torch.cat([*(each for _, each in predictions), torch.empty(0, classes)])
        places = torch.cat([*drawn, self.drawn])
        if len(places) != len(index):
            places = torch.full_like(index, -1)
        self.ranks = trainer.world_size
        self.index, self.drawn, self.probs = (gather_over_ranks(each).cpu() for each in (index, places, probs))
        order(self.index, self.drawn, self.ranks)  # refused on all ranks, or none

    def in_order(self) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
        """Return positions ``(N,)`` and softmax outputs ``(N, C)``, in the order of the data set, each sample once."""
        index, rows = order(self.index, self.drawn, self.ranks)
        return index, self.probs.numpy()[rows]


def order(index: Tensor, drawn: Tensor, ranks: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of the samples in ascending order, each once, and the row in which each is found.

    Args:
        index: what the batches say of their samples' positions, shape ``(N,)``; -1 where they do not.
        drawn: what the sampler says; -1 where it is unknown.
        ranks: number of ranks, of whose rows ``N`` consists.

    >>> known, unknown = torch.tensor([2, 0, 1, 0]), torch.full((4,), -1)
    >>> [each.tolist() for each in order(unknown, known, ranks=2)]  # a padded sampler has drawn 0 twice
    [[0, 1, 2], [1, 2, 0]]
    """
    for places in (index, drawn):
        if not bool((places < 0).any()):
            positions, rows = np.unique(places.numpy(), return_index=True)
            return positions, rows
    if ranks > 1:
        raise UserError(
            f"{ranks} processes predict batches that do not say which samples they hold, so that their rows cannot be put in "
            "order. Let the datamodule yield ldmi_lightning.Batch(x, y, index, y_clean), or set --trainer.devices 1."
        )
    rows = np.arange(len(index))
    return rows, rows


def as_csv(index: NDArray[np.int64], probs: NDArray[np.floating], names: Sequence[str]) -> str:
    """Return the content of ``predictions.csv``; names that a spreadsheet would run stand after a single quote.

    >>> print(as_csv(np.array([0]), np.array([[0.25, 0.75]]), ["cat", "dog"]).replace(chr(13), ""), end="")
    index,class,name,confidence
    0,1,dog,0.750000
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["index", "class", "name", "confidence"])
    for place, label, confidence in zip(index.tolist(), probs.argmax(axis=1).tolist(), probs.max(axis=1), strict=True):
        writer.writerow([place, label, safe_cell(str(names[label])), f"{confidence:.6f}"])
    return text.getvalue()
