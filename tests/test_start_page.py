"""The ten minutes of docs/start.md: each command is run, in the order in which the page shows them, only shorter."""

import re
import shlex
from pathlib import Path

import pytest

from ldmi_lightning.commands import main

REPO = Path(__file__).parents[1]
PAGE = (REPO / "docs" / "start.md").read_text()
SHORT = ["--model.warmup.epochs", "2", "--model.robust.epochs", "2", "--trainer.enable_progress_bar", "false"]
SHORT += ["--trainer.logger", "false"]


@pytest.mark.slow
def test_the_commands_lead_to_an_audited_data_set_and_a_run_on_it(
    in_own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_own_folder / "configs").symlink_to(REPO / "configs")
    commands = re.findall(r"^ldmi (.*)$", PAGE, flags=re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["fit", "audit", "fit"]
    for command in commands:
        folder = next((path.name for path in in_own_folder.glob("audits/*")), "FOLDER")
        assert main([*shlex.split(command.replace("FOLDER", folder)), *SHORT]) == 0, command
    said = capsys.readouterr().out
    (audit,) = in_own_folder.glob("audits/*/audit")
    for file in re.findall(r"^- `([\w.]+)`", PAGE, flags=re.MULTILINE):
        assert (audit / file).is_file(), file
    assert said.count("stage ") >= 2, "both runs end with their table"
    assert len(list(in_own_folder.glob("runs/*/results.json"))) == 2


def test_the_table_that_it_shows_is_that_of_readme() -> None:
    (table,) = re.findall(r"^```\n(stage .*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert table in (REPO / "README.md").read_text()
