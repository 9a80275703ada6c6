"""README's code blocks, run from top to bottom as a reader would."""

import re
import shlex
from pathlib import Path

import pytest

from ldmi_lightning.cli import main

REPO = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (REPO / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE)


def test_the_python_blocks_and_the_command_for_an_own_backbone_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, object] = {"__name__": "readme"}
    for language, code in BLOCKS:
        file = re.match(r"# (\w+\.py)\n", code)
        if language == "python" and file:
            (tmp_path / file[1]).write_text(code)
        elif language == "python":
            exec(compile(code, "README.md", "exec"), names)
        elif "my_backbones" in code:
            (line,) = code.strip().splitlines()
            quick = [
                "--model.warmup.epochs",
                "1",
                "--model.robust.epochs",
                "1",
                "--trainer.enable_progress_bar",
                "false",
            ]
            assert main([*shlex.split(line.replace("configs/", f"{REPO}/configs/"))[1:], *quick]) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 5


def test_the_configs_that_the_commands_name_exist_and_the_options_are_known() -> None:
    from ldmi_lightning.cli import LDMICLI

    for language, code in BLOCKS:
        for line in code.splitlines() if language == "console" else []:
            for config in re.findall(r"configs/\w+\.yaml", line):
                assert (REPO / config).is_file(), line
    assert LDMICLI.subcommands().keys() >= {"fit", "validate", "test", "predict"}
