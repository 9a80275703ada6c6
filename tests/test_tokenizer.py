"""Texts through a tokenizer: ids, masks and types, what is cut, batches without padding, and what a checkpoint holds."""

import json
import socket
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import writers
from conftest import MakeTrainer
from tiny_tokenizers import SPECIAL, WORDS, write_tokenizer
from torch import nn

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.checkpoints import difference
from ldmi_lightning.datamodules import MRDataModule
from ldmi_lightning.datamodules.base import Examples
from ldmi_lightning.datamodules.text import TextDataModule
from ldmi_lightning.datamodules.tokenizer import Tokenizer, TrimmedTokens
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import CELoss

pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("hub_of_its_own")

GOOD, BAD, FILM = 4, 5, 6  # ids of WORDS
CLS, SEP = 2, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "plain")


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "typed", types=True, model_max_length=8)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    sizes = {"train": 80, "validation": 20, "test": 20}
    return str(writers.write_texts(tmp_path_factory.mktemp("mr") / "mr", sizes))


def texts(tokenizer: str | None, **options: Any) -> TextDataModule:
    return TextDataModule(2, ["no", "yes"], tokenizer=tokenizer, **options)


def lists(encoded: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in encoded.items()}


# -- what texts become ------------------------------------------------------------------------------------------------


def test_each_split_is_padded_to_its_longest_text_and_stored_small(folder: str) -> None:
    encoded = texts(folder).encode({"train": ["good film", "bad"], "test": ["never bad"]})
    assert lists(encoded["train"]) == {
        "input_ids": [[CLS, GOOD, FILM, SEP], [CLS, BAD, SEP, 0]],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 1, 0]],
    }
    assert lists(encoded["test"]) == {"input_ids": [[CLS, 1, BAD, SEP]], "attention_mask": [[1, 1, 1, 1]]}
    assert {name: tensor.dtype for name, tensor in encoded["train"].items()} == {
        "input_ids": torch.int16,
        "attention_mask": torch.int8,
    }


def test_pairs_are_joined_and_their_types_told(typed: str) -> None:
    encoded = texts(typed).encode({"train": [("good film", "bad"), ("film", "bad")]})["train"]
    assert lists(encoded) == {
        "input_ids": [[CLS, GOOD, FILM, SEP, BAD, SEP], [CLS, FILM, SEP, BAD, SEP, 0]],
        "attention_mask": [[1] * 6, [1] * 5 + [0]],
        "token_type_ids": [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]],
    }
    assert encoded["token_type_ids"].dtype == torch.int8


