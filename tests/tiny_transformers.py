"""A tiny random transformer, written as `transformers` would, and texts for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ldmi_lightning.datamodules.base import Examples, NoisyDataModule
from ldmi_lightning.noise import PairFlipNoise

VOCABULARY, PADDING = 24, 0


def tiny_bert(folder: Path, kind: str = "BertModel", **settings: Any) -> Path:
    """Write a BERT of two layers and some thousand random weights; a classifier where ``kind`` says so."""
    transformers = pytest.importorskip("transformers", reason="text models need transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    more = {"max_position_embeddings": 16, "hidden_dropout_prob": 0.2, **settings}
    torch.manual_seed(0)
    model = getattr(transformers, kind)(transformers.BertConfig(vocab_size=VOCABULARY, **sizes, **more))
    level = transformers.utils.logging.get_verbosity()
    bar = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    if bar:
        transformers.utils.logging.enable_progress_bar()
    transformers.utils.logging.set_verbosity(level)
    return folder


def texts(n: int, seed: int = 0, classes: int = 2) -> tuple[dict[str, Tensor], np.ndarray]:
    """Return token ids with an attention mask, of which one token of each text tells the class."""
    random = np.random.RandomState(seed)
    y = random.permutation(np.arange(n) % classes)
    ids = random.randint(8, VOCABULARY, (n, 7))
    ids[:, 1] = y + 3
    lengths = random.randint(3, 8, n)
    mask = (np.arange(7) < lengths[:, None]).astype(np.int64)
    return {"input_ids": torch.from_numpy(ids * mask), "attention_mask": torch.from_numpy(mask)}, y


class TinyTexts(NoisyDataModule):
    """Two classes of texts whose x is a dict: 60 to train on, 30 for validation, 30 for the test."""

    def __init__(self, batch_size: int = 20, rate: float = 0.1) -> None:
        super().__init__(2, ["no", "yes"], PairFlipNoise(rate, seed=0), batch_size)

    def load(self) -> Mapping[str, Examples]:
        def examples(n: int, seed: int) -> Examples:
            x, y = texts(n, seed)
            return Examples(x, y, np.arange(n))

        return {"train": examples(60, 0), "val": examples(30, 1), "test": examples(30, 2)}
