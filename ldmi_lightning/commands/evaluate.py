"""``ldmi validate`` and ``ldmi test``: show what a checkpoint is worth."""

from ldmi_lightning.commands.configuration import in_order
from ldmi_lightning.commands.lightning import LDMICLI, Run, carry_out


def run(words: list[str]) -> int:
    """Carry out the command that the first word names; return its exit code."""
    return carry_out(lambda run: evaluate(words, run))


def evaluate(words: list[str], run: Run) -> None:
    """Validate or test a checkpoint; Lightning prints the figures."""
    cli = LDMICLI(words[0], in_order(words), run)
    getattr(cli.trainer, cli.command)(**cli.arguments())
