"""What a stage is known by in the cache: all that it follows from, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
import stage_runs
from stage_runs import configuration

from ldmi_lightning.datamodules import DigitsDataModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import PairFlipNoise
from ldmi_lightning.runs.stage_cache import code_fingerprint, keys_of

pytestmark = pytest.mark.usefixtures("in_own_folder")
in_own_folder = stage_runs.in_own_folder  # a fixture


@pytest.fixture(scope="module")
def digits() -> DigitsDataModule:
    data = DigitsDataModule(PairFlipNoise(0.3, seed=0))
    data.setup("fit")
    return data


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


def test_keys_follow_the_order_of_further_stages(digits: DigitsDataModule) -> None:
    ce = configuration()["model"]["init_args"]["warmup"]
    keys = keys_of(configuration(more_stages={"a": ce, "b": ce}), digits)
    assert list(keys) == ["warmup", "robust", "a", "b"]
    assert keys_of(configuration(more_stages={"a": ce}), digits).items() <= keys.items()
    other = keys_of(configuration(more_stages={"b": ce, "a": ce}), digits)
    assert {name for name in keys if keys[name] == other[name]} == {"warmup", "robust"}
    assert keys_of(configuration(more_stages=None), digits) == keys_of(configuration(), digits)


def test_stages_that_the_configuration_does_not_name_are_refused(digits: DigitsDataModule) -> None:
    assert keys_of(configuration(), digits, ["warmup", "robust"]) == keys_of(configuration(), digits)
    with pytest.raises(
        UserError, match="gives warmup, robust to LDMIModule, but it has warmup, own, robust: leave it out"
    ):
        keys_of(configuration(), digits, ["warmup", "own", "robust"])
