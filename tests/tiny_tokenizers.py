"""Tokenizers of a few words, built offline and written in the layout of ``transformers``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = ("good", "bad", "film", *(f"word{number}" for number in range(50)))


def write_tokenizer(folder: Path, words: Sequence[str] = WORDS, *, types: bool = False, **options: Any) -> str:
    """Write a tokenizer of words split at blanks: ids 0 to 3 are padding, unknown, [CLS] and [SEP], then come the words.

    Args:
        folder: where to.
        words: those it knows.
        types: whether it tells which of two texts a token belongs to.
        options: such as ``model_max_length`` or ``padding_side``.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({word: at for at, word in enumerate([*SPECIAL, *words])}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"]
    made = PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, **{**names, **options})
    made.save_pretrained(folder)
    return str(folder)
