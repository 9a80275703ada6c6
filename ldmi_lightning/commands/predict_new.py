"""``ldmi predict --input PLACE``: predictions for new samples, written while they are read, and what they say of labels."""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback

from ldmi_lightning import files
from ldmi_lightning.audit.posterior import posterior
from ldmi_lightning.checkpoints import KEY
from ldmi_lightning.csv_file import safe_cell
from ldmi_lightning.datamodules import NoisyDataModule
from ldmi_lightning.datamodules.images import SHOWN
from ldmi_lightning.datamodules.known_inputs import kind_of
from ldmi_lightning.datamodules.new_data import NewData
from ldmi_lightning.datamodules.new_files import open_place
from ldmi_lightning.datamodules.new_loader import NewSamples, Step
from ldmi_lightning.errors import UserError
from ldmi_lightning.likelihood import tempered
from ldmi_lightning.ranks import gather_over_ranks
from ldmi_lightning.runs.folder import RESULTS
from ldmi_lightning.saying import say
from ldmi_lightning.training.compat import callbacks_of


class Judge(NamedTuple):
    """What P(given label is right) takes.

    Attributes:
        transition: T̂, float64, shape ``(C, C)``.
        temperature: what makes posteriors of the net's outputs.
    """

    transition: NDArray[np.float64]
    temperature: float

    def quality(self, probs: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return P(given is right), shape ``(N,)``.

        >>> Judge(np.array([[0.8, 0.2], [0.4, 0.6]]), 1.0).quality(np.array([[0.5, 0.5]]), np.array([0])).round(3).tolist()
        [0.667]
        """
        found = posterior(tempered(probs, self.temperature), labels, self.transition)
        taken: NDArray[np.float64] = found[np.arange(len(labels)), labels]
        return taken


def judge_of(checkpoint: Path, content: Mapping[str, Any]) -> tuple[Judge | None, str]:
    """Return what judges given labels, from the results beside a checkpoint; or ``None``, and why.

    Args:
        checkpoint: the file.
        content: what it holds.
    """
    path, stage = checkpoint.parent / RESULTS, content[KEY].get("holds")
    try:
        found = json.loads(path.read_text("utf-8"))["stages"].get(stage) or {}
    except (OSError, ValueError, KeyError, AttributeError):
        return None, f"there is no {path}"
    if found.get("transition") is None:
        return None, f"{path} holds no transition matrix of the stage {stage}, whose outputs imply none"
    if found.get("temperature") is None:
        return None, f"{path} holds no temperature, which an earlier version did not keep"
    return Judge(np.array(found["transition"], np.float64), float(found["temperature"])), ""


def samples_in(place: str, data: NoisyDataModule, content: Mapping[str, Any]) -> NewSamples:
    """Return what is predicted: new samples in a place, under the names of the checkpoint's classes."""
    NewData(data)  # refuses a data set of which nothing is known
    opened = open_place(Path(place), data.new_from(), kind_of(data.new_from()))
    for note in opened.notes:
        say(note)
    return NewSamples(data, opened, content[KEY].get("class_names") or list(map(str, data.class_names)))


def predict_new(
    trainer: pl.Trainer,
    arguments: Mapping[str, Any],
    samples: NewSamples,
    judge: tuple[Judge | None, str],
    output: Path,
) -> bool:
    """Predict new samples, and write a row for each, in their order.

    Args:
        trainer: has :class:`NewRows` among its callbacks.
        arguments: of its ``predict``.
        samples: what is predicted.
        judge: what judges given labels, or why there is none.
        output: the file.

    Returns:
        Whether all samples could be read.
    """
    rows = next(each for each in callbacks_of(trainer) if isinstance(each, NewRows))
    rows.judge = judge[0] if samples.place.has_labels else None
    if samples.place.has_labels and judge[0] is None:
        say(f"The probability that a given label is right is left out: {judge[1]}.")
    with ExitStack() as stack:
        if trainer.is_global_zero:
            unfinished = stack.enter_context(files.beside(output))
            rows.begin(
                stack.enter_context(unfinished.open("w", encoding="utf-8", errors="surrogateescape", newline="")),
                samples,
            )
        trainer.predict(**arguments, return_predictions=False)
        faults = rows.faults
        if not rows.written:
            raise UserError(f"None of the {rows.read:,} samples in --input can be read: {faults}.")
    say_what_was_done(rows, samples)
    say(f"{rows.written:,} predictions: {output}")
    return not faults


def say_what_was_done(rows: "NewRows", samples: NewSamples) -> None:
    """Say in a line each what was left out, changed or could not be read."""
    if samples.place.left_out:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in samples.place.left_out.most_common())
        say(f"--input: left out are {kinds}.")
    for note in samples.notes:
        say(note)
    if rows.notes:
        say(
            f"--input: of {rows.read:,} samples {', '.join(f'{count:,} {what}' for what, count in rows.notes.most_common())}."
        )
    if rows.faults:
        say(
            f"{rows.read - rows.written:,} of {rows.read:,} samples cannot be read, and have no prediction: {rows.faults}."
        )


