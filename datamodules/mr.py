"""MR: 10,662 sentences of film reviews from Rotten Tomatoes, negative or positive (Pang and Lee, 2005)."""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import Noise
from ldmi_lightning.originals import Original

from .base import Examples
from .hub import load_hub_dataset, read_labels
from .shown import texts_by_index
from .text import VOCAB_SIZE, TextDataModule, check_texts

HUB_ID = "cornell-movie-review-data/rotten_tomatoes"
HUB_SPLITS = ("train", "validation", "test")


class MRDataModule(TextDataModule):
    """Sentences as token ids: lower case, split at blanks (the data has blanks around punctuation), 5 to 300 words long.

    Noise is drawn anew at the seed for training and for validation labels.

    Args:
        split: ``"random"`` shuffles all sentences by a fixed seed, and keeps a tenth for the test, and a fifth of the
            rest for validation (Xu et al., 2019); ``"hub"`` takes the hub's splits.
        noise: injector for training and validation labels.
        batch_size: size of the GLOBAL batch.
        root: local folder that ``datasets.load_dataset`` reads; ``None`` for the hub.
        vocab_size: number of token ids; see :class:`~ldmi_lightning.datamodules.text.TextDataModule`.
        tokenizer: name on the hub or folder of a tokenizer of ``transformers``, in place of words split at blanks.
        max_tokens: to how many tokens the tokenizer cuts a sentence.
    """

    def __init__(
        self,
        split: Literal["random", "hub"] = "random",
        noise: Noise | None = None,
        batch_size: int = 128,
        root: str | None = None,
        vocab_size: int = VOCAB_SIZE,
        tokenizer: str | None = None,
        max_tokens: int | None = None,
    ) -> None:
        if split not in ("random", "hub"):
            raise UserError(f"--data.split must be random or hub, but got {split}.")
        super().__init__(2, ["negative", "positive"], noise, batch_size, root, vocab_size, tokenizer, max_tokens)
        self.split = split
        self._text_of: Callable[[int], Original] | None = None

    def prepare_data(self) -> None:
        """Download, on one process alone."""
        load_hub_dataset(self.root, HUB_ID)

    def load(self) -> Mapping[str, Examples]:
        """Return the splits; a sentence's index counts through the hub's train, validation and test split."""
        data = load_hub_dataset(self.root, HUB_ID, splits=HUB_SPLITS, columns=("text", "label"))
        texts = [text for split in HUB_SPLITS for text in check_texts(data[split]["text"][:], f"the {split} split")]
        labels = np.concatenate([read_labels(data[split], "label") for split in HUB_SPLITS])
        if self.split == "random":
            parts = random_split(len(texts))
        else:
            ends = np.cumsum([len(data[split]) for split in HUB_SPLITS])
            parts = dict(zip(("train", "val", "test"), np.split(np.arange(len(texts)), ends[:-1]), strict=True))
        tokens = self.encode({name: [texts[position] for position in part] for name, part in parts.items()})
        return {name: Examples(tokens[name], labels[part], part) for name, part in parts.items()}

    def original(self, index: int) -> Original | None:
        """Return a sentence."""
        if self._text_of is None:
            data = load_hub_dataset(self.root, HUB_ID, splits=HUB_SPLITS, columns=("text",))
            self._text_of = texts_by_index([data[split] for split in HUB_SPLITS], ["text"])
        return self._text_of(index)


def random_split(n: int) -> dict[str, NDArray[np.int64]]:
    """Return positions: a tenth for the test, a fifth of the rest for validation, the others to train on.

    >>> {name: len(positions) for name, positions in random_split(10_662).items()}
    {'train': 7677, 'val': 1919, 'test': 1066}
    """
    test, val = n // 10, (n - n // 10) // 5
    order = np.random.RandomState(0).permutation(n)
    return {"train": order[test + val :], "val": order[test : test + val], "test": order[:test]}
