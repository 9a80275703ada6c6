"""``ldmi export``: the graph gives the model's probabilities, and its README works without the package."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_methods import TwoOfTwo
from tiny_tokenizers import SPECIAL, WORDS, write_tokenizer
from tiny_transformers import VOCABULARY, tiny_bert
from torch import Tensor, nn

import ldmi_lightning
from ldmi_lightning.commands import main
from ldmi_lightning.commands.export import parser
from ldmi_lightning.datamodules import DigitsDataModule
from ldmi_lightning.datamodules.encoding.encode import Encoding
from ldmi_lightning.datamodules.encoding.transforms import Standardise
from ldmi_lightning.datamodules.text import TokenIds
from ldmi_lightning.datamodules.tokenizer import TrimmedTokens
from ldmi_lightning.datamodules.transforms import Normalise
from ldmi_lightning.errors import UserError
from ldmi_lightning.method import Method
from ldmi_lightning.models import TextEncoder

onnxruntime = pytest.importorskip("onnxruntime", reason="ldmi export needs the extra [export]")
pytest.importorskip("onnx", reason="ldmi export needs the extra [export]")
pytest.importorskip("onnxscript", reason="ldmi export needs the extra [export]")

from ldmi_lightning.export.check import (  # noqa: E402
    TOLERANCE,
    TOLERANCE_16,
    Samples,
    greatest_difference,
    random_samples,
    samples_of,
)
from ldmi_lightning.export.graph import Graph, inputs_of, traced  # noqa: E402

pytestmark = pytest.mark.usefixtures("hub_of_its_own")

QUIET = ["--trainer.accelerator", "cpu", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
SHORT = ["--model.warmup.epochs", "1", "--model.robust.epochs", "1"]
ENCODER = """import torch
from torch import nn


def random_features() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(1, 6, 3).requires_grad_(False)
"""


def fit(folder: Path, *words: str) -> Path:
    """Train a run of two epochs in a folder; return the run's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        assert main(["fit", *QUIET, *SHORT, "--trainer.default_root_dir", str(folder), *words]) == 0
    (run,) = (path for path in folder.iterdir() if (path / "results.json").is_file())
    return run


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("digits"), "--data.noise", "SymmetricNoise", "--data.noise.rate", "0.2")


@pytest.fixture(scope="module")
def exported(digits: Path) -> Path:
    assert main(["export", "--ckpt_path", str(digits), "--output", str(digits / "out")]) == 0
    return digits / "out"


