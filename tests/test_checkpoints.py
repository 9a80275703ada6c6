"""Damaged, foreign and hostile checkpoint and config files: each is refused with one line, and none runs code."""

import errno
import io
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import payloads
import pytest
import torch
from payloads import Payload, saved
from PIL import Image
from stops import same
from torch import nn

from ldmi_lightning.checkpoints import KEY, read_checkpoint
from ldmi_lightning.commands import main
from ldmi_lightning.errors import UserError

REPO = Path(__file__).parents[1]
FIT = [
    *("fit", "--config", str(REPO / "configs/quickstart.yaml"), "--trainer.enable_progress_bar", "false"),
    *("--model.warmup.epochs", "1", "--model.robust.epochs", "1", "--data.batch_size", "200"),
    *("--model.robust.scheduler", "torch.optim.lr_scheduler.ReduceLROnPlateau"),
    *("--model.robust.scheduler.mode", "max", "--model.robust.scheduler.patience", "3"),
    *("--model.robust.scheduler.threshold_mode", "abs"),
]

in_own_folder = payloads.in_own_folder  # a fixture


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the command."""
    root = tmp_path_factory.mktemp("run")
    assert main([*FIT, "--trainer.default_root_dir", str(root)]) == 0
    (folder,) = root.iterdir()
    return folder


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    return buffer.getvalue()


OTHER_TYPES: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "zero bytes": lambda: bytes(100_000),
    "noise": lambda: random.Random(0).randbytes(100_000),
    "text": lambda: b"no checkpoint, but a line of text\n" * 50,
    "jpeg": jpeg,
    "numpy array": array,
    "config": (REPO / "configs/quickstart.yaml").read_bytes,
    "zip": lambda: zipped("data.txt", b"no checkpoint"),
    "pickle": lambda: pickle.dumps({"state_dict": {}}),
    "pickle that runs code": lambda: pickle.dumps(Payload()),
    "zip with a pickle that runs code": lambda: zipped("archive/data.pkl", pickle.dumps(Payload())),
    "tensors beside code": lambda: saved({"state_dict": {"w": torch.zeros(3)}, KEY: Payload()}),
    "tensors beside code, in the old format": lambda: saved(
        {"state_dict": {"w": torch.zeros(3)}, KEY: Payload()}, _use_new_zipfile_serialization=False
    ),
    "nn.Module": lambda: saved(nn.Linear(2, 2)),
    "state dict": lambda: saved(nn.Linear(2, 2).state_dict()),
    "tensor": lambda: saved(torch.zeros(3)),
    "list": lambda: saved([1, 2]),
    "Lightning's checkpoint of another module": lambda: saved(
        {"state_dict": nn.Linear(2, 2).state_dict(), "epoch": 1, "loops": {}, "pytorch-lightning_version": "2.6.0"}
    ),
}


def refusal(content: bytes) -> str:
    """Return what is said of a checkpoint file with that content."""
    Path("mutated.ckpt").write_bytes(content)
    with pytest.raises(UserError, match=r"mutated\.ckpt cannot be used: ") as refused:
        read_checkpoint("mutated.ckpt")
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("kind", OTHER_TYPES)
def test_a_file_of_another_type_is_refused(kind: str) -> None:
    refusal(OTHER_TYPES[kind]())


@pytest.mark.parametrize("seed", range(25))
def test_a_truncated_checkpoint_is_refused(run: Path, seed: int) -> None:
    whole = (run / "last.ckpt").read_bytes()
    assert "cut short" in refusal(whole[: random.Random(seed).randrange(len(whole))])


@pytest.mark.parametrize("seed", range(30))
def test_a_flipped_byte_is_found(run: Path, seed: int) -> None:
    """PyTorch itself finds next to none.

    Of 300 single flipped bits in the digits network's robust-best.ckpt, torch.load noticed 1. 80 had changed the weights,
    and two of these took the test accuracy from 0.917 to 0.113, without a word; 217 had changed the optimizer's state or
    the best weights so far, which a resumed run goes on from; 2 changed nothing. The check reads the CRC-32 that is in
    the file already: 3 ms for 1.4 MB when a checkpoint is read, and nothing when it is saved.
    """
    chance = random.Random(seed)
    flipped = bytearray((run / "last.ckpt").read_bytes())
    flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
    assert "damaged" in refusal(bytes(flipped))


def test_any_flipped_byte_is_found_or_changes_nothing() -> None:
    content = {"state_dict": {"w": torch.arange(3.0)}, KEY: {"progress": {"stage": "warmup"}, "identity": {"seed": 1}}}
    whole = saved(content)
    found = 0
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 0xFF
        Path("flipped.ckpt").write_bytes(flipped)
        try:
            assert same(read_checkpoint("flipped.ckpt"), content), f"byte {position}"
        except UserError:
            found += 1
    assert found > len(whole) / 2


def test_an_error_after_the_training_loses_no_checkpoint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "results.json")

    with monkeypatch.context() as patch:
        patch.setattr("ldmi_lightning.runs.results.write_json", full)
        assert "No space left on device (results.json)" in line_of(capsys, *FIT)
    (last,) = Path().glob("runs/*/last.ckpt")
    assert len(list(last.parent.glob("*.ckpt"))) == 5
    assert main(["fit", "--ckpt_path", str(last)]) == 0
    assert (last.parent / "results.json").is_file()


def line_of(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run a command that must be refused; return its one line."""
    capsys.readouterr()
    assert main([*args]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("ldmi: error: ")
    return line


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """A copy of the run's folder."""
    for name, content in files(run).items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_bytes(content)
    return Path("own")


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_every_command_names_an_intact_checkpoint_instead(
    command: str, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "last.ckpt").write_bytes((own / "last.ckpt").read_bytes()[:-100])
    os.utime(own / "robust-best.ckpt", (2e9, 2e9))
    before = files(own)
    assert "Intact beside it: own/robust-best.ckpt." in line_of(capsys, command, "--ckpt_path", "own/last.ckpt")
    assert files(own) == before
    assert list(Path().iterdir()) == [own]


SEVEN = """
import torch
from ldmi_lightning.datamodules import Examples, NoisyDataModule

class Seven(NoisyDataModule):
    def __init__(self):
        super().__init__(7, list("abcdefg"))

    def load(self):
        y = torch.arange(70) % 7
        return {name: Examples(torch.zeros(70, 1, 8, 8), y.numpy(), y.numpy()) for name in ("train", "val", "test")}
"""


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["fit", "--data.batch_size", "8"], "data.batch_size is 8, but was 200"),
        (["fit", "--data.noise.rate", "0.5"], "data.noise (requested_rate) is 0.5, but was 0.6"),
        (["fit", "--model.robust.loss.memory", "0.5"], "memory=0.5"),
        (["fit", "--model.robust.scheduler.patience", "4"], "scheduler.init_args.patience is 4, but was 3"),
        (["fit", "--data", "seven.Seven"], "model.num_classes is 7, but was 10"),
        (["test", "--data", "seven.Seven"], "(10, 64) in the checkpoint, but (7, 64) in the model"),
        (["test", "--model.robust", "null"], "losses.robust.joint_memory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_the_checkpoint_of_another_run_is_refused_and_keeps_its_folder(
    args: list[str], said: str, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("seven.py").write_text(SEVEN)
    before = files(own)
    assert said in line_of(capsys, *args, "--ckpt_path", "own/last.ckpt")
    assert files(own) == before


TOUCH = "os.system [touch payload-ran]"
CONFIGS: dict[str, tuple[Callable[[str], str | bytes], str]] = {
    "empty": (lambda text: "", "Unexpected config"),
    "null": (lambda text: "null", "Unexpected config"),
    "a word": (lambda text: "quickstart", "Unexpected config"),
    "a list": (lambda text: "- model\n- data\n", "Unexpected config"),
    "tabs": (lambda text: text.replace("  ", "\t"), "cannot start any token"),
    "zero bytes": (lambda text: bytes(1000), "not allowed"),
    "jpeg": (lambda text: jpeg(), "no text"),
    "another encoding": (lambda text: text.encode("utf-16"), "no text"),
    "an unknown anchor": (lambda text: text + "model: *gone\n", "undefined alias"),
    "an unknown key": (lambda text: text + "modle: 1\n", "modle"),
    "an unknown argument": (lambda text: text.replace("rate: 0.6", "rote: 0.6"), "rote"),
    "a model that is a number": (lambda text: text + "model: 3\n", "--model"),
    "a model that is null": (lambda text: text + "model: null\n", "model"),
    "a batch size that is a word": (lambda text: text.replace("batch_size: 200", "batch_size: many"), "batch_size: "),
    "a batch size that is a list": (lambda text: text.replace("batch_size: 200", "batch_size: [200]"), "batch_size: "),
    "epochs that are a date": (lambda text: text.replace("epochs: 1", "epochs: 2020-01-01"), "epochs: "),
    "a class that is a function": (
        lambda text: text.replace("ldmi_lightning.models.DigitsCNN", "os.system"),
        "os.system",
    ),
    "a class that runs programs": (
        lambda text: text.replace("torch.optim.Adam", "subprocess.Popen"),
        "subprocess.Popen",
    ),
    "a tag that calls": (lambda text: text.replace("rate: 0.6", f"rate: !!python/object/apply:{TOUCH}"), "the tag"),
    "a tag that makes": (lambda text: f"data: !!python/object/new:{TOUCH}\n", "the tag"),
    "a tag that names": (lambda text: text.replace("rate: 0.6", "rate: !!python/name:os.system"), "the tag"),
    "a tag that imports": (lambda text: f"!!python/module:antigravity\n{text}", "the tag"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_mutated_config_is_refused(kind: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mutate, said = CONFIGS[kind]
    text = (run / "config.yaml").read_text()
    content = mutate(text)
    assert content != text
    Path("mutated.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert said in line_of(capsys, "fit", "--config", "mutated.yaml")
    assert [path.name for path in Path().iterdir()] == ["mutated.yaml"]


@pytest.mark.parametrize("seed", range(10))
def test_a_run_does_not_go_on_with_a_truncated_config(seed: int, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (own / "config.yaml").read_text()
    end = random.Random(seed).randrange(text.index("callbacks"), text.index("flips"))
    (own / "config.yaml").write_text(text[:end])
    before = files(own)
    line_of(capsys, "fit", "--ckpt_path", "own/last.ckpt")
    assert files(own) == before
