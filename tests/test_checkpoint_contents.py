"""Checkpoints with other contents are refused with one line, and a save that fails leaves the one before it intact."""

import errno
import functools
import io
import os
import shutil
from pathlib import Path
from typing import Any

import payloads
import pytest
import pytorch_lightning as pl
import torch
from conftest import MakeTrainer
from payloads import saved
from stops import Stopped, same
from test_resume import digits, ldmi, three_and_three

from ldmi_lightning.checkpoints import KEY, read_checkpoint
from ldmi_lightning.errors import UserError

in_own_folder = payloads.in_own_folder  # a fixture


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The last checkpoint of a short run from Python, of a network of 1,200 weights."""
    root = tmp_path_factory.mktemp("small")
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    pl.Trainer(**quiet, default_root_dir=root).fit(ldmi(*three_and_three(epochs=1)), digits())
    return next(root.glob("*/last.ckpt")).read_bytes()


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