class NewRows(Callback):
    """Writes what all ranks predict, step by step, so that no more than a step is in memory.

    Attributes:
        judge: what judges given labels; ``None`` to leave that out.
        read: number of samples so far.
        written: how many of them have a prediction.
        notes: what was done to samples, once all were read.
        faults: which samples could not be read, and why, in words, once all were read; empty where there are none.
    """

    def __init__(self) -> None:
        self.judge: Judge | None = None
        self.read = self.written = 0
        self.notes: Counter[str] = Counter()
        self.faults = ""
        self._writer: Any = None
        self._names: list[str] = []

    def begin(self, file: TextIO, samples: NewSamples) -> None:
        """Write the names of the columns."""
        self._writer, self._names = csv.writer(file), [safe_cell(name) for name in samples.class_names]
        judged = [] if self.judge is None else ["given_label", "label_quality"]
        self._writer.writerow([samples.place.key, "class", "name", "confidence", *judged])

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Gather a step's predictions, and write them."""
        step = _samples(trainer).loader.steps.popleft()
        index, probs = (gather_over_ranks(each).cpu().numpy() for each in outputs)
        self.read += len(step.keys)
        self.written += len(index)
        if self._writer is not None:
            self._writer.writerows(self._rows(step, index - step.first, probs))

    def _rows(self, step: Step, places: NDArray[np.int64], probs: NDArray[np.floating]) -> Sequence[Sequence[Any]]:
        rows: list[list[Any]] = [[safe_cell(key) if isinstance(key, str) else key, "", "", ""] for key in step.keys]
        for place, label, share in zip(places.tolist(), probs.argmax(axis=1).tolist(), probs.max(axis=1), strict=True):
            rows[place][1:] = [label, self._names[label], f"{share:.6f}"]
        if self.judge is None or step.labels is None:
            return rows
        quality = np.full(len(rows), np.nan)
        known = step.labels[places] >= 0
        quality[places[known]] = self.judge.quality(probs[known], step.labels[places[known]])
        for row, label, right in zip(rows, step.labels.tolist(), quality.tolist(), strict=True):
            row += [label if label >= 0 else "", "" if np.isnan(right) else f"{right:.6f}"]
        return rows

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather what the ranks have noted."""
        loader = _samples(trainer).loader
        noted = json.dumps([loader.faults, loader.num_faults, dict(loader.new.notes)]) + "\n"
        every = bytes(gather_over_ranks(torch.tensor(list(noted.encode()), dtype=torch.uint8)).tolist()).decode()
        faults: list[tuple[int, str, str]] = []
        for line in every.splitlines():
            some, _, notes = json.loads(line)
            faults += map(tuple, some)
            self.notes.update(notes)
        named = ", ".join(f"{key} ({reason})" for _, key, reason in sorted(faults)[:SHOWN])
        rest = self.read - self.written - min(len(faults), SHOWN)
        self.faults = named + (f" and {rest:,} more" if rest else "")


def _samples(trainer: pl.Trainer) -> NewSamples:
    found: NewSamples = trainer.datamodule  # type: ignore[attr-defined]
    return found
