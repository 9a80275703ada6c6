"""Texts through a tokenizer of ``transformers``: ids, attention mask and, where it makes them, token types."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.inputs import map_tensors
from ldmi_lightning.saying import say

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
MAX_TOKENS = 128
"""What a text is cut to where neither the user nor the tokenizer states a limit."""
NO_LIMIT = 10**6
"""Tokenizers that know no limit state an absurdly large one."""
CHUNK = 1000
"""So many texts are split at a time: as lists of Python's numbers, tokens take tenfold the memory."""

Text = str | Sequence[str]


class Tokenizer:
    """A tokenizer of the ``transformers`` library, by name or folder.

    Nothing is downloaded for a folder, and code that comes with a tokenizer is never run.

    Args:
        name: name on the hub, such as ``distilbert-base-uncased``, or folder made by ``save_pretrained``.
        max_tokens: to how many tokens a text (or pair of texts) is cut, those added at its ends included; ``None`` for the
            tokenizer's own limit, or 128 where it states none.

    Attributes:
        size: one more than its largest token id, which is what an embedding needs.
        max_tokens: the limit in force.
    """

    def __init__(self, name: str, max_tokens: int | None = None) -> None:
        self.name = name
        self.pretrained = load_tokenizer(name)
        self.size = 1 + max(self.pretrained.get_vocab().values())
        stated = int(self.pretrained.model_max_length)
        own = stated if 0 < stated < NO_LIMIT else None
        if max_tokens is not None and own is not None and max_tokens > own:
            raise UserError(
                f"--data.max_tokens {max_tokens} is more than the {own} tokens that the tokenizer {name} is made for. Lower it "
                f"to at most {own}."
            )
        self.max_tokens = max_tokens if max_tokens is not None else own or MAX_TOKENS
        self._refuse_no_room(pairs=False)
        if self.pretrained.pad_token_id is None:
            raise UserError(
                f"The tokenizer {name} has no padding token, which batches of texts need. Set its pad_token, write it to a "
                "folder with save_pretrained, and give that folder as --data.tokenizer."
            )

    def _refuse_no_room(self, pairs: bool) -> None:
        least = self.pretrained.num_special_tokens_to_add(pairs) + 1 + pairs
        if self.max_tokens < least:
            raise UserError(
                f"--data.max_tokens must be at least {least}: a token of {'each of two texts' if pairs else 'the text'}, and "
                f"those that the tokenizer {self.name} adds; but got {self.max_tokens}."
            )

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all that decides which ids a text gets, wherever the tokenizer lies."""
        backend = getattr(self.pretrained, "backend_tokenizer", None)
        stored = self.pretrained.get_vocab() if backend is None else json.loads(backend.to_str())
        if backend is not None:  # it also holds how it was last used
            stored |= {"truncation": None, "padding": None}
        found = [
            stored,
            self.pretrained.special_tokens_map,
            self.pretrained.padding_side,
            self.pretrained.truncation_side,
        ]
        return hashlib.sha256(json.dumps(found, sort_keys=True, default=str).encode()).hexdigest()

    def encode(self, texts: Mapping[str, Sequence[Text]]) -> dict[str, dict[str, Tensor]]:
        """Return the token ids of each split, padded to its longest text, and say how many texts were cut.

        Args:
            texts: N texts for each split, or N pairs of texts.

        Returns:
            For each split ``input_ids``, in the smallest signed type that holds all ids, ``attention_mask``, 1 at tokens and 0
            at padding, and where the tokenizer makes them ``token_type_ids``; shapes ``(N, L)``.

        Raises:
            UserError: a text gives no tokens.
        """
        cut, encoded = 0, {}
        for split, part in texts.items():
            encoded[split], too_long = self.encode_some(part, f"the {split} split")
            cut += too_long
        if cut:
            say(
                f"{cut:,} of {sum(map(len, texts.values())):,} texts are longer than {self.max_tokens} tokens and are cut "
                "(--data.max_tokens)."
            )
        return encoded

    def encode_some(self, texts: Sequence[Text], what: str) -> tuple[dict[str, Tensor], int]:
        """Return the token ids of texts, padded to the longest of them, and how many texts were cut.

        Args:
            texts: N texts, or N pairs of texts.
            what: what they are part of, for messages.

        Raises:
            UserError: a text gives no tokens.
        """
        pairs = bool(len(texts)) and not isinstance(texts[0], str)
        if pairs:
            self._refuse_no_room(pairs)
        ids, types = [np.empty(0, smallest_type(self.size))], [np.empty(0, np.int8)]
        lengths: list[int] = []
        cut = 0
        for some in chunks(texts):
            found = self._tokens(some, pairs, truncation=True, max_length=self.max_tokens)
            ids.append(flat(found[IDS], ids[0].dtype))
            types += [flat(found[TYPES], types[0].dtype)] if TYPES in found else []
            lengths += map(len, found[IDS])
            full = [text for text, row in zip(some, found[IDS], strict=True) if len(row) == self.max_tokens]
            if full:  # which of them had more?
                cut += sum(len(row) > self.max_tokens for row in self._tokens(full, pairs, truncation=False)[IDS])
        if 0 in lengths:
            raise UserError(
                f"Text {lengths.index(0)} of {what} gives no tokens with the tokenizer {self.name}. Fill it in, or "
                "leave the sample out."
            )
        filled = where_filled(np.array(lengths, np.int64), left=self.pretrained.padding_side == "left")
        encoded = {
            IDS: padded(ids, filled, self.pretrained.pad_token_id),
            MASK: torch.from_numpy(filled.astype(np.int8)),
        }
        if len(types) > 1:
            encoded[TYPES] = padded(types, filled, self.pretrained.pad_token_type_id)
        return encoded, cut

    def _tokens(self, texts: Sequence[Text], pairs: bool, **options: Any) -> Mapping[str, list[list[int]]]:
        first = [text[0] for text in texts] if pairs else list(texts)
        second = [text[1] for text in texts] if pairs else None
        found: Mapping[str, list[list[int]]] = self.pretrained(
            first, second, padding=False, return_attention_mask=False, verbose=False, **options
        )
        return found


class TrimmedTokens(nn.Module):
    """Turn stored tokens into what a net takes: without the columns in which no text of the batch has a token, as int64.

    A batch is padded to its own longest text that way, rather than to the longest of the split. On a GPU the host waits for
    the width once a batch, which costs far less than a net's pass over padding.

    >>> stored = {"input_ids": torch.tensor([[5, 6, 0, 0], [7, 0, 0, 0]], dtype=torch.int16),
    ...           "attention_mask": torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.int8)}
    >>> TrimmedTokens()(stored)["input_ids"]
    tensor([[5, 6],
            [7, 0]])
    """

    def forward(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return int64 tensors of shape ``(B, L)``, L = tokens of the longest text of the batch."""
        used = x[MASK].any(0).nonzero().flatten().tolist()
        columns = slice(used[0], used[-1] + 1) if used else slice(0, 1)  # a rank's share of a batch may be empty
        trimmed: dict[str, Tensor] = map_tensors(lambda each: each[:, columns].to(torch.int64), x)
        return trimmed


