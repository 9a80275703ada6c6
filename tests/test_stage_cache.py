"""Runs that differ in later stages only share the earlier ones, and end as if they did not."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import stage_runs
import torch
import yaml
from full_disks import room
from stage_runs import CONFIG, WARMUP_ALONE, fit
from stops import same

from ldmi_lightning.commands import main
from ldmi_lightning.runs.stage_cache import StageCache

METHODS = Path(__file__).parents[1] / "configs/methods"
REFINE = ["--config", str(METHODS / "dmi-refine.yaml"), "--model.refine.epochs", "2"]

pytestmark = pytest.mark.usefixtures("in_own_folder")
in_own_folder = stage_runs.in_own_folder  # a fixture


def left_in(folder: Path) -> dict[str, Any]:
    """Return the weights and the state of each stage, the results and the rows that a run has left."""
    found = {key: json.loads((folder / "results.json").read_text())[key] for key in ("noise", "stages")}
    with (folder / "metrics.csv").open() as file:
        found["rows"] = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    for path in folder.glob("*-*.ckpt"):
        saved = torch.load(path, weights_only=True)
        backbone = {name: value for name, value in saved["state_dict"].items() if name.startswith("backbone.")}
        found |= {f"{path.name} weights": backbone, f"{path.name} progress": saved["ldmi_lightning"]["progress"]}
    return found


def taken(printed: str) -> list[str]:
    """Return the stages that a run said it took from the cache."""
    return [line.partition(":")[0] for line in printed.splitlines() if ": taken from " in line]


def test_run_after_shared_stages_ends_as_one_that_trained_them_itself(capsys: pytest.CaptureFixture[str]) -> None:
    fit("warm", *WARMUP_ALONE)
    assert taken(capsys.readouterr().out) == []
    dmi = fit("dmi")
    assert taken(capsys.readouterr().out) == ["warmup"]
    refined = fit("refined", *REFINE)
    assert taken(capsys.readouterr().out) == ["warmup", "robust"]
    assert same(left_in(dmi), left_in(fit("dmi-alone", cache=None)))
    assert same(left_in(refined), left_in(fit("refined-alone", *REFINE, cache=None)))
    assert len(list(Path("cache").iterdir())) == 3
    capsys.readouterr()
    again = fit("again", *REFINE)
    assert taken(capsys.readouterr().out) == ["warmup", "robust", "refine"]
    assert same(left_in(refined), left_in(again))


def test_run_goes_on_where_a_stage_cannot_be_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StageCache, "keep", full)
    folder = fit("first", *WARMUP_ALONE)
    assert "warmup is not kept in cache: No space left on device." in capsys.readouterr().out
    assert (folder / "results.json").is_file()


def test_run_goes_on_where_the_disk_is_full(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = StageCache.keep

    def keep(*args: Any) -> None:
        with room(20_000):  # less than a checkpoint, of which PyTorch says RuntimeError
            whole(*args)

    monkeypatch.setattr(StageCache, "keep", keep)
    folder = fit("first")
    printed = capsys.readouterr().out
    assert "warmup is not kept in cache: File too large." in printed
    assert "robust is not kept in cache: File too large." in printed
    assert (folder / "results.json").is_file()
    assert not list(Path("cache").iterdir())


# -- stages of any name, and of the user's own --------------------------------------------------------------------------


MORE = """\
model:
  init_args:
    more_stages:
      polish: {loss: {class_path: ldmi_lightning.losses.GCELoss}, epochs: 1}
"""


@pytest.mark.slow
def test_further_stages_share_what_comes_before_them(capsys: pytest.CaptureFixture[str]) -> None:
    Path("more.yaml").write_text(MORE)
    Path("longer.yaml").write_text(MORE.replace("epochs: 1", "epochs: 2"))
    fit("one", "--config", "more.yaml")
    capsys.readouterr()
    longer = fit("longer", "--config", "longer.yaml")
    assert taken(capsys.readouterr().out) == ["warmup", "robust"]
    again = fit("again", "--config", "longer.yaml")
    assert taken(capsys.readouterr().out) == ["warmup", "robust", "polish"]
    alone = left_in(fit("alone", "--config", "longer.yaml", cache=None))
    assert list(alone["stages"]) == ["warmup", "robust", "refine", "polish"]
    assert same(left_in(longer), alone)
    assert same(left_in(again), alone)


OWN = """\
from torch import nn

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.losses import CELoss


class Own(LDMIModule):
    def __init__(self, backbone: nn.Module, num_classes: int) -> None:
        super().__init__(backbone, num_classes, warmup=Stage(CELoss(), epochs=1))
"""


def test_stages_that_a_subclass_builds_itself_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("own_stages.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    backbone = {"class_path": "ldmi_lightning.models.DigitsCNN"}
    config = {
        "data": "DigitsDataModule",
        "model": {"class_path": "own_stages.Own", "init_args": {"backbone": backbone}},
    }
    Path("own.yaml").write_text(yaml.safe_dump(config))
    words = ["fit", "--config", "own.yaml", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
    assert main([*words, "--stage_cache", "cache"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--stage_cache tells stages apart by the configuration, which gives none to own_stages.Own" in error
    assert main(words) == 0


# -- shared checkpoints as the run's own ----------------------------------------------------------------------------------


def test_test_and_resume_take_a_shared_checkpoint_for_the_runs_own(capsys: pytest.CaptureFixture[str]) -> None:
    fit("warm", *WARMUP_ALONE)
    folder = fit("dmi")
    results = json.loads((folder / "results.json").read_text())["stages"]["warmup"]
    capsys.readouterr()
    assert main(["test", "--ckpt_path", str(folder / "warmup-best.ckpt")]) == 0
    shown = re.search(r"test/acc\W+([\d.]+)", capsys.readouterr().out)
    assert shown is not None
    assert float(shown[1]) == pytest.approx(results["test_acc"], abs=1e-5)
    assert main(["fit", "--ckpt_path", str(folder / "last.ckpt"), "--model.robust.patience", "5"]) == 0
    assert json.loads((folder / "results.json").read_text())["stages"]["warmup"] == results


@pytest.mark.parametrize("flags", [["--trainer.enable_checkpointing", "false"], ["--trainer.fast_dev_run", "1"]])
def test_cache_without_checkpoints_is_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", CONFIG, "--stage_cache", "cache", *flags]) == 2
    assert "--stage_cache needs checkpoints" in capsys.readouterr().err


def test_cache_that_can_be_no_folder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("cache").write_text("a file")
    assert main(["fit", "--config", CONFIG, "--stage_cache", "cache"]) == 2
    assert "--stage_cache cache can be no folder" in capsys.readouterr().err