def run_readme(folder: Path) -> list[str]:
    """Run the README's code in a process that cannot import the package, nor torch; return the names that it prints."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    blocked = "import sys\nsys.modules.update(dict.fromkeys(['ldmi_lightning', 'torch']))\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return re.findall(r"'([^']*)'", done.stdout)


def about(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "export.json").read_text())
    return found


def test_the_graph_gives_the_probabilities_of_the_command(digits: Path, exported: Path, tmp_path: Path) -> None:
    stage = json.loads((digits / "results.json").read_text())["chosen"]
    words = ["predict", *QUIET, "--ckpt_path", str(digits / f"{stage}-best.ckpt"), "--output", str(tmp_path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        assert main(words) == 0
    data = DigitsDataModule()
    data.setup("test")
    session = onnxruntime.InferenceSession(str(exported / "model.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"inputs": data.splits["test"].x.numpy()})
    np.testing.assert_allclose(found, np.load(tmp_path / "probabilities.npy"), atol=1e-5)


def test_the_folder_says_what_the_model_is(digits: Path, exported: Path) -> None:
    results, found = json.loads((digits / "results.json").read_text()), about(exported)
    assert found["class_names"] == list("0123456789")
    assert found["transition"] == results["stages"]["robust"]["transition"]
    assert found["stage"] == results["chosen"]
    assert found["inputs"] == {"inputs": {"dtype": "uint8", "shape": [None, 1, 8, 8]}}
    assert found["checked_on"] == "300 samples of the validation set"
    assert found["greatest_difference"] < 1e-5
    session = onnxruntime.InferenceSession(str(exported / "model.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 1, 8, 8]
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == found["class_names"]
    assert json.loads(metadata["transition"]) == found["transition"]
    assert metadata["config_sha256"] == found["config_sha256"]
    assert json.loads(metadata["versions"])["ldmi_lightning"]


def test_its_readme_runs_without_the_package(exported: Path) -> None:
    text = (exported / "README.md").read_text()
    assert "8 × 8 in grey, channels first, 0 (black) to 16 (white)" in text
    assert len(run_readme(exported)) == 2
    assert sorted(each.name for each in exported.iterdir()) == ["README.md", "export.json", "model.onnx"]


def test_mistakes_get_one_line(
    digits: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*words: str) -> str:
        assert main(["export", *words]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    capsys.readouterr()
    assert "is there already" in error("--ckpt_path", str(digits), "--output", str(exported))
    assert "which is a file" in error("--ckpt_path", str(digits), "--output", str(exported / "model.onnx/a"))
    assert "arguments are required: --output" in error("--ckpt_path", str(digits))
    assert "there is no such file" in error("--ckpt_path", str(tmp_path / "a.ckpt"), "--output", str(tmp_path / "out"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "onnxscript", None)
        line = error("--ckpt_path", str(digits), "--output", str(tmp_path / "out"))
        assert "needs onnxscript: pip install 'ldmi-lightning[export]'" in line
    assert not any(tmp_path.iterdir())
    assert "pip install" in parser().format_help()


def test_frozen_encoder_and_head_are_one_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    Path("export_encoder.py").write_text(ENCODER)
    data = ["--data", "EncodedDataModule", "--data.data", "DigitsDataModule", "--data.image_size", "12"]
    run = fit(tmp_path / "runs", *data, "--data.encoder", "export_encoder.random_features", "--model.backbone", "Probe")
    assert main(["export", "--ckpt_path", str(run), "--output", "out"]) == 0
    found = about(Path("out"))
    assert found["inputs"] == {"inputs": {"dtype": "uint8", "shape": [None, 1, 8, 8]}}
    assert found["checked_on"] == "300 samples of the validation set"
    assert found["greatest_difference"] < 1e-4
    assert len(run_readme(Path("out"))) == 2
    chosen = str(run / f"{found['stage']}-best.ckpt")
    assert main(["predict", *QUIET, "--ckpt_path", chosen, "--output", "predicted"]) == 0
    data_set = DigitsDataModule()
    data_set.setup("test")
    probabilities = ldmi_lightning.load(run).predict_proba(data_set.splits["test"].x.numpy())
    np.testing.assert_allclose(probabilities, np.load("predicted/probabilities.npy"), atol=1e-5)


def text_run(tmp_path: Path, *words: str) -> tuple[Path, Path]:
    """Train on 60 texts of a CSV file; return the run, and the file."""
    source = tmp_path / "texts.csv"
    rows = [f"{'good' if each % 2 else 'bad'} film {each % 7},{'yes' if each % 2 else 'no'}" for each in range(60)]
    source.write_text("\n".join(["text,label", *rows]))
    data = ["--data", "HFDataModule", "--data.source", str(source), "--data.text_column", "text"]
    return fit(tmp_path / "runs", *data, *words), source


@pytest.mark.slow
def test_words_get_their_ids_from_a_file_beside_the_graph(tmp_path: Path) -> None:
    run, source = text_run(tmp_path, "--data.vocab_size", "20", "--model.backbone", "WordCNN")
    source.unlink()
    assert main(["export", "--ckpt_path", str(run), "--output", str(tmp_path / "out")]) == 0
    found = about(tmp_path / "out")
    assert found["inputs"] == {"inputs": {"dtype": "int64", "shape": [None, None]}}
    assert re.match(r"random inputs, since the validation set is not there \(.*texts\.csv", found["checked_on"])
    assert found["greatest_difference"] < 1e-5
    assert json.loads((tmp_path / "out/vocabulary.json").read_text())["film"] == 2  # the most frequent word
    names = run_readme(tmp_path / "out")
    assert len(names) == 2
    assert set(names) <= {"no", "yes"}


def test_texts_get_their_ids_from_the_tokenizer_in_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="text models need transformers")
    tokenizer = write_tokenizer(tmp_path / "words", WORDS[: VOCABULARY - len(SPECIAL)], model_max_length=16)
    net = ["--model.backbone", "TextClassifier", "--model.backbone.name", str(tiny_bert(tmp_path / "bert"))]
    run, _ = text_run(tmp_path, "--data.tokenizer", tokenizer, *net)
    assert main(["export", "--ckpt_path", str(run), "--output", str(tmp_path / "out")]) == 0
    found = about(tmp_path / "out")
    ids = {"dtype": "int64", "shape": [None, None]}
    assert found["inputs"] == {"input_ids": ids, "attention_mask": ids}
    assert found["greatest_difference"] < 1e-5
    assert len(run_readme(tmp_path / "out")) == 2


# -- graphs, without a run --------------------------------------------------------------------------------------------


def difference(graph: Graph, kinds: dict[str, list[Any]], tensors: dict[str, Tensor], tmp_path: Path) -> float:
    """Return by how much the exported graph differs from the graph as PyTorch runs it."""
    inputs = inputs_of(kinds, free=True)
    traced(graph, inputs).save(tmp_path / "model.onnx")
    with torch.inference_mode():
        return greatest_difference(
            tmp_path / "model.onnx",
            Samples(tensors, "a few samples"),
            inputs,
            lambda x: graph.method.probabilities(list(graph.nets), graph.transform(x)),
            TOLERANCE_16 if graph.rounds else TOLERANCE,
        )


def test_of_two_nets_the_graph_gives_the_mean(tmp_path: Path) -> None:
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(64, 3)) for _ in range(2)]
    graph = Graph(Normalise([0.5], [0.5], scale=16), nets, TwoOfTwo(), ["x"])
    x = torch.randint(17, (70, 1, 8, 8), dtype=torch.uint8)
    assert difference(graph, {"x": ["uint8", [1, 8, 8]]}, {"x": x}, tmp_path) < 1e-5
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"inputs": x.numpy()})
    each = [net(x.float() / 8 - 1).softmax(1).detach() for net in nets]
    np.testing.assert_allclose(found, (each[0] + each[1]) / 2, atol=1e-5)


def test_an_encoder_of_texts_is_in_the_graph(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="text models need transformers")
    encoder = TextEncoder(str(tiny_bert(tmp_path / "bert"))).eval()
    transform = nn.Sequential(
        TrimmedTokens(), Encoding(encoder, torch.float16), Standardise(torch.zeros(16), torch.ones(16))
    )
    kinds = {"x.input_ids": ["int16", [9]], "x.attention_mask": ["int8", [9]]}
    graph = Graph(transform, [nn.Linear(16, 2)], Method(), list(kinds))
    mask = (torch.arange(9) < torch.randint(2, 10, (70, 1))).long()
    tensors = {"x.input_ids": torch.randint(1, VOCABULARY, (70, 9)) * mask, "x.attention_mask": mask}
    assert difference(graph, kinds, tensors, tmp_path) < 1e-3
    assert graph.rounds


class ByValue(nn.Module):
    """Takes a step that depends on what it sees."""

    def forward(self, x: Tensor) -> Tensor:
        return x if len(x[x[:, 0] > 0]) > 1 else -x


class ByLength(nn.Module):
    """Takes a step by a length that is free, which the tracer takes for that of its example."""

    def forward(self, x: Tensor) -> Tensor:
        ones = (x == 1).sum(dim=1, keepdim=True) / len(x.flatten())
        return torch.cat([ones, 1 - ones], dim=1) * 9


def test_what_no_graph_can_hold_is_refused_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"ByValue cannot be exported as a graph: .*torch\.where, or use") as refused:
        traced(Graph(nn.Identity(), [ByValue()], Method(), ["x"]), inputs_of({"x": ["float32", [2]]}))
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")  # PyTorch would print the net's code


def test_a_graph_that_gives_something_else_is_refused(tmp_path: Path) -> None:
    graph = Graph(TokenIds(), [ByLength()], Method(), ["x"])
    with pytest.raises(
        UserError, match=r"ByLength cannot be exported|other probabilities than the model, by up to 0\."
    ):
        difference(graph, {"x": ["int16", [9]]}, {"x": torch.randint(2, (70, 7))}, tmp_path)


class Gone(DigitsDataModule):
    """Digits whose data is not there any more."""

    def load(self) -> dict[str, Any]:
        raise UserError("--data.root digits is no folder. Give one.")


def test_where_the_data_is_gone_random_inputs_take_its_place() -> None:
    data = Gone()
    data.load_state_dict({"inputs": {"x": ["uint8", [1, 8, 8]]}})
    inputs = inputs_of(data.input_kinds or {})
    found = samples_of(data, inputs)
    assert (
        found.of == "random inputs, since the validation set is not there (--data.root digits is no folder. Give one)"
    )
    assert found.tensors["x"].shape == (64, 1, 8, 8)
    assert found.tensors["x"].unique().tolist() == list(range(17))
    assert torch.equal(random_samples(data, inputs)["x"], found.tensors["x"])
