"""Every mistake that docs/errors.md lists, made for real: one line, the next step in it, and nothing left behind.

The page is the tables of mistakes, rendered. After a change: ``make errors`` writes it anew.
"""

import os
import shlex
import sys
import textwrap
from pathlib import Path

import pytest
from data_mistakes import DATA_MISTAKES
from mistakes import Mistake
from run_mistakes import RUN_MISTAKES

from ldmi_lightning.commands import main
from ldmi_lightning.errors import UserError

pytestmark = pytest.mark.usefixtures("hub_of_its_own")

REPO = Path(__file__).parents[1]
PAGE = REPO / "docs/errors.md"
CONFIG = "configs/quickstart.yaml"
MISTAKES = [*DATA_MISTAKES, *RUN_MISTAKES]


def line_of(mistake: Mistake, capsys: pytest.CaptureFixture[str]) -> str:
    """Make the mistake; return the one line that it gets."""
    for name, content in mistake.files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(textwrap.dedent(content))
    if mistake.call is not None:
        with pytest.raises(UserError) as raised:
            mistake.call()
        return str(raised.value)
    command, *args = shlex.split(mistake.done, comments=True)[1:]
    quiet = ["--config", str(REPO / CONFIG), "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
    with mistake.where():
        code = main([command, *(quiet if command == "fit" else []), *args])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert code != 0
    return line.replace(f"{Path.cwd()}/", "")


@pytest.fixture(autouse=True)
def in_own_folder(in_own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(in_own_folder))


def rows() -> dict[str, str]:
    """Return the page's lines by mistake."""
    cells = [row.strip("|\n").split(" | ") for row in PAGE.read_text().splitlines() if row.startswith("| `")]
    return {cell[0].strip().strip("`"): cell[1].strip() for cell in cells}


@pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake.done for mistake in MISTAKES])
def test_the_mistake_gets_the_line_of_the_page(mistake: Mistake, capsys: pytest.CaptureFixture[str]) -> None:
    line = line_of(mistake, capsys)
    left = {path.relative_to(Path.cwd()).as_posix() for path in Path.cwd().rglob("*") if path.is_file()}
    assert {name for name in left if not name.endswith(".pyc")} == set(mistake.files), "something was left behind"
    if "WRITE_ERRORS" in os.environ:
        with Path(os.environ["WRITE_ERRORS"]).open("a") as notes:
            notes.write(f"{mistake.group}\t{mistake.done}\t{line}\n")
    else:
        assert line.replace("|", "\\|") == rows()[mistake.done]


def test_the_page_lists_these_mistakes_and_at_least_forty() -> None:
    assert list(rows()) == [mistake.done for mistake in MISTAKES]
    assert len(MISTAKES) >= 40


HEAD = """# What goes wrong, and what it says

Each of these mistakes was made for real, and got this one line; `make test` makes them again. A command's line goes to
stderr, with an exit code other than 0; from Python it is the message of an `ldmi_lightning.errors.UserError`. Commands
stand here without `--config configs/quickstart.yaml`. With `LDMI_TRACEBACK=1` a command shows the whole traceback.
"""

TAIL = """
## What a run survives

No mistakes, but accidents: a run says one line, and loses nothing (`tests/test_kills.py`, `tests/test_wandb.py`).

| accident | line |
|---|---|
| Ctrl-C, SIGTERM or `--trainer.max_time` | The run has stopped early. Go on with --ckpt_path=RUN/last.ckpt |
| kill -9, or no more power | none: go on with `--ckpt_path RUN/last.ckpt` |
| W&B cannot be reached, or refuses the key | W&B: (what it says) The run is kept offline, in its folder. |
| no W&B key | W&B: offline, in the run folder, since no key is configured (`wandb login`). |
"""


def render(notes: str) -> str:
    """Return the page for lines of `group<TAB>mistake<TAB>message`."""
    page, group = HEAD, ""
    for row in notes.splitlines():
        here, done, line = row.split("\t")
        if here != group:
            page += f"\n## {here}\n\n| mistake | line |\n|---|---|\n"
            group = here
        page += f"| `{done}` | {line.replace('|', chr(92) + '|')} |\n"
    return page + TAIL


if __name__ == "__main__":
    PAGE.write_text(render(Path(sys.argv[1]).read_text()))
