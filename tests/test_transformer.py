"""Text models: what they compute, what is loaded, what is new, and what is said of it."""

import builtins
import importlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeTrainer
from tiny_transformers import TinyTexts, texts, tiny_bert
from torch import nn

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.losses import CELoss, DMILoss
from ldmi_lightning.models.transformer import TextClassifier, TextEncoder, mean_of_tokens
from ldmi_lightning.training.nets import second_like

pytest.importorskip("transformers", reason="text models need transformers")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of five classes."""
    folder = tmp_path_factory.mktemp("models") / "classifier"
    return tiny_bert(folder, "BertForSequenceClassification", num_labels=5)


# -- features ---------------------------------------------------------------------------------------------------------


def test_the_mean_counts_tokens_and_no_padding() -> None:
    states = torch.tensor([[[1.0, 0.0], [3.0, 4.0], [90.0, 90.0]], [[5.0, 5.0], [7.0, 7.0], [9.0, 9.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert mean_of_tokens(states, mask).tolist() == [[2.0, 2.0], [7.0, 7.0]]
    assert mean_of_tokens(states, torch.zeros(2, 3)).tolist() == [[0.0, 0.0]] * 2


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_features_are_those_of_the_tokens_alone(bert: Path, pooling: Any) -> None:
    encoder = TextEncoder(str(bert), pooling).eval()
    x, _ = texts(6)
    given = {name: tensor[:1, : int(x["attention_mask"][0].sum())] for name, tensor in x.items()}  # no padding at all
    with torch.no_grad():
        features, alone = encoder(x), encoder(given)
        states = encoder.body(input_ids=given["input_ids"])[0][0]
    assert (features.shape, features.dtype) == ((6, 16), torch.float32)
    torch.testing.assert_close(features[:1], alone)
    torch.testing.assert_close(alone[0], states.mean(dim=0) if pooling == "mean" else states[0])


def test_an_encoder_of_another_architectures_weights_is_refused(bert: Path, tmp_path: Path) -> None:
    config = json.loads((bert / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    (tmp_path / "model.safetensors").write_bytes((bert / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"lack encoder\.layer\.2\..* and 11 more: features would come from random"):
        TextEncoder(str(tmp_path))


# -- classifiers ------------------------------------------------------------------------------------------------------


def test_a_classifier_is_that_of_transformers_under_names_of_body_and_head(classifier: Path) -> None:
    import transformers

    net = TextClassifier(str(classifier), num_classes=5).eval()
    x, _ = texts(6)
    whole = transformers.AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    with torch.no_grad():
        assert torch.equal(net(x), whole(**x).logits)
    named = [name for name, _ in net.named_parameters()]
    assert {name.split(".")[0] for name in named} == {"body", "head"}
    assert [name for name in named if name.startswith("head.")] == ["head.classifier.weight", "head.classifier.bias"]
    assert sum(each.numel() for each in net.state_dict().values()) == sum(
        each.numel() for each in whole.state_dict().values()
    )


def test_a_head_of_another_number_of_classes_is_new_and_one_line_says_so(
    classifier: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    net, old = TextClassifier(str(classifier), num_classes=3), TextClassifier(str(classifier), num_classes=5)
    said = capfd.readouterr()
    assert said.out.splitlines() == [
        f"{classifier}: the body is loaded; new, and to be trained, are head.classifier.bias, head.classifier.weight."
    ]
    assert said.err == ""
    assert net(texts(4)[0]).shape == (4, 3)
    assert all(torch.equal(one, other) for one, other in zip(net.body.parameters(), old.body.parameters(), strict=True))


def test_an_architecture_alone_needs_a_word(bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text((bert / "config.json").read_text())
    with pytest.raises(ValueError, match=r"no file named model\.safetensors.*or set pretrained: false"):
        TextClassifier(str(tmp_path))
    assert TextClassifier(str(tmp_path), 4, pretrained=False)(texts(4)[0]).shape == (4, 4)
    assert "the architecture alone is taken; all weights are random" in capsys.readouterr().out


def test_the_weights_of_another_body_are_refused(bert: Path, tmp_path: Path) -> None:
    config = json.loads((bert / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 24}))
    (tmp_path / "model.safetensors").write_bytes((bert / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"another model than its config\.json describes: bert\.encoder\.layer\.0\."):
        TextClassifier(str(tmp_path))


def test_what_is_no_dict_is_refused(bert: Path) -> None:
    with pytest.raises(ValueError, match=r"takes a dict with input_ids and attention_mask.*but got a Tensor"):
        TextClassifier(str(bert))(texts(4)[0]["input_ids"])
    with pytest.raises(ValueError, match=r"but got a dict of ids"):
        TextEncoder(str(bert))({"ids": torch.zeros(2, 3)})


def test_without_transformers_the_line_says_what_to_install(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def missing(name: str, *rest: Any) -> Any:
        return builtins.__import__("no_such_module") if name == "transformers" else real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ValueError, match=r"pip install 'ldmi-lightning\[transformers\]'"):
        TextClassifier(str(bert))


def test_a_second_net_keeps_a_pretrained_body_and_draws_its_head(bert: Path) -> None:
    one = TextClassifier(str(bert))
    second = second_like(one)
    body, head = (dict(getattr(second, part).named_parameters()) for part in ("body", "head"))
    assert all(torch.equal(value, body[name]) for name, value in one.body.named_parameters())
    assert not torch.equal(head["classifier.weight"], one.head.get_submodule("classifier").weight)
    random = second_like(TextClassifier(str(bert), pretrained=False))
    assert not torch.equal(random.body.pooler.dense.weight, one.body.pooler.dense.weight)


# -- in a fit ---------------------------------------------------------------------------------------------------------


def test_a_frozen_body_stays_and_the_head_learns(
    bert: Path, make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    net = TextClassifier(str(bert))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = partial(torch.optim.AdamW, lr=0.02)
    stages = Stage(CELoss(), 2, optimizer), Stage(DMILoss(0.9), 1, optimizer)
    module = LDMIModule(net, 2, *stages, freeze="body.*")
    trainer = make_trainer()
    trainer.fit(module, TinyTexts())
    after = net.state_dict()
    assert {name for name, value in before.items() if not torch.equal(value, after[name])} == {
        "head.classifier.weight",
        "head.classifier.bias",
    }
    assert not any(part.training for part in net.body.modules() if isinstance(part, nn.Dropout))
    assert isinstance(net.head["dropout"], nn.Dropout)
    assert "freeze: 39 of 41 parameters" in capsys.readouterr().out
    trainer.test(module, TinyTexts(), verbose=False)
    rows = trainer.predict(module, TinyTexts())
    assert rows is not None
    assert torch.cat([index for index, _ in rows]).tolist() == list(range(30))
