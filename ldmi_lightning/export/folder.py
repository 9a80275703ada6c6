"""The folder of an exported model: graph, README, words or tokenizer, and what is known of it; whole, or not at all."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ldmi_lightning import files
from ldmi_lightning.datamodules.known_inputs import KnownInputs, kind_of
from ldmi_lightning.datamodules.text import RESERVED, TextDataModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.export.graph import Input
from ldmi_lightning.export.readme import (
    ABOUT,
    README,
    TOKENIZER,
    VOCABULARY,
    WORDS,
    lines_of_arrays,
    lines_of_tokenizer,
    readme,
)

MEANINGS = {
    "numbers": "Numbers go in as they are; what else is done to them is in the graph.",
    "ids": "Token ids go in.",
    "several": "Several tensors go in.",
}


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give what :func:`ldmi_lightning.files.new_folder` gives.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with files.new_folder(folder) as unfinished:
            yield unfinished
    except OSError as error:
        raise UserError(
            f"--output {folder} cannot be written ({error.strerror or error}): choose another place."
        ) from error


def write_beside(
    folder: Path, data: KnownInputs, inputs: Sequence[Input], about: Mapping[str, Any], checked: str
) -> None:
    """Write what stands beside the graph.

    Args:
        folder: with the graph in it.
        data: whose words or tokenizer are kept.
        inputs: of the graph.
        about: what is known of the model.
        checked: how far its probabilities are the model's, in a sentence.
    """
    way, lines = _keep_preprocessing(folder, data, inputs)
    text = readme(way, lines, len(about["class_names"]), about["stage"], checked)
    files.write(folder / README, text.encode())
    files.write(folder / ABOUT, as_json(about))


def _keep_preprocessing(folder: Path, data: KnownInputs, inputs: Sequence[Input]) -> tuple[str, str]:
    """Write what turns texts into the graph's inputs, where they are texts; return what goes in, and lines that feed it."""
    kind = kind_of(data)
    if kind == "texts":
        assert isinstance(data, TextDataModule)
        if data.tokenizer is not None:
            data.tokenizer.pretrained.save_pretrained(folder / TOKENIZER)
            lines = lines_of_tokenizer(inputs, len(data.text_columns) == 2, data.tokenizer.max_tokens)
            return f"Token ids go in, which the tokenizer in `{TOKENIZER}/` makes of texts.", lines
        words = {word: number for number, word in enumerate(data.words or [], RESERVED)}
        files.write(folder / VOCABULARY, as_json(words))
        return f"Token ids go in, which `{VOCABULARY}` makes of words; 0 is padding, 1 any other word.", WORDS
    if kind == "images":
        channels, height, width = inputs[0].shape
        colours = "grey" if channels == 1 else "colour"
        size = f"{height} × {width} in {colours}, channels first, 0 (black) to {data.white} (white)"
        return f"Images of {size} go in; those of another size are scaled before.", lines_of_arrays(inputs)
    return MEANINGS[kind], lines_of_arrays(inputs)


def as_json(content: Mapping[str, Any]) -> bytes:
    """Return the content of a JSON file."""
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
