"""Any data set of images or texts that the ``datasets`` library reads, from the Hugging Face hub or a local folder."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import Noise

from .base import Examples
from .hub import UnreadableDataset, decode_images, download_command, read_dataset
from .own_data import OwnData, check_class_names, class_indices, normalise_images, shorten
from .splits import fill_splits
from .text import TextDataModule, check_texts

SOURCE_SPLITS = {"train": "train", "val": "validation", "test": "test"}


class HFDataModule(OwnData, TextDataModule):
    """A column of images or of texts, and a column of labels.

    The source's own train, validation and test split are used, unless they have no labels (none at all, or -1 throughout);
    what is missing comes out of the train split by a seed. A sample's original index counts through these
    splits, one after the other. Images become uint8 in colour, texts token ids as in
    :class:`~ldmi_lightning.datamodules.text.TextDataModule`.

    Args:
        source: name on the hub, such as ``ylecun/mnist``, or a folder that ``datasets.load_dataset`` or
            ``load_from_disk`` reads.
        class_names: names of the classes, in the order of the labels.
        image_column: name of the column of images, or
        text_column: of texts.
        label_column: name of the column of labels: ``0..C-1``, or class names.
        image_size: height and width to which each image is brought, whatever its shape; needed for images alone.
        subset: which of a source's several data sets (``load_dataset`` calls it ``name``).
        noise: injector for training and validation labels, which are taken as true then; ``None`` for labels that may be
            noisy already.
        batch_size: size of the GLOBAL batch.
        val_share: share of the train split that is kept for validation where there is no such split, class by class.
        test_share: the same for the test, whose labels are taken as true.
        split_seed: seed of the draw of these shares.
        augmentation: module for uint8 training batches of images, such as ``RandomFlip``.
        vocab_size: number of token ids.
    """

    def __init__(
        self,
        source: str,
        class_names: list[str],
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
        vocab_size: int = 20_000,
    ) -> None:
        columns = {
            kind: column for kind, column in (("image", image_column), ("text", text_column)) if column is not None
        }
        if len(columns) != 1:
            raise UserError("Name the column of inputs: --data.image_column or --data.text_column, one of the two.")
        if image_column is not None and (image_size is None or image_size < 1):
            raise UserError(
                "--data.image_column needs --data.image_size, the height and width to which each image is brought, at least 1, "
                f"but got {image_size}."
            )
        names = check_class_names(class_names, "--data.class_names")
        super().__init__(len(names), names, noise, batch_size, vocab_size=vocab_size)
        self.source, self.subset = source, subset
        ((self.kind, self.inputs),) = columns.items()
        self.label_column = label_column
        self.image_size = image_size
        self.shares = {"val": val_share, "test": test_share}
        self.split_seed = split_seed
        self.augmentation = augmentation

    def prepare_data(self) -> None:
        """Download, on one process alone."""
        self._read()

    def load(self) -> Mapping[str, Examples]:
        """Return the splits, as images or token ids."""
        every, labels, parts = self._split()
        if self.kind == "image":
            decode = partial(decode_images, every, self.inputs, "RGB", size=self.image_size, option="--data.source")
            inputs = {split: decode(positions=where) for split, where in parts.items()}
        else:
            texts = check_texts(every[self.inputs][:], f"column {self.inputs} of {self.source}")
            inputs = self.encode({split: [texts[position] for position in where] for split, where in parts.items()})
        return {split: Examples(inputs[split], labels[where], where) for split, where in parts.items()}

    def eval_transform(self) -> nn.Module:
        """Normalise images with ImageNet's mean and standard deviation, or widen token ids."""
        return normalise_images(3) if self.kind == "image" else super().eval_transform()

    def _split(self) -> tuple[Any, NDArray[np.int64], dict[str, NDArray[np.int64]]]:
        """Return the samples of all splits that there are, their labels, and the positions of each of our splits."""
        import datasets

        data = self._read()
        labels = {}
        for split, name in SOURCE_SPLITS.items():
            if name in data and (split == "train" or _has_labels(data[name], self.label_column)):
                what = f"The {name} split of {self.source}, column {self.label_column},"
                labels[split] = class_indices(data[name][self.label_column][:], self.class_names, what)
        every = datasets.concatenate_datasets(
            [data[SOURCE_SPLITS[split]].select_columns(self.inputs) for split in labels]
        )
        return every, np.concatenate(list(labels.values())), fill_splits(labels, self.shares, self.split_seed)

    def _read(self) -> Any:
        """Load the source, and check that its columns are what they are said to be."""
        if not (Path(self.source).is_dir() or re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", self.source)):
            raise UserError(
                f"--data.source {self.source} is no folder, and no name on the hub, such as stanfordnlp/imdb."
            )
        try:
            data = read_dataset(self.source, self.subset)
        except UnreadableDataset as error:
            raise UserError(
                f"--data.source {self.source} could not be loaded: {error}. {self._remedy(str(error.__cause__))}"
            ) from error
        if "train" not in data:
            raise UserError(
                f"--data.source {self.source} has no train split, but {shorten(list(data))}. Give a folder in which the files "
                "to train on are named train, such as train.parquet."
            )
        columns = data["train"].features
        for option, column in ((f"{self.kind}_column", self.inputs), ("label_column", self.label_column)):
            if column not in columns:
                raise UserError(
                    f"--data.{option} {column} is no column of {self.source}, whose columns are {shorten(list(columns))}."
                )
        self._check_kinds(columns)
        return data

    def _remedy(self, reason: str) -> str:
        if subsets := re.search(r"(?:BuilderConfig|Config name).*?(\[.*?\])", reason, flags=re.DOTALL):
            return f"Set --data.subset to one of {subsets[1]}."
        if Path(self.source).is_dir():
            return "Give a folder that datasets.load_dataset reads, such as one of parquet, CSV or JSON files."
        return (
            "It is no folder. If it is a name on the hub, give a local copy instead, for example one made by "
            f"`{download_command(self.source)}`."
        )

    def _check_kinds(self, columns: Mapping[str, Any]) -> None:
        import datasets

        found = columns[self.inputs]
        is_text = getattr(found, "dtype", None) in ("string", "large_string")
        if not (isinstance(found, datasets.Image) if self.kind == "image" else is_text):
            other = "text" if self.kind == "image" else "image"
            raise UserError(
                f"--data.{self.kind}_column {self.inputs} of {self.source} holds no {self.kind}s, but {found}. Its columns "
                f"are {shorten(list(columns))}; for {other}s set --data.{other}_column."
            )
        feature = columns[self.label_column]
        if not isinstance(feature, datasets.ClassLabel):
            return
        if len(feature.names) != self.num_classes:
            raise UserError(
                f"--data.class_names names {self.num_classes} classes, but column {self.label_column} of {self.source} has "
                f"{len(feature.names)}: {shorten(feature.names)}."
            )
        if set(feature.names) == set(self.class_names) and list(feature.names) != list(self.class_names):
            raise UserError(
                f"--data.class_names must be in the order of column {self.label_column} of {self.source}: "
                f"[{', '.join(feature.names)}]."
            )


def _has_labels(data: Any, column: str) -> bool:
    """Whether a split tells its labels: some benchmarks on the hub withhold those of their test set."""
    return column in data.column_names and any(label not in (-1, None) for label in data[column][:])
