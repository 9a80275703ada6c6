"""``ldmi export``: a run's model as an ONNX file, with its preprocessing, for programs without this package.

What its help says stands here, since a help page should not wait for PyTorch; ``export_run`` carries it out.
"""

import argparse
import importlib
from typing import NoReturn

from ldmi_lightning.errors import UserError

DESCRIPTION = """\
Write a run's model to a new folder as one ONNX graph: images in uint8, token ids or numbers in, the probabilities of
the classes out, for any number of samples. Normalisation, a frozen encoder and standardisation are in the graph.

Beside it lie a README that shows how to call it without this package, the words or the tokenizer of texts, and
export.json: classes, T̂, where the model comes from, and by how much its probabilities differ from the model's on the
validation set; where that is not there any more, on random inputs.

It needs the extra `export`: pip install 'ldmi-lightning[export]'.
"""


class ExportParser(argparse.ArgumentParser):
    """The parser of ``ldmi export``."""

    def error(self, message: str) -> NoReturn:
        """Raise a :class:`UserError`."""
        raise UserError(f"{message}. `ldmi export --help` lists the options.")


def run(words: list[str]) -> int:
    """Carry out ``ldmi export``; return its exit code.

    Args:
        words: those after ``ldmi``.
    """
    options = parser().parse_args(words[1:])
    return int(importlib.import_module("ldmi_lightning.commands.export_run").run(options))


def parser() -> ExportParser:
    """Return the parser."""
    made = ExportParser(
        prog="ldmi export",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "--ckpt_path",
        required=True,
        metavar="RUN|FILE",
        help="folder of a run of `ldmi fit`, of which the stage that it keeps to predict is exported; or one of its checkpoints",
    )
    made.add_argument("--output", required=True, metavar="DIR", help="the folder to make")
    return made
