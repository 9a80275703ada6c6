"""Damaged, foreign and hostile checkpoint and config files: each is refused with one line, and none runs code."""

import errno
import functools
import io
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import MakeTrainer
from PIL import Image
from stops import Stopped, same
from test_resume import digits, ldmi, three_and_three
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


class Payload:
    """Creates a file where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch payload-ran",)


@pytest.fixture(autouse=True)
def in_own_folder(in_own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder of one's own, in which no payload may have run at the end."""
    monkeypatch.syspath_prepend(str(in_own_folder))
    yield
    assert not Path("payload-ran").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the command."""
    root = tmp_path_factory.mktemp("run")
    assert main([*FIT, "--trainer.default_root_dir", str(root)]) == 0
    (folder,) = root.iterdir()
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The last checkpoint of a short run from Python, of a network of 1,200 weights."""
    root = tmp_path_factory.mktemp("small")
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    pl.Trainer(**quiet, default_root_dir=root).fit(ldmi(*three_and_three(epochs=1)), digits())
    return next(root.glob("*/last.ckpt")).read_bytes()


def saved(content: Any, **how: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


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


def change(content: dict[str, Any], *path: str, to: Any = None) -> dict[str, Any]:
    """Return a copy of a nest of dicts with one value changed, or left out where ``to`` is None."""
    if len(path) > 1:
        return content | {path[0]: change(content[path[0]], *path[1:], to=to)}
    return {key: value for key, value in content.items() if key != path[0]} | ({path[0]: to} if to is not None else {})


def with_nan(tensor: torch.Tensor, value: float = float("nan")) -> torch.Tensor:
    return tensor.flatten().index_fill(0, torch.tensor([0]), value).reshape(tensor.shape)


W, B = "backbone.1.weight", "backbone.4.bias"
PROGRESS = (KEY, "progress")
CONTENTS: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "no weights": (("state_dict",), None, "no weights"),
    "weights that are a list": (("state_dict",), [1.0], "no weights"),
    "nothing of ours": ((KEY,), None, "none of LDMIModule's"),
    "no progress": (PROGRESS, None, "none of LDMIModule's"),
    "no identity": ((KEY, "identity"), None, "none of LDMIModule's"),
    "NaN weight": (("state_dict", W), with_nan, W),
    "NaN bias": (("state_dict", B), with_nan, B),
    "infinite weight": (("state_dict", W), lambda w: with_nan(w, float("inf")), W),
    "NaN best weight": ((*PROGRESS, "best_weights", "1.weight"), with_nan, "best_weights.1.weight"),
    "NaN memory": (("state_dict", "losses.robust.joint_memory"), with_nan, "joint_memory"),
    "no epoch": (("epoch",), None, "lacks epoch"),
    "no step": (("global_step",), None, "lacks global_step"),
    "no loops": (("loops",), None, "lacks loops"),
    "no callbacks": (("callbacks",), None, "lacks callbacks"),
    "no optimizer": (("optimizer_states",), None, "lacks optimizer_states"),
    "no scheduler": (("lr_schedulers",), None, "lacks lr_schedulers"),
    "no weight": (("state_dict", W), None, f"{W} is missing in the checkpoint"),
    "no bias": (("state_dict", B), None, f"{B} is missing in the checkpoint"),
    "a weight too many": (("state_dict", "backbone.9.weight"), torch.zeros(3), "missing in the model"),
    "a weight of another shape": (("state_dict", W), torch.zeros(16, 63), r"\(16, 63\)"),
    "a transposed weight": (("state_dict", W), lambda w: w.T.contiguous(), r"\(64, 16\)"),
    "seven classes": (("state_dict", B), torch.zeros(7), r"\(7,\) in the checkpoint, but \(10,\) in the model"),
    "best weights of another shape": ((*PROGRESS, "best_weights", "4.bias"), torch.zeros(7), "4.bias"),
    "no best weight": ((*PROGRESS, "best_weights", "4.bias"), None, "4.bias is missing in the checkpoint"),
    "no stage": ((*PROGRESS, "stage"), None, "another version"),
    "progress of another version": ((*PROGRESS, "colour"), "blue", "another version"),
    "another stage": ((*PROGRESS, "stage"), "refine", "robust"),
    "another batch size": ((KEY, "identity", "data.batch_size"), 8, r"data\.batch_size is 199, but was 8"),
    "a setting that is gone": ((KEY, "identity", "model.colour"), "blue", r"model\.colour is None, but was blue"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_checkpoint_with_other_contents_is_refused(kind: str, small: bytes, make_trainer: MakeTrainer) -> None:
    path, to, said = CONTENTS[kind]
    content = torch.load(io.BytesIO(small), weights_only=True)
    if callable(to):
        value = content
        for key in path:
            value = value[key]
        to = to(value)
    Path("mutated.ckpt").write_bytes(saved(change(content, *path, to=to)))

    def resume() -> None:
        read_checkpoint("mutated.ckpt")
        make_trainer().fit(ldmi(*three_and_three(epochs=1)), digits(), ckpt_path="mutated.ckpt")

    with pytest.raises(UserError, match=said):
        resume()


def test_a_mask_may_hold_minus_infinity(small: bytes) -> None:
    content = torch.load(io.BytesIO(small), weights_only=True)
    mask = torch.full((3,), -torch.inf)
    Path("masked.ckpt").write_bytes(saved(change(content, "state_dict", "backbone.mask", to=mask)))
    assert same(read_checkpoint("masked.ckpt")["state_dict"]["backbone.mask"], mask)


def test_a_save_cut_short_leaves_the_checkpoint_before_it_intact(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning moves a checkpoint to its place, which is a copy where the temporary folder is another file system."""
    move, moves = shutil.move, 0

    def cut_short(source: str, target: str) -> None:
        nonlocal moves
        moves += 1
        if moves < 3:  # the first epoch's best and last, and then the second's last
            move(source, target)
        else:
            Path(target).write_bytes(Path(source).read_bytes()[:1000])
            raise Stopped

    monkeypatch.setattr("shutil.move", cut_short)
    frozen = functools.partial(torch.optim.SGD, lr=0.0)  # the first epoch stays the best
    with pytest.raises(Stopped):
        make_trainer(default_root_dir="runs").fit(ldmi(*three_and_three(optimizer=frozen)), digits())
    (last,) = Path().rglob("last.ckpt")
    assert read_checkpoint(last)["epoch"] == 0


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


@pytest.mark.parametrize("moved", [False, True])
def test_a_folder_that_may_not_be_written_to_is_named(
    moved: bool, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning says nothing where a file cannot be opened, and speaks of fsspec where it cannot be moved to its place."""

    def denied(*_: Any, **__: Any) -> None:
        denial = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "somewhere")
        if moved:
            denial.__context__ = OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        raise denial

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.open", denied)
    with pytest.raises(PermissionError, match=r"Permission denied: 'runs/.+/warmup-best\.ckpt"):
        make_trainer(default_root_dir="runs").fit(ldmi(*three_and_three()), digits())


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
