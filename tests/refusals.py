"""The one line in which a call, or a command, is refused: shared by many tests."""

from collections.abc import Callable

import pytest

from ldmi_lightning.commands import main
from ldmi_lightning.errors import UserError


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def error(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run a command that must fail, and return its one line."""
    assert main(list(args)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("ldmi: error: ")
    return lines[0]
