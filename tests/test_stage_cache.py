"""Runs that differ in later stages only share the earlier ones, and end as if they did not."""

import csv
import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from full_disks import room
from stops import same

from ldmi_lightning.commands import main
from ldmi_lightning.datamodules import DigitsDataModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import PairFlipNoise
from ldmi_lightning.runs.stage_cache import StageCache, code_fingerprint, keys_of, remove_unfinished, tag_of

CONFIG = str(Path(__file__).parents[1] / "configs/quickstart.yaml")
METHODS = Path(__file__).parents[1] / "configs/methods"
SHORT = ["--model.warmup.epochs", "2", "--model.robust.epochs", "2", "--trainer.enable_progress_bar", "false"]
REFINE = ["--config", str(METHODS / "dmi-refine.yaml"), "--model.refine.epochs", "2"]
WARMUP_ALONE = ["--model.robust", "null"]


@pytest.fixture
def in_own_folder(in_own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDMI_SHARED_STAGES", "")


pytestmark = pytest.mark.usefixtures("in_own_folder")


def fit(name: str, *flags: str, cache: str | None = "cache") -> Path:
    """Return the folder of a run, below ``name``."""
    shared = ["--stage_cache", cache] if cache else []
    assert main(["fit", "--config", CONFIG, *SHORT, "--trainer.default_root_dir", name, *shared, *flags]) == 0
    (folder,) = Path(name).iterdir()
    return folder


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


# -- what an entry is known by ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> DigitsDataModule:
    data = DigitsDataModule(PairFlipNoise(0.3, seed=0))
    data.setup("fit")
    return data


def configuration(**of_the_model: Any) -> dict[str, Any]:
    """Return a configuration in plain types."""
    ce = {"loss": {"class_path": "ldmi_lightning.losses.CELoss"}, "epochs": 3, "patience": None}
    model = {"backbone": {"class_path": "ldmi_lightning.models.DigitsCNN"}, "warmup": ce, "robust": ce, "refine": None}
    return {
        "seed_everything": 1,
        "trainer": {"precision": None, "gradient_clip_val": None, "logger": True, "default_root_dir": "here"},
        "data": {"class_path": "DigitsDataModule", "init_args": {"batch_size": 128, "root": "here"}},
        "model": {"class_path": "LDMIModule", "init_args": {**model, **of_the_model}},
    }


def changed(*place: str, value: Any) -> dict[str, Any]:
    """Return the configuration with one setting changed."""
    config = configuration()
    nest = config
    for key in place[:-1]:
        nest = nest[key]
    nest[place[-1]] = value
    return config


def test_later_stages_and_harmless_settings_leave_a_key_alone(digits: DigitsDataModule) -> None:
    keys = keys_of(configuration(), digits)
    assert list(keys) == ["warmup", "robust"]
    scheduler = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1}}
    other = {"loss": {"class_path": "ldmi_lightning.losses.DMILoss"}, "epochs": 3, "scheduler": scheduler}
    assert keys_of(configuration(robust=other), digits)["warmup"] == keys["warmup"]
    assert keys_of(configuration(robust=other), digits)["robust"] != keys["robust"]
    assert keys_of(configuration(robust=None), digits) == {"warmup": keys["warmup"]}
    assert keys_of(configuration(refine=other), digits).items() >= keys.items()
    for place in (["trainer", "logger"], ["trainer", "default_root_dir"], ["data", "init_args", "root"]):
        assert keys_of(changed(*place, value="there"), digits) == keys


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["seed_everything"], 2),
        (["data", "init_args", "batch_size"], 32),
        (["trainer", "precision"], "bf16-mixed"),
        (["trainer", "gradient_clip_val"], 1.0),
        (["model", "init_args", "backbone", "class_path"], "ldmi_lightning.models.FashionCNN"),
        (["model", "init_args", "warmup", "epochs"], 2),
        (["model", "init_args", "warmup", "patience"], 2),
    ],
)
def test_setting_that_counts_changes_all_keys(place: list[str], value: Any, digits: DigitsDataModule) -> None:
    other, own = keys_of(changed(*place, value=value), digits), keys_of(configuration(), digits)
    assert not set(other.values()) & set(own.values())