def test_a_pair_loses_tokens_of_its_longer_text(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    encoded = texts(typed, max_tokens=6).encode({"train": [["good good good good good", "bad"]]})["train"]
    assert encoded["input_ids"].tolist() == [[CLS, GOOD, GOOD, SEP, BAD, SEP]]
    assert capsys.readouterr().out == "1 of 1 texts are longer than 6 tokens and are cut (--data.max_tokens).\n"


def test_padding_stands_where_the_tokenizer_puts_it(tmp_path: Path) -> None:
    left = write_tokenizer(tmp_path / "left", padding_side="left")
    encoded = texts(left).encode({"train": ["good film", "bad"]})["train"]
    assert lists(encoded) == {
        "input_ids": [[CLS, GOOD, FILM, SEP], [0, CLS, BAD, SEP]],
        "attention_mask": [[1, 1, 1, 1], [0, 1, 1, 1]],
    }
    second = {name: tensor[1:] for name, tensor in encoded.items()}
    assert TrimmedTokens()(second)["input_ids"].tolist() == [[CLS, BAD, SEP]]


def test_ids_equal_those_of_the_library_called_directly(folder: str) -> None:
    from transformers import AutoTokenizer

    rng = np.random.RandomState(0)
    some = [" ".join(rng.choice([*WORDS, "unheard"], rng.randint(1, 20))) for _ in range(2500)]  # three chunks
    ours = texts(folder, max_tokens=12).encode({"train": some})["train"]
    theirs = AutoTokenizer.from_pretrained(folder)(
        some, padding=True, truncation=True, max_length=12, return_tensors="pt"
    )
    assert all(torch.equal(ours[name].long(), theirs[name]) for name in ("input_ids", "attention_mask"))


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    many = [f"w{number}" for number in range(2**15 - len(SPECIAL) + 1)]
    for words, kind in ((many[:-1], torch.int16), (many, torch.int32)):
        data = texts(write_tokenizer(tmp_path / str(len(words)), words))
        encoded = data.encode({"train": [words[-1]]})["train"]["input_ids"]
        assert encoded.dtype == kind
        assert encoded.tolist() == [[CLS, data.vocab_size - 1, SEP]]


def test_a_split_without_texts_is_empty(folder: str) -> None:
    assert lists(texts(folder).encode({"train": []})["train"]) == {"input_ids": [], "attention_mask": []}


# -- how long -----------------------------------------------------------------------------------------------------------


def test_only_texts_that_lose_tokens_are_counted_as_cut(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = texts(folder, max_tokens=5)
    exact, longer = "good bad film", "good bad film film"
    encoded = data.encode({"train": [exact, longer, "bad"], "test": [longer, exact]})
    assert encoded["train"]["input_ids"][1].tolist() == [CLS, GOOD, BAD, FILM, SEP]
    assert capsys.readouterr().out == "2 of 5 texts are longer than 5 tokens and are cut (--data.max_tokens).\n"
    data.encode({"train": [exact]})
    assert capsys.readouterr().out == ""


def test_limit_is_the_tokenizers_own_or_128(folder: str, typed: str) -> None:
    assert Tokenizer(folder).max_tokens == 128
    assert Tokenizer(folder, 1000).max_tokens == 1000  # it states none
    assert Tokenizer(typed).max_tokens == 8
    assert Tokenizer(typed, 5).max_tokens == 5


def test_more_than_the_tokenizers_own_limit_is_refused(typed: str) -> None:
    with pytest.raises(UserError, match=r"--data.max_tokens 9 is more than the 8 tokens .* Lower it to at most 8"):
        texts(typed, max_tokens=9)


def test_no_room_for_a_text_is_refused(typed: str) -> None:
    with pytest.raises(UserError, match=r"--data.max_tokens must be at least 3: a token of the text, .* but got 2"):
        texts(typed, max_tokens=2)
    single = texts(typed, max_tokens=4)
    with pytest.raises(UserError, match=r"at least 5: a token of each of two texts, .* but got 4"):
        single.encode({"train": [("good", "bad")]})


def test_limit_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(UserError, match=r"--data.max_tokens 64 belongs to --data.tokenizer, which is not given"):
        texts(None, max_tokens=64)


# -- batches ----------------------------------------------------------------------------------------------------------


def test_batches_are_as_wide_as_their_longest_text(written: str, folder: str) -> None:
    module = MRDataModule(root=written, tokenizer=folder, batch_size=8)
    module.setup("fit")
    stored = module.splits["train"].x
    widths = set()
    for loader in (module.train_dataloader(), module.train_eval_dataloader()):
        for batch in loader:
            lengths = stored["attention_mask"][batch.index].sum(1)
            width = int(lengths.max())
            widths.add(width)
            assert list(batch.x) == ["input_ids", "attention_mask"]
            for name, tensor in batch.x.items():
                assert tensor.dtype == torch.int64
                assert torch.equal(tensor, stored[name][batch.index, :width].long())
    assert len(widths) > 1


def test_ranks_part_without_samples_has_a_width() -> None:
    empty = {"input_ids": torch.zeros(0, 7, dtype=torch.int16), "attention_mask": torch.zeros(0, 7, dtype=torch.int8)}
    assert TrimmedTokens()(empty)["input_ids"].shape == (0, 1)


def test_two_ranks_batches_hold_the_tokens_of_one(written: str, folder: str) -> None:
    from ldmi_lightning.datamodules.loaders import ResidentLoader

    module = MRDataModule(root=written, tokenizer=folder)
    module.setup("fit")

    def loader(rank: int, world_size: int) -> ResidentLoader:
        place = {"rank": rank, "world_size": world_size}
        return ResidentLoader(module.splits["train"], 16, module.train_transform(), shuffle_seed=3, **place)

    def tokens(batch: Any) -> list[list[int]]:
        return [row[row != 0].tolist() for row in batch.x["input_ids"]]

    for whole, *parts in zip(loader(0, 1), loader(0, 2), loader(1, 2), strict=True):
        assert tokens(whole) == tokens(parts[0]) + tokens(parts[1])


# -- vocabulary and checkpoint ------------------------------------------------------------------------------------------


def test_vocabulary_is_the_tokenizers(written: str, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    size = len(SPECIAL) + len(WORDS)
    module = MRDataModule(root=written, tokenizer=folder)
    module.setup("fit")
    assert module.vocab_size == size
    assert module.words is None
    assert capsys.readouterr().out == ""
    assert MRDataModule(root=written, tokenizer=folder, vocab_size=8000).vocab_size == size
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"--data.vocab_size 8000 is not used: the tokenizer {folder} has {size} ids."


def test_checkpoint_names_the_tokenizer_in_plain_types(folder: str) -> None:
    state = texts(folder).state_dict()
    assert json.loads(json.dumps(state)) == state
    assert state["tokenizer"]["name"] == folder
    assert len(state["tokenizer"]["sha256"]) == 64


def test_same_tokenizer_elsewhere_and_after_use_is_the_same(folder: str, tmp_path: Path) -> None:
    here, there = texts(folder), texts(write_tokenizer(tmp_path / "copy"))
    there.encode({"train": ["good"]})
    there.load_state_dict(here.state_dict())
    used = texts(folder)
    assert used.tokenizer is not None
    used.tokenizer.pretrained.save_pretrained(tmp_path / "before")
    used.tokenizer.encode({"train": ["good"]})
    used.tokenizer.pretrained.save_pretrained(tmp_path / "after")  # now with how it was last used
    texts(str(tmp_path / "after")).load_state_dict(here.state_dict())


@pytest.mark.parametrize(
    "change",
    [{"words": WORDS[::-1]}, {"padding_side": "left"}, {"pad_token": "[UNK]"}],
    ids=lambda change: next(iter(change)),
)
def test_another_tokenizer_is_refused(folder: str, tmp_path: Path, change: dict[str, Any]) -> None:
    other = write_tokenizer(tmp_path / "other", **change)
    with pytest.raises(UserError, match=r"which gives other token ids than --data.tokenizer") as caught:
        texts(other).load_state_dict(texts(folder).state_dict())
    assert folder in str(caught.value)
    assert other in str(caught.value)


def test_words_and_tokenizer_do_not_take_each_others_checkpoints(folder: str) -> None:
    with pytest.raises(UserError, match=r"made with the tokenizer .*plain, but --data.tokenizer is not given. Give it"):
        texts(None).load_state_dict(texts(folder).state_dict())
    with pytest.raises(UserError, match=r"made without a tokenizer, but --data.tokenizer is .*plain. Leave it out"):
        texts(folder).load_state_dict({"words": ["good"]})


def test_a_run_is_told_apart_by_its_tokenizer_and_limit(written: str, folder: str, tmp_path: Path) -> None:
    def identity(tokenizer: str, **options: Any) -> dict[str, Any]:
        module = MRDataModule(root=written, tokenizer=tokenizer, **options)
        module.setup("fit")
        return module.identity()

    own, copy = identity(folder), identity(write_tokenizer(tmp_path / "copy"))
    assert own == copy
    other, shorter = identity(write_tokenizer(tmp_path / "other", WORDS[::-1])), identity(folder, max_tokens=5)
    assert difference(own, other).startswith("data.tokenizer (SHA-256) is ")
    assert difference(own, shorter) == "data.max_tokens is 5, but was 128"


def test_data_are_told_apart_by_the_tokenizers_ids(written: str, folder: str, tmp_path: Path) -> None:
    digests = set()
    for tokenizer in (None, folder, write_tokenizer(tmp_path / "other", WORDS[::-1]), str(folder)):
        module = MRDataModule(root=written, tokenizer=tokenizer)
        module.setup("fit")
        digests.add(module.identity()["data (inputs of --data.root, SHA-256)"])
    assert len(digests) == 3


class Bag(nn.Module):
    """The mean of the tokens' vectors, and a linear layer over it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(size, 8), nn.Linear(8, 2)

    def forward(self, x: Mapping[str, torch.Tensor]) -> torch.Tensor:
        mask = x["attention_mask"].unsqueeze(2)
        logits: torch.Tensor = self.linear((self.embedding(x["input_ids"]) * mask).sum(1) / mask.sum(1).clamp(min=1))
        return logits


def test_a_run_predicts_with_its_tokenizer_and_with_no_other(
    written: str, folder: str, tmp_path: Path, make_trainer: MakeTrainer
) -> None:
    def data(tokenizer: str | None) -> MRDataModule:
        return MRDataModule(root=written, tokenizer=tokenizer, batch_size=16)

    adam = partial(torch.optim.Adam, lr=0.05)
    module = LDMIModule(Bag(len(SPECIAL) + len(WORDS)), 2, Stage(CELoss(), 2, adam), None)
    trainer = make_trainer()
    trainer.fit(module, data(folder))
    (last,) = tmp_path.rglob("last.ckpt")
    own, copied = (
        torch.cat([probs for _, probs in trainer.predict(module, data(each), ckpt_path=last)])  # type: ignore
        for each in (folder, write_tokenizer(tmp_path / "copy"))
    )
    assert torch.equal(own, copied)
    for other, fault in (
        (write_tokenizer(tmp_path / "other", WORDS[::-1]), "gives other token ids"),
        (None, "not given"),
    ):
        with pytest.raises(UserError, match=fault):
            trainer.predict(module, data(other), ckpt_path=last)


# -- what goes wrong ----------------------------------------------------------------------------------------------------


def test_a_folder_is_loaded_without_the_network(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    def refuse(*args: Any) -> None:
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert Tokenizer(folder).size == len(SPECIAL) + len(WORDS)


def refusal(name: str) -> str:
    with pytest.raises(UserError) as caught:
        texts(name)
    (line,) = str(caught.value).splitlines()
    return line


def test_a_name_without_a_network_is_given_up_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub.constants

    def fail(*args: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    begin = time.monotonic()
    assert "cannot be loaded from the hub (" in refusal("nobody/has-this")
    assert time.monotonic() - begin < 10  # transformers by itself takes 46 seconds
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["nobody/has-this", "./not/a/folder/here", "nobody"])
def test_a_name_that_cannot_be_loaded_leads_to_a_folder(name: str) -> None:
    line = refusal(name)
    assert f"--data.tokenizer {name} is no folder, and cannot be loaded from the hub (" in line
    assert "--local-dir FOLDER" in line


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    assert f"--data.tokenizer {tmp_path} holds no tokenizer that transformers reads (" in refusal(str(tmp_path))


def test_code_that_comes_with_a_tokenizer_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: ...\n")
    settings = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own"}))
    assert "holds no tokenizer that transformers reads" in refusal(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_a_missing_library_is_named(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    line = refusal(folder)
    assert "needs the library transformers" in line
    assert "pip install 'ldmi-lightning[transformers]'" in line


def test_a_tokenizer_without_padding_is_refused(tmp_path: Path) -> None:
    assert "has no padding token" in refusal(write_tokenizer(tmp_path / "bare", pad_token=None))


def test_pairs_without_a_tokenizer_are_refused() -> None:
    with pytest.raises(UserError, match="Two texts for each sample need a tokenizer"):
        texts(None).encode({"train": ["good", ("good", "bad")]})


def test_a_text_without_tokens_is_named(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.WordLevel({"good": 1, "[PAD]": 0}, unk_token="[PAD]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="Text 1 of the train split gives no tokens with the tokenizer"):
        texts(str(tmp_path)).encode({"train": ["good", ""]})


def test_examples_of_tokens_are_taken_together(folder: str) -> None:
    encoded = texts(folder).encode({"train": ["good film", "bad", "film"]})["train"]
    every = Examples(encoded, np.arange(3), np.arange(3))
    assert every.take(np.array([2, 0])).x["input_ids"].tolist() == encoded["input_ids"][[2, 0]].tolist()
