"""Texts as token ids: words of the project's own or a tokenizer's, the vocabulary, and a base for data sets of texts."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import Noise
from ldmi_lightning.saying import say

from .base import NoisyDataModule
from .text_rows import TextRows
from .tokenizer import Text, Tokenizer, TrimmedTokens

PADDING, UNKNOWN = 0, 1
RESERVED = 2
SHORTEST, LONGEST = 5, 300
VOCAB_SIZE = 20_000
PAIRS = (
    "Two texts for each sample need a tokenizer that marks where the second begins: give --data.tokenizer, or one column of "
    "texts."
)


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


def encoder_of(words: Sequence[str]) -> Callable[[Sequence[str]], Tensor]:
    """Return what turns texts into token ids; see :func:`encode`."""
    ids = {word: number for number, word in enumerate(words, RESERVED)}
    dtype = np.int16 if RESERVED + len(words) <= 2**15 else np.int32

    def encode_some(texts: Sequence[str]) -> Tensor:
        rows = [[ids.get(word, UNKNOWN) for word in tokenise(text)[:LONGEST]] for text in texts]
        tokens = np.full((len(rows), max([SHORTEST, *map(len, rows)])), PADDING, dtype)
        for row, found in zip(tokens, rows, strict=True):
            row[: len(found)] = found
        return torch.from_numpy(tokens)

    return encode_some


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
    return encoder_of(words)(texts)


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

    Without a tokenizer the vocabulary comes from the training texts alone. It travels in the checkpoint, since a net's
    embeddings belong to its words: ``validate``, ``test`` and ``predict`` read any data with the words of the checkpoint,
    whereas a fit that would resume with other words is refused. With a tokenizer nothing is learnt from the texts, and the
    checkpoint holds the tokenizer's name and digest: another tokenizer is refused.

    Args:
        num_classes: C.
        class_names: names of the classes, in the order of the labels.
        noise: injector for training and validation labels.
        batch_size: size of the GLOBAL batch.
        root: local folder with the data; ``None`` for the hub.
        vocab_size: number of token ids: padding, unknown, and the most frequent words. It does not shrink where there
            are fewer words, so that a net's size does not depend on the data. With a tokenizer the attribute is the
            tokenizer's size, whatever is given here.
        tokenizer: name on the hub or folder of a tokenizer of ``transformers``; ``None`` for words split at blanks.
        max_tokens: to how many tokens the tokenizer cuts a text; ``None`` for its own limit, or 128 where it states none.
    """

    def __init__(
        self,
        num_classes: int,
        class_names: Sequence[str],
        noise: Noise | None = None,
        batch_size: int = 128,
        root: str | None = None,
        vocab_size: int = VOCAB_SIZE,
        tokenizer: str | None = None,
        max_tokens: int | None = None,
    ) -> None:
        super().__init__(num_classes, class_names, noise, batch_size, root)
        self.text_columns = ("text",)
        if vocab_size <= RESERVED:
            raise UserError(
                f"--data.vocab_size must be at least {RESERVED + 1}, for padding, unknown words and one word, but got "
                f"{vocab_size}."
            )
        if tokenizer is None and max_tokens is not None:
            raise UserError(
                f"--data.max_tokens {max_tokens} belongs to --data.tokenizer, which is not given. Give one, or leave "
                f"max_tokens out: of a text the first {LONGEST} words count."
            )
        self.tokenizer = Tokenizer(tokenizer, max_tokens) if tokenizer is not None else None
        if self.tokenizer is not None and vocab_size not in (VOCAB_SIZE, self.tokenizer.size):
            say(f"--data.vocab_size {vocab_size} is not used: the tokenizer {tokenizer} has {self.tokenizer.size} ids.")
        self.vocab_size = self.tokenizer.size if self.tokenizer is not None else vocab_size
        self.words: list[str] | None = None
        """The words of the ids from 2; known after ``setup``, or from a checkpoint. None where there is a tokenizer."""

    def encode(self, texts: Mapping[str, Sequence[Text]]) -> dict[str, Any]:
        """Return the inputs of each split; without a tokenizer, learn the vocabulary from ``"train"`` if there is none.

        Args:
            texts: N texts for each split; or N pairs of texts, which take a tokenizer.

        Returns:
            For each split token ids, shape ``(N, L)``; with a tokenizer a dict of ``input_ids``, ``attention_mask`` and,
            where it makes them, ``token_type_ids``, each of shape ``(N, L)``.

        Raises:
            UserError: pairs without a tokenizer.
        """
        if self.tokenizer is not None:
            return self.tokenizer.encode(texts)
        single = {split: [text for text in part if isinstance(text, str)] for split, part in texts.items()}
        if any(len(single[split]) < len(part) for split, part in texts.items()):
            raise UserError(PAIRS)
        words = self._words_of(single)
        return {split: encode(part, words) for split, part in single.items()}

    def encode_later(self, texts: Mapping[str, TextRows]) -> dict[str, TextRows]:
        """Return the texts of each split, to be encoded batch by batch; what :meth:`encode` would give comes of it.

        Without a tokenizer all texts are read once for it, to learn the vocabulary and how long they are.
        """
        if (tokenizer := self.tokenizer) is not None:
            cut = f"longer than {tokenizer.max_tokens} tokens, and cut (--data.max_tokens)"
            how = f"{tokenizer.digest} {tokenizer.max_tokens}"
            return {
                split: part.encoded_by(partial(tokenizer.encode_some, what=f"the {split} split"), how=how, cut=cut)
                for split, part in texts.items()
            }
        if any(len(part.columns) > 1 for part in texts.values()):
            raise UserError(PAIRS)
        words = self._words_of(texts)
        how = hashlib.sha256("\n".join(words).encode("utf8", "surrogatepass")).hexdigest()
        encode_some = encoder_of(words)
        return {
            split: part.encoded_by(
                lambda some: (encode_some(some), 0),
                width=max([SHORTEST, *(min(LONGEST, len(tokenise(text))) for text in part)]),
                how=how,
            )
            for split, part in texts.items()
        }

    def _words_of(self, texts: Mapping[str, Iterable[str]]) -> Sequence[str]:
        """Return the vocabulary: the words that are known, or learnt from the training split now."""
        if self.words is None:
            self.words = frequent_words(texts["train"], self.vocab_size - RESERVED)
        return self.words

    def encode_new(self, texts: Sequence[Text]) -> tuple[Any, int]:
        """Return the inputs of texts by the words that are known, or by the tokenizer; and how many texts it has cut."""
        if self.tokenizer is not None:
            return self.tokenizer.encode_some(texts, "the input")
        return self.encode({"new": texts})["new"], 0

    def eval_transform(self) -> nn.Module:
        """Widen the stored ids; of a tokenizer's, leave out the columns in which the batch has padding alone."""
        return TokenIds() if self.tokenizer is None else TrimmedTokens()

    def identity(self) -> dict[str, Any]:
        """Return what must be the same when a run is resumed: a tokenizer and its limit too."""
        if self.tokenizer is None:
            return super().identity()
        own = {"data.tokenizer (SHA-256)": self.tokenizer.digest, "data.max_tokens": self.tokenizer.max_tokens}
        return own | super().identity()  # first, since a difference is named by the first key

    def state_dict(self) -> dict[str, Any]:
        """Return the words, or the tokenizer's name and digest, in plain types: a checkpoint is loaded without running code."""
        if not self.text_columns:
            return super().state_dict()
        if self.tokenizer is not None:
            return {"tokenizer": {"name": self.tokenizer.name, "sha256": self.tokenizer.digest}}
        return {} if self.words is None else {"words": self.words}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the words of a checkpoint, but refuse them in a fit, whose own are others; refuse another tokenizer."""
        if not self.text_columns:
            super().load_state_dict(state_dict)
            return
        check_tokenizer(state_dict, self.tokenizer)
        if self.tokenizer is not None:
            return
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


def check_tokenizer(state: Mapping[str, Any], own: Tokenizer | None) -> None:
    """Raise unless a checkpoint was made with the same tokenizer, or with none as here."""
    kept = state.get("tokenizer")
    if kept is None and own is None:
        return
    if not isinstance(kept, dict):
        raise UserError(
            f"The checkpoint was made without a tokenizer, but --data.tokenizer is {own.name if own else None}. Leave it out, "
            "or begin a new run without --ckpt_path."
        )
    if own is None:
        raise UserError(
            f"The checkpoint was made with the tokenizer {kept.get('name')}, but --data.tokenizer is not given. Give it."
        )
    if kept.get("sha256") != own.digest:
        raise UserError(
            f"The checkpoint was made with the tokenizer {kept.get('name')}, which gives other token ids than --data.tokenizer "
            f"{own.name}. Give that of the run, or begin a new run without --ckpt_path."
        )


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
