"""What ``ldmi export`` does: make the model of a checkpoint, trace it with its preprocessing, compare, and write the folder."""

import importlib
import json
from argparse import Namespace
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ldmi_lightning.commands.from_checkpoint import Made, make_from
from ldmi_lightning.commands.output import refuse_existing
from ldmi_lightning.commands.quiet import quieten
from ldmi_lightning.datamodules.known_inputs import Kinds, KnownInputs, kinds_in
from ldmi_lightning.datamodules.new_data import NewData
from ldmi_lightning.datamodules.text import TextDataModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.export.check import TOLERANCE, TOLERANCE_16, greatest_difference, samples_of
from ldmi_lightning.export.folder import new_folder, write_beside
from ldmi_lightning.export.graph import OUTPUT, Graph, Input, inputs_of, traced
from ldmi_lightning.export.readme import MODEL
from ldmi_lightning.predictor import transition_of
from ldmi_lightning.saying import say
from ldmi_lightning.training.classifier import Classifier
from ldmi_lightning.training.module import LDMIModule

LIBRARIES = ("onnx", "onnxruntime", "onnxscript")


def run(options: Namespace) -> int:
    """Carry out ``ldmi export`` with its parsed options; return the exit code."""
    output = Path(options.output)
    refuse_existing(output)
    check_libraries()
    quieten()
    made = make_from(options.ckpt_path)
    say(f"Exported is the stage {made.module.holds} of {made.path}.")
    export(made, output)
    return 0


def check_libraries() -> None:
    """Refuse to begin where a library that the export needs is missing."""
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"ldmi export needs {name}: pip install 'ldmi-lightning[export]'.") from error


def export(made: Made, output: Path) -> None:
    """Write the folder, and say what came out.

    Args:
        made: the model and its data set.
        output: the folder, which is not there.
    """
    module, new = made.module, NewData(made.data)
    data = made.data.new_from()
    kinds = kinds_of(data)
    graph = Graph(made.data.new_transform(), nets_of(module), module.method(), list(kinds))
    inputs = inputs_of(kinds, free=new.kind == "texts")
    program = traced(graph, inputs)
    with new_folder(output) as folder:
        about = about_of(made, inputs)
        program.model.metadata_props.update({key: as_text(value) for key, value in about.items()})
        program.save(folder / MODEL)
        samples = samples_of(data, inputs)
        with torch.inference_mode():
            greatest = greatest_difference(
                folder / MODEL,
                samples,
                inputs,
                lambda x: module.probabilities(new.transform(x)),
                TOLERANCE_16 if graph.rounds else TOLERANCE,
            )
        checked = f"Its probabilities differ from the model's by at most {greatest:.1e}, on {samples.of}."
        about |= {"checked_on": samples.of, "greatest_difference": greatest}
        write_beside(folder, data, inputs, about, checked)
    say(checked)
    say(f"{output}: {MODEL}, how to call it, and what it is.")


def kinds_of(data: KnownInputs) -> Kinds:
    """Return type and shape of each tensor of a sample: those of training, or of texts those that its words give."""
    if not isinstance(data, TextDataModule) or not data.text_columns:
        return dict(data.input_kinds or {})
    text = "word" if len(data.text_columns) == 1 else ("word", "word")
    return kinds_in(data.encode_new([text])[0]) or {}


def nets_of(module: LDMIModule) -> list[nn.Module]:
    """Return the nets that predict: one or two backbones; the module itself where it has a ``forward`` of its own."""
    own = type(module).forward is not Classifier.forward
    return [module.backbone if each is module and not own else each for each in module.nets()]


def about_of(made: Made, inputs: Sequence[Input]) -> dict[str, Any]:
    """Return what is known of an exported model, in plain types."""
    transition = transition_of(made.results, made.module)
    return {
        "class_names": made.class_names,
        "transition": None if transition is None else transition.round(6).tolist(),
        "stage": made.module.holds,
        "inputs": {
            each.name: {"dtype": each.dtype, "shape": [None, *(n if n > 0 else None for n in each.shape)]}
            for each in inputs
        },
        "output": OUTPUT,
        "config_sha256": made.config_sha256,
        "versions": {name: version(name) for name in ("ldmi_lightning", "torch", *LIBRARIES)},
    }


def as_text(value: Any) -> str:
    """Return a value as the graph's metadata hold it: texts as they are, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
