"""What a download leaves in a file's place is called what it is, wherever a file is read, and nothing else is."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ldmi_lightning.checkpoints import read_checkpoint, read_weights, refuse_damaged
from ldmi_lightning.datamodules.clothing1m_lists import read_lists
from ldmi_lightning.datamodules.dogs_vs_cats import read_lists as read_csv_lists
from ldmi_lightning.datamodules.images import read_image
from ldmi_lightning.errors import UserError
from ldmi_lightning.file_kinds import kind_of_file, what_it_is
from ldmi_lightning.noise import HumanNoise, LabelFileNoise
from ldmi_lightning.pickled import unsafe_globals

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n"
READERS: dict[str, Callable[[Path], object]] = {
    "human.pt": lambda path: HumanNoise(str(path), "worse"),
    "labels.csv": lambda path: LabelFileNoise(str(path)),
    "labels.npy": lambda path: LabelFileNoise(str(path)),
    "image.jpg": read_image,
    "image.gif": lambda path: read_image(path.read_bytes()),
    "last.ckpt": read_checkpoint,
    "best.ckpt": refuse_damaged,
    "weights.pt": read_weights,
    "noisy_train.txt": lambda path: read_lists(path.parent),
    "train.csv": lambda path: read_csv_lists(path.parent, 10),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("content", "said"),
    [(POINTER, "is a Git-LFS pointer: .*git lfs pull"), (PAGE, "is an HTML page: download the file")],
)
def test_what_a_failed_download_leaves_is_called_what_it_is(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as raised:
        READERS[name](tmp_path / name)
    assert "code" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [
        *(b"<html>", b"\xef\xbb\xbf\r\n <HTML lang='en'>", b"<?xml version='1.0'?><!DOCTYPE html>"),
        *(b"<!-- saved -->\n<html>", b"<body>", b"<head>"),
    ],
)
def test_pages_are_known_however_they_begin(content: bytes) -> None:
    assert what_it_is(content) == "an HTML page: download the file itself"


@pytest.mark.parametrize("content", [b"", b"<htmlx>", b"<svg>", b"index,label\n0,<html>\n", b"version 2", b"\x89PNG"])
def test_other_files_are_left_to_who_reads_them(content: bytes) -> None:
    assert what_it_is(content) is None


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert kind_of_file(tmp_path / "fifo") is None
    assert kind_of_file(tmp_path) is None
    assert kind_of_file(tmp_path / "nowhere") is None


@pytest.mark.parametrize("legacy", [False, True])
def test_objects_that_could_run_code_are_named_and_tensors_are_none(tmp_path: Path, legacy: bool) -> None:
    held = {"tensor": torch.nn.Linear(2, 1).state_dict(), "net": torch.nn.Linear(2, 1)}
    for name, value in held.items():
        torch.save(value, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    assert unsafe_globals(tmp_path / "tensor") == []
    assert "torch.nn.modules.linear.Linear" in unsafe_globals(tmp_path / "net")


def test_checkpoint_names_what_could_run_code(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 1), tmp_path / "net.ckpt")
    with pytest.raises(UserError, match=r"could run code \(torch\.nn\.modules\.linear\.Linear\), and is not loaded"):
        read_weights(tmp_path / "net.ckpt")
