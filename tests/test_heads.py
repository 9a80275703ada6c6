"""Weights of another head, and classes in another order: what is new, and what is mapped, is right and is said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from blobs import ADAM, Blobs, ce, dmi, equal, fit, run_folder, weights
from conftest import MakeTrainer
from torch import nn

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.datamodules.base import Examples
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import ForwardLoss
from ldmi_lightning.training.predictions import predict_split

# -- a head of another number of classes --------------------------------------------------------------------------------


def net(classes: int = 3, width: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, classes))


def given(folder: Path, **sizes: int) -> Path:
    torch.manual_seed(7)
    torch.save(net(**sizes).state_dict(), folder / "given.pt")
    return folder / "given.pt"


def warm(path: Path, *stages: Any) -> LDMIModule:
    pl.seed_everything(1, verbose=False)
    return LDMIModule(net(), 3, *(stages or (ce(1), dmi(1))), warm_start=str(path))


def test_a_head_of_other_classes_begins_anew_and_the_first_stage_trains_it(
    make_trainer: MakeTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = given(tmp_path, classes=10)
    module = warm(path)
    own, saved = weights(module), torch.load(path, weights_only=True)
    watch = fit(make_trainer, module, default_root_dir=tmp_path / "runs")
    start = watch.epochs[0].start
    assert watch.stages == ["warmup", "robust"]
    assert all(torch.equal(start[name], saved[name]) for name in ("0.weight", "0.bias"))
    assert all(torch.equal(start[name], own[name]) for name in ("2.weight", "2.bias"))
    assert (
        f"warm_start: {path} is of another number of classes: 2.weight, 2.bias begin anew, and warmup is trained, too."
        in capsys.readouterr().out.splitlines()
    )


def test_a_head_that_fits_is_taken_and_the_first_stage_is_skipped(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    path = given(tmp_path)
    watch = fit(make_trainer, warm(path), default_root_dir=tmp_path / "runs")
    assert watch.stages == ["robust"]
    assert equal(watch.epochs[0].start, torch.load(path, weights_only=True))


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"width": 3}, r"0\.weight is \(3, 3\) in the checkpoint, but \(5, 3\) in the model"),
        ({"width": 7, "classes": 10}, r"0\.weight is \(7, 3\)"),
    ],
)
def test_what_misfits_elsewhere_is_refused_as_before(
    sizes: dict[str, int], said: str, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    path = given(tmp_path, **sizes)
    with pytest.raises(UserError, match=rf"warm_start .* holds weights of another backbone: {said}"):
        fit(make_trainer, warm(path), default_root_dir=tmp_path / "runs")


@pytest.mark.parametrize("kept", ["state_dict", "model", "old format"])
def test_weights_are_found_as_other_code_keeps_them(
    kept: str, make_trainer: MakeTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = given(tmp_path)
    weights = torch.load(path, weights_only=True)
    old = kept == "old format"
    torch.save(weights if old else {kept: weights, "epoch": 3}, path, _use_new_zipfile_serialization=not old)
    watch = fit(make_trainer, warm(path), default_root_dir=tmp_path / "runs")
    assert equal(watch.epochs[0].start, weights)
    assert (f"the weights under '{kept}' in {path} are taken" in capsys.readouterr().out) != old


def test_a_damaged_file_of_someone_elses_is_refused(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    path = given(tmp_path)
    weights = torch.load(path, weights_only=True)
    torch.save({"state_dict": weights}, path)
    data = bytearray(path.read_bytes())
    data[data.index(weights["0.weight"].numpy().tobytes()) + 3] ^= 0x41
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="cannot be used"):
        fit(make_trainer, warm(path), default_root_dir=tmp_path / "runs")


def test_torchvisions_weights_for_a_thousand_classes_are_taken(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(3)
    torch.save(models.squeezenet1_1().state_dict(), tmp_path / "given.pt")
    backbone = models.squeezenet1_1(num_classes=3)
    module = LDMIModule(backbone, 3, ce(1), dmi(1), warm_start=str(tmp_path / "given.pt"))
    trainer = make_trainer(fast_dev_run=1)
    trainer.fit(module, Pictures())
    assert module.stage_summaries()["warmup"]["epochs"] == 1


class Pictures(Blobs):
    """Six pictures in three colours."""

    def load(self) -> dict[str, Examples]:
        random = np.random.RandomState(0)

        def examples(n: int) -> Examples:
            return Examples(torch.from_numpy(random.randn(n, 3, 32, 32)).float(), np.arange(n) % 3, np.arange(n))

        return {"train": examples(6), "val": examples(6), "test": examples(3)}


# -- classes in another order -------------------------------------------------------------------------------------------

ORDER = [2, 0, 1]
"""Where each class of the reordered data stands among the first's."""


class Reordered(Blobs):
    """The same points and labels; the classes are numbered in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.class_names = [self.class_names[at] for at in ORDER]

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if not getattr(self, "turned", False):
            self.turned, to = True, torch.tensor(ORDER).argsort()
            for split in self.splits.values():
                split.y, split.y_clean = to[split.y], to[split.y_clean]


def trained(make_trainer: MakeTrainer, root: Path) -> tuple[LDMIModule, Path]:
    pl.seed_everything(1, verbose=False)
    module = LDMIModule(nn.Linear(3, 3), 3, ce(2), Stage(ForwardLoss(), 2, ADAM))
    fit(make_trainer, module, default_root_dir=root)
    return module, run_folder(root) / "robust-best.ckpt"


def fresh() -> LDMIModule:
    return LDMIModule(nn.Linear(3, 3), 3, ce(2), Stage(ForwardLoss(), 2, ADAM))


@pytest.mark.parametrize("loaded", [True, False])
def test_classes_in_another_order_are_mapped_and_the_figures_are_the_same(
    loaded: bool, make_trainer: MakeTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, path = trained(make_trainer, tmp_path / "runs")
    used: dict[str, Any] = {"ckpt_path": path}
    figures, outputs = [], []
    for data in (Blobs(), Reordered()):
        trainer, model = make_trainer(), fresh()
        if loaded:
            model = LDMIModule.load_from_checkpoint(
                path, backbone=nn.Linear(3, 3), warmup=ce(2), robust=Stage(ForwardLoss(), 2, ADAM)
            )
            used = {}
        capsys.readouterr()
        (validated,) = trainer.validate(model, data, verbose=False, **used)
        (tested,) = trainer.test(model, data, verbose=False, **used)
        rows = trainer.predict(model, data, **used)
        assert rows is not None
        figures.append({**validated, **tested})
        outputs.append(torch.cat([probs for _, probs in rows]))
        said = capsys.readouterr().out
        line = "The checkpoint's classes are put into the order of the data: cedar, ash, birch."
        assert said.count(line) == (1 if isinstance(data, Reordered) else 0)
        split = predict_split(model, data.val_dataloader())
        accuracy = float((split.probs.argmax(1) == split.y).double().mean())
        assert accuracy == pytest.approx(figures[-1]["val/acc"])
    assert figures[0]["test/acc"] > 0.5
    assert figures[1] == pytest.approx(figures[0])
    assert torch.equal(outputs[1], outputs[0][:, ORDER])
    assert module.chosen is not None


def test_a_fit_after_that_takes_the_datas_own_order(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    module, _ = trained(make_trainer, tmp_path / "runs")
    trainer = make_trainer(default_root_dir=tmp_path / "again")
    trainer.test(module, Reordered(), verbose=False)
    assert module.class_order == ORDER
    trainer.fit(module, Reordered())
    assert (module.class_order, module.class_names) == (None, ["cedar", "ash", "birch"])
