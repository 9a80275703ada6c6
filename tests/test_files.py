"""A file is seen whole or not at all: on a full disk, with many writers, and where the writer is killed."""

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from full_disks import room

from ldmi_lightning import files
from ldmi_lightning.runs.folder import claim, is_run_folder

FORK = multiprocessing.get_context("fork")
BIG = {"weights": torch.zeros(300_000)}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for content in (b"one", b"two"):
        files.write(path, content)
        assert path.read_bytes() == content
    files.write_with(path, partial(torch.save, BIG))
    assert torch.equal(torch.load(path, weights_only=True)["weights"], BIG["weights"])
    files.copy(path, tmp_path / "b.txt")
    assert path.read_bytes() == (tmp_path / "b.txt").read_bytes()
    assert names(tmp_path) == ["a.txt", "b.txt"]


WRITERS: dict[str, Callable[[Path], None]] = {
    "bytes": lambda path: files.write(path, bytes(200_000)),
    "torch.save": lambda path: files.write_with(path, partial(torch.save, BIG)),
    "many small": lambda path: files.write_with(path, lambda file: [file.write(bytes(10)) for _ in range(20_000)]),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_an_oserror_that_says_so_and_leaves_the_old_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"old")
    with room(100_000), pytest.raises(OSError, match="File too large") as raised:
        WRITERS[kind](path)
    assert raised.value.strerror == "File too large"
    assert raised.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.ckpt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_no_space_left_is_an_oserror_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch alone says RuntimeError here."""

    def full(file: Any, *how: Any) -> Any:
        return original("/dev/full", "wb")

    original = files._Remembering
    monkeypatch.setattr(files, "_Remembering", full)
    with pytest.raises(OSError, match="No space left on device"):
        files.write_with(tmp_path / "a.ckpt", partial(torch.save, BIG))


def test_a_fault_of_the_writer_s_own_comes_out_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")

    def fail(file: Any) -> None:
        file.write(b"half")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        files.write_with(path, fail)

    def stop(file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_with(path, stop)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        files.write(tmp_path / "nowhere" / "a.txt", b"one")


def test_many_writers_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    contents = [bytes([i]) * 500_000 for i in range(4)]
    files.write(path, contents[0])
    done = threading.Event()
    torn: list[int] = []

    def write(content: bytes) -> None:
        for _ in range(20):
            files.write(path, content)

    def look() -> None:
        while not done.is_set():
            if path.read_bytes() not in contents:
                torn.append(1)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    reader = threading.Thread(target=look)
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert not torn
    assert names(tmp_path) == ["a.bin"]


def _write_for_ever(path: Path) -> None:
    while True:
        for content in (b"a" * 3_000_000, b"b" * 3_000_000):
            files.write(path, content)


def test_a_killed_writer_leaves_a_whole_file_and_who_claims_its_folder_removes_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    files.write(path, b"a" * 3_000_000)
    left: list[str] = []
    until = time.monotonic() + 60
    for moment in itertools.count():
        process = FORK.Process(target=_write_for_ever, args=(path,))
        before = path.stat().st_ino
        process.start()
        while path.stat().st_ino == before:  # until it is at work, however long that takes here
            time.sleep(0.001)
        time.sleep(moment % 15 / 500)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        content = path.read_bytes()
        assert content in (b"a" * 3_000_000, b"b" * 3_000_000)
        left = [name for name in names(tmp_path) if name != "last.ckpt"]
        if moment >= 14 and left:
            break
        assert time.monotonic() < until, "it was never killed at work"
    assert all(name.endswith(".tmp") for name in left)
    claim(tmp_path).close()
    assert names(tmp_path) == [".lock", "last.ckpt"]
    assert is_run_folder(tmp_path)


def test_who_claims_a_run_s_folder_removes_half_written_pictures_too_and_nothing_of_runs_below_it(
    tmp_path: Path,
) -> None:
    for name in ("joint/epoch-0001.png", "run/last.ckpt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.{'a' * files.TAG}{files.UNFINISHED}").touch()
    claim(tmp_path).close()
    assert names(tmp_path / "joint") == []
    assert len(names(tmp_path / "run")) == 1, "a run below the folder of its cell may be at work"
