"""Features are computed once: their keys, passes that break off, damaged shards, and two ranks."""

import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from features import CPU, Counting, N, encoded, numbers, said, stored, tables
from refusals import refusal
from torch import nn

from ldmi_lightning.datamodules import (
    DigitsDataModule,
)
from ldmi_lightning.datamodules.encoding.encode import Place, encode
from ldmi_lightning.datamodules.transforms import Normalise
from ldmi_lightning.noise import SymmetricNoise

# -- the cache --------------------------------------------------------------------------------------------------------


def test_the_encoder_sees_each_sample_once_and_a_second_run_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = encoded(tmp_path)
    first.encode()
    assert sum(first.encoder.seen) == N
    assert "Encoded 560 samples of the train split in" in said(capsys)
    second = encoded(tmp_path, noise=SymmetricNoise(0.4), batch_size=7)
    second.encode()
    assert second.encoder.seen == []
    assert "The features of the train split (560 samples) are in" in said(capsys)
    assert all(torch.equal(stored(first, name), stored(second, name)) for name in first.splits)


def test_other_weights_settings_transforms_or_inputs_have_features_of_their_own(tmp_path: Path) -> None:
    twice = Counting()
    with torch.no_grad():
        twice.net.weight.mul_(2)
    other = numbers()
    other[0] += 1
    digits = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    for first, second in (
        (encoded(tmp_path), encoded(tmp_path, twice)),
        (encoded(tmp_path, nn.Sequential(nn.ELU(1.0))), encoded(tmp_path, nn.Sequential(nn.ELU(2.0)))),
        (encoded(tmp_path, nn.ReLU()), encoded(tmp_path, nn.GELU())),
        (encoded(tmp_path), encoded(tmp_path, data=tables(other))),
        (encoded(tmp_path), encoded(tmp_path, dtype="float16")),
        (encoded(tmp_path, digits, DigitsDataModule()), encoded(tmp_path, digits, _HalfDigits())),
    ):
        keys = [data.features.folder(data.features.made_by("train", 0)).folder for data in (first, second)]
        assert keys[0] != keys[1]


class _HalfDigits(DigitsDataModule):
    def eval_transform(self) -> nn.Module:
        return Normalise([0.0], [2.0], scale=16)


def test_other_code_has_features_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    for factor in (2, 3):
        name = f"own_code_{factor}"
        (tmp_path / f"{name}.py").write_text(
            f"from torch import nn\n\n\nclass Own(nn.Module):\n    def forward(self, x):\n        return {factor} * x\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        data = encoded(tmp_path, __import__(name).Own())
        keys.append(data.features.folder(data.features.made_by("train", 0)).folder)
        assert data.features.encoder_key == encoded(tmp_path, __import__(name).Own()).features.encoder_key
    assert keys[0] != keys[1]


def test_a_pass_that_was_interrupted_is_resumed_after_the_last_whole_shard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = stored(encoded(tmp_path / "whole"))
    broken_off = encoded(tmp_path, Counting(fail_after=6))  # a shard is four batches of 64
    with pytest.raises(KeyboardInterrupt):
        broken_off.encode("train")
    resumed = encoded(tmp_path)
    capsys.readouterr()
    assert torch.equal(stored(resumed), whole)
    assert sum(resumed.encoder.seen) == 560 - 256
    assert "Encoded 304 of 560 samples of the train split" in said(capsys)


@pytest.mark.parametrize("damage", ["cut short", "emptied", "another width"])
def test_a_damaged_shard_is_encoded_anew_and_the_line_names_it(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = encoded(tmp_path)
    before = stored(first).clone()
    folder = first.features.folder(first.features.made_by("train", 0))
    path = folder.path(1)
    if damage == "another width":
        np.save(path, np.zeros((256, 9), np.float32))
    else:
        path.write_bytes(path.read_bytes()[: 1000 if damage == "cut short" else 0])
    capsys.readouterr()
    second = encoded(tmp_path)
    assert torch.equal(stored(second), before)
    assert sum(second.encoder.seen) == 256
    assert f"{path} is damaged, and is encoded anew." in said(capsys)


def test_a_description_says_what_a_folder_holds(tmp_path: Path) -> None:
    data = encoded(tmp_path)
    data.encode("train")
    (text,) = (path.read_text() for path in tmp_path.rglob("description.json"))
    words = json.loads(text)
    assert words["what"].startswith("features of the train split of TensorDataModule")
    assert (words["samples"], words["features"], words["encoder"]) == (560, 3, "Counting, 18 parameters")


def test_a_cache_that_takes_nothing_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "features").write_text("a file")
    line = refusal(lambda: stored(encoded(tmp_path)))
    assert line.startswith(f"--data.cache {tmp_path / 'features'} cannot keep more features (")
    assert "choose another folder" in line


def _encode_as(rank: int, ranks: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=ranks)
    data = encoded(folder)
    run = data.features.made_by("train", 0)
    encode(run, data.encoder, data.features.folder(run), Place(CPU, rank, ranks))
    (folder / f"seen-{rank}").write_text(str(sum(data.encoder.seen)))
    dist.destroy_process_group()


def test_two_ranks_encode_a_share_each_and_the_rows_are_those_of_one(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_encode_as, args=(rank, 2, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [int((tmp_path / f"seen-{rank}").read_text()) for rank in range(2)] == [256 + 48, 256]
    both = encoded(tmp_path)
    assert torch.equal(stored(both), stored(encoded(tmp_path / "one")))
    assert both.encoder.seen == []