def test_other_labels_inputs_and_code_change_all_keys(
    digits: DigitsDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [keys_of(configuration(), digits)]
    relabelled = DigitsDataModule(PairFlipNoise(0.3, seed=1))
    relabelled.setup("fit")
    seen.append(keys_of(configuration(), relabelled))
    shifted = DigitsDataModule(PairFlipNoise(0.3, seed=0))
    shifted.setup("fit")
    shifted.splits["val"].x[0, 0, 0, 0] += 1
    seen.append(keys_of(configuration(), shifted))
    monkeypatch.syspath_prepend(str(tmp_path))
    for code in ("", "# changed"):  # a class of the user's own
        (tmp_path / "own_net.py").write_text(code)
        seen.append(keys_of(changed("model", "init_args", "backbone", "class_path", value="own_net.Net"), digits))
    weights = tmp_path / "weights.pth"
    for content in ("one", "two"):
        weights.write_text(content)
        seen.append(keys_of(configuration(warm_start=str(weights)), digits))
    monkeypatch.setattr("ldmi_lightning.runs.stage_cache.code_fingerprint", lambda: "another version")
    seen.append(keys_of(configuration(), digits))
    assert len({key for keys in seen for key in keys.values()}) == 2 * len(seen)


def test_code_is_every_source_file_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_package"
    package.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("ldmi_lightning.runs.stage_cache.PACKAGES", ("some_package",))
    seen = set()
    for name, text in (("__init__.py", ""), ("deep.py", "1"), ("deep.py", "2"), ("other.py", "2")):
        (package / name).write_text(text)
        seen.add(code_fingerprint())
    assert len(seen) == 4


# -- damage, and many at once -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that has warmed up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("finished"))
        patch.setenv("PL_GLOBAL_SEED", "0")
        return fit("run", *WARMUP_ALONE, cache=None).absolute()


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
@pytest.mark.parametrize("harm", ["cut", "flip", "empty"])
def test_damaged_entry_is_never_used_and_made_anew(name: str, harm: str, finished: Path) -> None:
    cache = StageCache("cache", {"warmup": "a" * 32})
    cache.keep("warmup", finished)
    assert cache.finished() == ["warmup"]
    content = bytearray((cache.entry("warmup") / name).read_bytes())
    content[len(content) // 2] ^= 1
    harmed = {"cut": content[:-100], "flip": content, "empty": b""}[harm]
    (cache.entry("warmup") / name).write_bytes(bytes(harmed))
    assert cache.finished() == []
    cache.keep("warmup", finished)
    assert cache.finished() == ["warmup"]


def test_entry_without_its_last_checkpoint_is_never_used(finished: Path) -> None:
    cache = StageCache("cache", {"warmup": "a" * 32})
    cache.keep("warmup", finished)
    (cache.entry("warmup") / "last.ckpt").unlink()
    assert cache.finished() == []


def test_stage_is_shared_only_with_all_before_it(finished: Path) -> None:
    shutil.copytree(finished, "run")
    for which in ("best", "last"):
        shutil.copyfile(f"run/warmup-{which}.ckpt", f"run/robust-{which}.ckpt")
    cache = StageCache("cache", {"warmup": "a" * 32, "robust": "b" * 32})
    cache.keep("robust", Path("run"))
    assert cache.finished() == []
    cache.keep("warmup", Path("run"))
    assert cache.finished() == ["warmup", "robust"]


def test_entry_is_seen_whole_or_not_at_all_by_runs_that_keep_it_at_once(finished: Path) -> None:
    cache = StageCache("cache", {"warmup": "a" * 32})
    seen: list[list[str]] = []
    both = threading.Barrier(4)

    def keep() -> None:
        both.wait()
        cache.keep("warmup", finished)
        seen.append(cache.finished())

    threads = [threading.Thread(target=keep) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert seen == [["warmup"]] * 4
    assert [path.name for path in Path("cache").iterdir()] == ["a" * 32]


def test_what_a_run_was_keeping_when_it_was_killed_is_removed_by_its_own_next_process_alone() -> None:
    for run in ("mine", "other"):
        Path(f"cache/{tag_of(Path(run))}-{'0' * 32}.tmp").mkdir(parents=True)
    remove_unfinished("cache", Path("mine"))
    assert [path.name.partition("-")[0] for path in Path("cache").iterdir()] == [tag_of(Path("other"))]


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


# -- links ------------------------------------------------------------------------------------------------------------


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_linked_entry_is_not_followed_and_a_real_one_takes_its_place(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = StageCache("cache", {"warmup": "a" * 32})
    elsewhere = StageCache(tmp_path / "elsewhere", cache.keys)
    elsewhere.keep("warmup", finished)
    before = content_of(elsewhere.entry("warmup"))
    for act in (lambda: cache.finished() == [], lambda: cache.keep("warmup", finished) is None):
        shutil.rmtree("cache", ignore_errors=True)
        Path("cache").mkdir()
        cache.entry("warmup").symlink_to(elsewhere.entry("warmup"))
        assert act()
        printed = capsys.readouterr().out
        assert printed.count("\n") == 1
        assert f"{cache.entry('warmup')} is a symbolic link, which is not followed" in printed
        cache.keep("warmup", finished)
        assert not cache.entry("warmup").is_symlink()
        assert cache.finished() == ["warmup"]
        assert content_of(elsewhere.entry("warmup")) == before


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt", "metrics.csv"])
def test_entry_that_holds_a_link_is_not_used_and_what_it_points_to_is_left_alone(
    name: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = StageCache("cache", {"warmup": "a" * 32})
    cache.keep("warmup", finished)
    planted = cache.entry("warmup") / name
    planted.rename("target")  # a file that would be taken for the real one
    before = Path("target").read_bytes()
    planted.symlink_to(Path("target").absolute())
    assert cache.finished() == []
    assert "holds a symbolic link, which is not followed: it is removed." in capsys.readouterr().out
    cache.keep("warmup", finished)
    assert cache.finished() == ["warmup"]
    assert not planted.is_symlink()
    assert Path("target").read_bytes() == before


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


def test_keys_follow_the_order_of_further_stages(digits: DigitsDataModule) -> None:
    ce = configuration()["model"]["init_args"]["warmup"]
    keys = keys_of(configuration(more_stages={"a": ce, "b": ce}), digits)
    assert list(keys) == ["warmup", "robust", "a", "b"]
    assert keys_of(configuration(more_stages={"a": ce}), digits).items() <= keys.items()
    other = keys_of(configuration(more_stages={"b": ce, "a": ce}), digits)
    assert {name for name in keys if keys[name] == other[name]} == {"warmup", "robust"}
    assert keys_of(configuration(more_stages=None), digits) == keys_of(configuration(), digits)


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


def test_stages_that_the_configuration_does_not_name_are_refused(digits: DigitsDataModule) -> None:
    assert keys_of(configuration(), digits, ["warmup", "robust"]) == keys_of(configuration(), digits)
    with pytest.raises(
        UserError, match="gives warmup, robust to LDMIModule, but it has warmup, own, robust: leave it out"
    ):
        keys_of(configuration(), digits, ["warmup", "own", "robust"])


def test_weights_that_were_given_are_no_stage_to_keep(finished: Path) -> None:
    fit("given", "--model.warm_start", str(finished / "warmup-best.ckpt"))
    (entry,) = Path("cache").iterdir()
    assert sorted(path.name for path in entry.iterdir()) == ["best.ckpt", "last.ckpt", "metrics.csv"]
    assert torch.load(entry / "last.ckpt", weights_only=True)["ldmi_lightning"]["progress"]["stage"] == "robust"


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
