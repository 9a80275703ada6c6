"""Sentences as token ids: splitting into words, the vocabulary, and a base for data sets of texts."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import Noise

from .base import NoisyDataModule

PADDING, UNKNOWN = 0, 1
RESERVED = 2
SHORTEST, LONGEST = 5, 300


def tokenise(text: str) -> list[str]:
    """Split a text at blanks, in lower case: punctuation is a word of its own where blanks stand around it, as in MR.

    >>> tokenise("It's a Gem .")
    ["it's", 'a', 'gem', '.']
    """
    return text.lower().split()


def frequent_words(texts: Iterable[str], number: int) -> list[str]:
    """Return the most frequent words, at most ``number``; in alphabetical order where equally frequent.

    >>> frequent_words(["b a c", "c d"], 3)
    ['c', 'a', 'b']
    """
    counts = Counter(word for text in texts for word in tokenise(text))
    return sorted(counts, key=lambda word: (-counts[word], word))[:number]


def encode(texts: Sequence[str], words: Sequence[str]) -> Tensor:
    """Return token ids: 0 = padding, 1 = unknown, 2 + i = ``words[i]``.

    Args:
        texts: N texts; of each, the first 300 words count.
        words: the vocabulary.

    Returns:
        The smallest signed integer type that holds all ids, shape ``(N, L)``; L = length of the longest text, and at
        least 5.

    >>> encode(["a good film", "good"], ["good", "film"]).tolist()
    [[1, 2, 3, 0, 0], [2, 0, 0, 0, 0]]
    """
    ids = {word: number for number, word in enumerate(words, RESERVED)}
    rows = [[ids.get(word, UNKNOWN) for word in tokenise(text)[:LONGEST]] for text in texts]
    longest = max([SHORTEST, *map(len, rows)])
    tokens = np.full((len(rows), longest), PADDING, np.int16 if RESERVED + len(words) <= 2**15 else np.int32)
    for row, found in zip(tokens, rows, strict=True):
        row[: len(found)] = found
    return torch.from_numpy(tokens)


def check_texts(texts: Sequence[Any], what: str) -> list[str]:
    """Return the texts as a list, or raise if one is empty: a net would learn nothing but its label from it."""
    empty = next((number for number, text in enumerate(texts) if not isinstance(text, str) or not tokenise(text)), None)
    if empty is not None:
        raise UserError(f"Text {empty} of {what} is empty. Fill it in, or leave the sample out.")
    return list(texts)


class TokenIds(nn.Module):
    """Turn stored ids into those that ``nn.Embedding`` takes."""

    def forward(self, x: Tensor) -> Tensor:
        """Return int64 ids of the same shape."""
        return x.to(torch.int64)


class TextDataModule(NoisyDataModule):
    """Base of data sets of texts, which ``load`` turns into token ids with :meth:`encode`.

    The vocabulary comes from the training texts alone. It travels in the checkpoint, since a net's embeddings belong to
    its words: ``validate``, ``test`` and ``predict`` read any data with the words of the checkpoint, whereas a fit that
    would go on with other words is refused.

    Args:
        num_classes: C.
        class_names: names of the classes, in the order of the labels.
        noise: injector for training and validation labels.
        batch_size: size of the GLOBAL batch.
        root: local folder with the data; ``None`` for the hub.
        vocab_size: number of token ids: padding, unknown, and the most frequent words. It does not shrink where there
            are fewer words, so that a net's size does not depend on the data.
    """

    def __init__(
        self,
        num_classes: int,
        class_names: Sequence[str],
        noise: Noise | None = None,
        batch_size: int = 128,
        root: str | None = None,
        vocab_size: int = 20_000,
    ) -> None:
        super().__init__(num_classes, class_names, noise, batch_size, root)
        if vocab_size <= RESERVED:
            raise UserError(
                f"--data.vocab_size must be at least {RESERVED + 1}, for padding, unknown words and one word, but got "
                f"{vocab_size}."
            )
        self.vocab_size = vocab_size
        self.words: list[str] | None = None
        """The words of the ids from 2; known after ``setup``, or from a checkpoint."""

    def encode(self, texts: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
        """Return token ids of each split, shape ``(N, L)``, and learn the vocabulary from ``"train"`` if there is none."""
        if self.words is None:
            self.words = frequent_words(texts["train"], self.vocab_size - RESERVED)
        words = self.words
        return {split: encode(part, words) for split, part in texts.items()}

    def eval_transform(self) -> nn.Module:
        """Widen the stored ids."""
        return TokenIds()

    def state_dict(self) -> dict[str, Any]:
        """Return the words, a plain list: a checkpoint is loaded without running code."""
        return {} if self.words is None else {"words": self.words}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the words of a checkpoint; refuse them in a fit, whose own are others."""
        words = check_words(state_dict.get("words"), self.vocab_size)
        if words == self.words:
            return
        if self.words is not None and self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            raise UserError(
                f"The words of the training texts are not those of the checkpoint, the {len(words)} of which begin with "
                f"{words[:3]}: this is other data. Give that of the run with --data.root, or begin a new run without --ckpt_path."
            )
        self.words = words
        if self.splits:
            self.splits = {}
            self.setup("")


def check_words(words: Any, vocab_size: int) -> list[str]:
    """Return the words of a checkpoint, or raise where they are none, or too many."""
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(
            "The checkpoint holds no list of words: it is none of this data set's. Give another --ckpt_path."
        )
    if len(words) + RESERVED > vocab_size:
        raise UserError(
            f"The checkpoint holds {len(words)} words, too many for --data.vocab_size {vocab_size}. Give the configuration "
            "of the run that it comes from: --config RUN/config.yaml."
        )
    return words
