"""Any data of images or texts in a file, a folder or on the Hugging Face hub, in a column beside one of labels."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import Noise
from ldmi_lightning.originals import Original
from ldmi_lightning.saying import say

from .base import Examples
from .class_names import class_indices, cleaned, names_in
from .hub import UnreadableDataset, remedy_for
from .images import decode_images
from .loaders import Split
from .own_data import OwnData, check_class_names, normalise_images, shorten
from .shown import texts_by_index
from .sources import AnyColumn, Rows, Wanted, is_name_on_the_hub, read_file, read_splits
from .splits import SPLITS, fill_splits
from .streamed import Streamed, reading_processes
from .table_inputs import READ_WHOLE, Predicted, Table, image_rows, text_rows
from .text import LONGEST, VOCAB_SIZE, TextDataModule
from .unlabelled import Labelled, without_unlabelled


class HFDataModule(OwnData, TextDataModule):
    """A column of images or of texts, and a column of labels.

    The source's own train, validation and test split are used; what is missing comes out of the train split by a seed, and so
    does what takes the place of a split without labels. A sample's original index counts through the source's splits, one
    after the other. Images become uint8 in colour, texts token ids as in
    :class:`~ldmi_lightning.datamodules.text.TextDataModule`. They are held in memory where that takes at most half of what is
    free, and otherwise read batch by batch, which a line says; the batches are the same.

    ``ldmi predict`` predicts all rows of the test split, whether they have labels or not.

    Args:
        source: a file (``.csv``, ``.tsv``, ``.parquet``, ``.jsonl``, ``.json``), a folder that ``datasets.load_dataset`` or
            ``load_from_disk`` reads, or a name on the hub, such as ``ylecun/mnist``.
        class_names: names of the classes, in the order of the labels; ``None`` takes those that the labels hold.
        image_column: name of the column of images, or
        text_column: of texts.
        label_column: name of the column of labels: class names, or ``0..C-1``; see :mod:`ldmi_lightning.datamodules.labels`.
        image_size: height and width to which each image is brought, whatever its shape; needed for images alone.
        subset: which of a source's several data sets (``load_dataset`` calls it ``name``).
        noise: injector for training and validation labels, which are taken as true then; ``None`` for labels that may be
            noisy already.
        batch_size: size of the GLOBAL batch.
        val_share: share of the train split that is kept for validation where there is no such split, class by class.
        test_share: the same for the test.
        split_seed: seed of the draw of these shares.
        augmentation: module for uint8 training batches of images, such as ``RandomFlip``.
        vocab_size: number of token ids.
        text_pair_column: name of a second column of texts, where a sample is a pair; needs a tokenizer.
        tokenizer: name on the hub or folder of a tokenizer of ``transformers``; ``None`` for words split at blanks.
        max_tokens: to how many tokens the tokenizer cuts a text.
        test_source: a file to test on, or to predict, in place of the source's own test split.
        unlabelled: what is done with rows without a label, where others of their split have one: ``"refuse"`` or ``"drop"``.
        clean_labels: take names that differ by blanks or case alone for one class, and words such as ``nan`` for no label.
        encoding: how characters are stored in CSV files.
        streamed: whether inputs are read batch by batch rather than held in memory; ``None`` where they do not fit.
        num_workers: processes that decode images then, on each device; by default one for each core but one, at most 8.
    """

    resizing = "decoded"

    def __init__(
        self,
        source: str,
        class_names: list[str] | None = None,
        image_column: str | None = None,
        text_column: str | None = None,
        label_column: str = "label",
        image_size: int | None = None,
        subset: str | None = None,
        noise: Noise | None = None,
        batch_size: int = 128,
        val_share: float = 0.1,
        test_share: float = 0.1,
        split_seed: int = 0,
        augmentation: nn.Module | None = None,
        vocab_size: int = VOCAB_SIZE,
        text_pair_column: str | None = None,
        tokenizer: str | None = None,
        max_tokens: int | None = None,
        test_source: str | None = None,
        unlabelled: Literal["refuse", "drop"] = "refuse",
        clean_labels: bool = False,
        encoding: str = "utf-8",
        streamed: bool | None = None,
        num_workers: int | None = None,
    ) -> None:
        if (image_column is None) == (text_column is None):
            raise UserError("Name the column of inputs: --data.image_column or --data.text_column, one of the two.")
        if image_column is not None and (image_size is None or image_size < 1):
            raise UserError(
                "--data.image_column needs --data.image_size, the height and width to which each image is brought, at least 1, "
                f"but got {image_size}."
            )
        if image_column is not None and (tokenizer or text_pair_column):
            raise UserError("--data.tokenizer and --data.text_pair_column are for texts: give --data.text_column.")
        if unlabelled not in ("refuse", "drop"):
            raise UserError(f"--data.unlabelled must be refuse or drop, but got {unlabelled}.")
        self.notes: list[str] = []
        self.source, self.subset, self.test_source = source, subset, test_source
        columns = {"image_column": image_column, "text_column": text_column, "text_pair_column": text_pair_column}
        self.wanted = Wanted(
            "image" if image_column is not None else "text",
            {option: column for option, column in columns.items() if column is not None},
            label_column,
            None if class_names is None else check_class_names(class_names, "--data.class_names"),
            encoding,
            source,
        )
        self.unlabelled, self.clean_labels = unlabelled, clean_labels
        self.shares = {"val": val_share, "test": test_share}
        self._rows: dict[str, Rows] | None = None
        self._text_of: Callable[[int], Original] | None = None
        self._predicted: Predicted | None = None
        self._predicts = False
        names = self.wanted.class_names or self._names_from_labels()
        super().__init__(
            len(names), names, noise, batch_size, vocab_size=vocab_size, tokenizer=tokenizer, max_tokens=max_tokens
        )
        self.text_columns = tuple(self.wanted.columns.values()) if image_column is None else ()
        self.image_column, self.label_column, self.encoding = image_column, label_column, encoding
        self.image_size = image_size
        self.split_seed = split_seed
        self.augmentation = augmentation
        self.streamed, self.num_workers = streamed, reading_processes(num_workers)

    def prepare_data(self) -> None:
        """Download, on one process alone."""
        self._read()

    def setup(self, stage: str) -> None:
        """Load the data and inject the noise, once; refuse to test where the test split has no labels."""
        if stage == "test" and not self.splits and "test" in self._read().keys() - self._labelled().given.keys():
            raise UserError(
                f"{self._called('test')} has no labels, and cannot be tested on: `ldmi predict` predicts it. How good the model "
                "is on rows that were held out for the test stands in results.json of its run."
            )
        self._predicts = self._predicts or stage == "predict"  # a checkpoint's words may have the data set up once more
        super().setup(stage)
        if self._predicts:
            self._add_predicted()

    def load(self) -> Mapping[str, Examples]:
        """Return the splits, as images or token ids."""
        rows, labelled = self._read(), self._labelled()
        labels = {split: class_indices(part, self.class_names, part.what) for split, part in labelled.given.items()}
        parts = fill_splits(labels, self.shares, self.split_seed)
        begins = dict(zip(rows, np.cumsum([0, *(len(each.data) for each in rows.values())]), strict=False))
        index = np.concatenate([begins[split] + labelled.kept[split] for split in labels])
        whole = all(len(labelled.kept[split]) == len(rows[split].data) for split in labels)
        tables = [rows[split].data if whole else rows[split].data.select(labelled.kept[split]) for split in labels]
        table = Table(tables, index, [path for split in labels for path in rows[split].paths])
        inputs, self.sources = self._inputs(table, parts)
        y = np.concatenate(list(labels.values()))
        if "test" not in rows:
            self._predicted = Predicted(None, 0)
        elif "test" not in labels or len(labels["test"]) < len(rows["test"].data):
            every = np.arange(len(rows["test"].data))
            self._predicted = Predicted(Table([rows["test"].data], every, rows["test"].paths), int(begins["test"]))
        self._rows = None  # texts take memory
        return {split: Examples(inputs[split], y[where], index[where]) for split, where in parts.items()}

    def original(self, index: int) -> Original | None:
        """Return the text of a row of the source, which is read once more for it; images are shown as they are stored."""
        if self.wanted.kind == "image":
            return None
        if self._text_of is None:
            self._text_of = texts_by_index(
                [each.data for each in self._read().values()], [*self.wanted.columns.values()]
            )
            self._rows = None
        return self._text_of(index)

    def eval_transform(self) -> nn.Module:
        """Normalise images with ImageNet's mean and standard deviation, or turn tokens into what a net takes."""
        return normalise_images(3) if self.wanted.kind == "image" else super().eval_transform()

    def predicted_split(self) -> str:
        """Return the name of all rows of the test split; where the source has none, of those that were held out for the test."""
        self._add_predicted()
        if "predict" in self.splits:
            return "predict"
        if self._predicted is not None:
            say(
                f"{self.source} has no test split: the {len(self.splits['test']):,} rows of its train split that were held out "
                "for the test are predicted. Other rows can be given with --data.test_source FILE."
            )
        return "test"

    def _add_predicted(self) -> None:
        if self._predicted is None or self._predicted.table is None or "predict" in self.splits:
            return
        where = self._predicted.table.index
        inputs = self._inputs(self._predicted.table, {"predict": where})[0]["predict"]
        unknown = torch.full((len(where),), -1)
        self.splits["predict"] = Split(inputs, unknown, unknown, torch.from_numpy(where + self._predicted.first))

    def _inputs(
        self, table: Table, parts: Mapping[str, NDArray[np.int64]]
    ) -> tuple[dict[str, Any], dict[str, Streamed]]:
        """Return the inputs at positions through a table, and what tells them from others where they may be streamed."""
        columns, size = [*self.wanted.columns.values()], self.image_size or 0
        if self.wanted.kind == "image":
            rows = image_rows(table, columns[0], parts, size, self.source)
            if self.streams_images(sum(map(len, parts.values())), size):
                return {**rows}, {**rows}
            decode = partial(decode_images, table.whole, columns[0], "RGB", size=size, option="--data.source")
            return {split: decode(positions=where) for split, where in parts.items()}, {**rows}
        texts = text_rows(table, columns, parts, self.source)
        if not table.on_disk:
            if self.streamed:
                raise UserError(READ_WHOLE % self.source)
            return self.encode({split: list(part) for split, part in texts.items()}), {}
        longest = self.tokenizer.max_tokens if self.tokenizer is not None else LONGEST
        needed, what = table.bytes_of_texts(columns, longest), f"{len(table.index):,} texts"
        if self.streams(needed, what, "encoded batch by batch"):
            return {**self.encode_later(texts)}, {**texts}
        return self.encode({split: list(part) for split, part in texts.items()}), {**texts}

    def _names_from_labels(self) -> list[str]:
        names = names_in(self._labelled().given)
        self.notes.append(f"Classes, as column {self.wanted.label} of {self.source} names them: {shorten(names)}.")
        return names

    def _labelled(self) -> Labelled:
        """Return the labels that there are, and note what is left out."""
        rows = self._read()
        given = {split: each.labels for split, each in rows.items() if each.labels is not None}
        if self.clean_labels:
            given, notes = cleaned(given, self.wanted.class_names)
            self.notes += notes
        labelled = without_unlabelled(
            given,
            self.wanted.class_names,
            drop=self.unlabelled == "drop",
            remedy="Fill it in, or set --data.unlabelled drop to leave such rows out.",
            where=lambda split, places: rows[split].where(places),
        )
        self.notes += labelled.notes
        for split in rows.keys() - labelled.given.keys():
            told = "predicted alone" if split == "test" else "left out"
            self.notes.append(
                f"{self._called(split)} has no labels: it is {told}, and a share of {self.shares[split]:g} of the train split is "
                f"held out for {'the test' if split == 'test' else 'validation'} in its place."
            )
        return labelled

    # -- reading ------------------------------------------------------------------------------------------------------

    def _called(self, split: str) -> str:
        other = self.test_source if split == "test" else None
        return self.wanted.called(split) if other is None else f"--data.test_source {other}"

    def column(self, name: str, option: str = "--group") -> list[Any]:
        """Return a column of the source, by original index."""
        wanted = AnyColumn(*self.wanted._replace(columns={option: name}))
        return [cell for rows in self._read_splits(wanted).values() for cell in rows.data[name][:]]

    def _read(self) -> dict[str, Rows]:
        """Read the source, once."""
        if self._rows is None:
            self._rows = self._read_splits(self.wanted)
            for each in self._rows.values():
                self.notes += each.notes
        return self._rows

    def _read_splits(self, wanted: Wanted) -> dict[str, Rows]:
        if Path(self.source).is_file():
            rows = {"train": read_file(self.source, "train", wanted)}
        elif Path(self.source).is_dir() or is_name_on_the_hub(self.source):
            try:
                rows = read_splits(self.source, self.subset, wanted)
            except UnreadableDataset as error:
                remedy = remedy_for(self.source, str(error.__cause__))
                raise UserError(f"--data.source {self.source} could not be loaded: {error}. {remedy}") from error
        else:
            raise UserError(
                f"--data.source {self.source} is no file, is no folder and no name on the hub, such as stanfordnlp/imdb."
            )
        if self.test_source is not None:
            if not Path(self.test_source).is_file():
                raise UserError(
                    f"--data.test_source {self.test_source} is no file. Give one to test on, or to predict."
                )
            if "test" in rows:
                self.notes.append(f"{self.test_source} takes the place of the test split of {self.source}.")
            rows |= {"test": read_file(self.test_source, "test", wanted._replace(source=self.test_source))}
        return {split: rows[split] for split in SPLITS if split in rows}