def load_tokenizer(name: str) -> Any:
    """Return a tokenizer of ``transformers``, which is imported here and only here.

    Raises:
        UserError: the library is missing, or the folder or the hub has no tokenizer that it reads.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise UserError(
            f"--data.tokenizer {name} needs the library transformers ({error}). "
            "Install it with: pip install 'ldmi-lightning[transformers]'"
        ) from error
    is_folder = Path(name).is_dir()
    try:
        on_disk = is_folder or not hub_answers(name)
        return AutoTokenizer.from_pretrained(name, local_files_only=on_disk, trust_remote_code=False)
    except Exception as error:  # There is no end to what transformers raises on a folder that it cannot read.
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(
            "."
        )
        raise UserError(
            f"--data.tokenizer {name} holds no tokenizer that transformers reads ({reason}). Give a folder made by its "
            "save_pretrained."
            if is_folder
            else f"--data.tokenizer {name} is no folder, and cannot be loaded from the hub ({reason}). Give a folder, for "
            f"example one made by `hf download {name} --local-dir FOLDER`."
        ) from error


def hub_answers(name: str) -> bool:
    """Whether the hub can be asked for a model; without a network ``transformers`` would try for a minute, line by line."""
    import huggingface_hub

    try:
        huggingface_hub.model_info(name, timeout=10)
    except huggingface_hub.errors.HfHubHTTPError:
        return True  # it says no, and transformers will say why
    except Exception:  # offline by choice or not, or no name at all: what there is on disk has to do
        return False
    return True


def smallest_type(size: int) -> type[np.signedinteger[Any]]:
    """Return the smallest signed type for numbers below ``size``, which torch, unlike unsigned ones, can gather by.

    >>> smallest_type(2**15).__name__, smallest_type(2**15 + 1).__name__
    ('int16', 'int32')
    """
    return np.int16 if size <= 2**15 else np.int32


def chunks(texts: Sequence[Text]) -> Iterator[Sequence[Text]]:
    """Yield the texts, some at a time."""
    for begin in range(0, len(texts), CHUNK):
        yield texts[begin : begin + CHUNK]


def where_filled(lengths: NDArray[np.int64], left: bool) -> NDArray[np.bool_]:
    """Return where rows of these lengths have tokens, shape ``(N, max(lengths))``.

    Args:
        lengths: shape ``(N,)``.
        left: whether the padding stands on the left.

    >>> where_filled(np.array([1, 2]), left=True).tolist()
    [[False, True], [True, True]]
    """
    width = lengths.max(initial=0)
    columns, lengths = np.arange(width), lengths[:, np.newaxis]
    return np.asarray(columns >= width - lengths if left else columns < lengths)


def flat(rows: Iterable[Sequence[int]], kind: np.dtype[Any]) -> NDArray[Any]:
    """Return rows of numbers, one after the other.

    >>> flat([[1, 2], [3]], np.dtype("int8")).tolist()
    [1, 2, 3]
    """
    return np.fromiter(chain.from_iterable(rows), kind)


def padded(parts: Sequence[NDArray[Any]], filled: NDArray[np.bool_], padding: int) -> Tensor:
    """Return tokens, given in parts one after the other, as a tensor of shape ``(N, L)``.

    >>> padded([np.array([4]), np.array([5, 6])], np.array([[True, False], [True, True]]), 0).tolist()
    [[4, 0], [5, 6]]
    """
    rows = np.full(filled.shape, padding, parts[0].dtype)
    rows[filled] = np.concatenate(parts)
    return torch.from_numpy(rows)
