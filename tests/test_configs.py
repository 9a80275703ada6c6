"""The shipped configurations: each is parsed, and so are the options in its comments and what takes a setting away."""

import shlex
from pathlib import Path

import pytest
import quickstart_runs
import yaml
from quickstart_runs import REPO

from ldmi_lightning.commands import main

in_own_folder = quickstart_runs.in_own_folder  # a fixture


@pytest.mark.parametrize(
    "config",
    [path for path in sorted((REPO / "configs").rglob("*.yaml")) if path.parent.name != "grids"],
    ids=lambda path: path.stem,
)
def test_every_shipped_config_parses(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(config), "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["init_args"]["warmup"]["loss"]["class_path"] == "ldmi_lightning.losses.CELoss"


@pytest.mark.slow
def test_the_fashion_mnist_config_runs_on_the_real_data() -> None:
    root = REPO.parent / "shared/data/fashion_mnist"
    if not root.is_dir():
        pytest.skip(f"needs Fashion-MNIST in {root}")
    config = ["--config", str(REPO / "configs/fashion_mnist.yaml"), "--data.root", str(root)]
    assert main(["fit", *config, "--trainer.fast_dev_run", "2", "--trainer.enable_progress_bar", "false"]) == 0


@pytest.mark.parametrize("given", [["null"], []])
def test_a_stages_setting_can_be_taken_away_on_the_command_line(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("scheduler", "optimizer", "patience")
    flags = [word for name in names for word in _option(f"--model.robust.{name}", given)]
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", str(REPO / "configs/clothing1m.yaml"), *flags, "--print_config"])
    assert end.value.code == 0
    stages = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert [stages["robust"][name] for name in names] == [None] * 3
    assert stages["robust"]["loss"]["init_args"] == {"memory": 0.0}
    assert stages["warmup"]["scheduler"] is not None


def _option(name: str, given: list[str]) -> list[str]:
    return [name, *given] if given else [f"{name}=null"]


def test_options_in_the_comments_of_the_configurations_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    seen = 0
    for path in sorted((REPO / "configs").glob("*.yaml")):
        comments = [line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#")]
        for line in comments:
            words = shlex.split(line[line.index("--") :].partition("...")[0]) if "--" in line else []
            if "FOLDER" in line or "FILE" in line or not words:
                continue
            with pytest.raises(SystemExit) as end:
                main(["fit", "--config", str(path), *words, "--print_config"])
            assert end.value.code == 0, (path, words)
            seen += 1
    capsys.readouterr()
    assert seen >= 10
