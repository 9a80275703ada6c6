"""The ``ldmi`` command: a table of commands, one file for each, imported only when it is called."""

import difflib
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

from ldmi_lightning.commands.mistakes import line_of
from ldmi_lightning.commands.output import show
from ldmi_lightning.commands.signals import ENDING, LOST, Stopped
from ldmi_lightning.errors import UserError


class Command(NamedTuple):
    """A command.

    Attributes:
        module: what carries it out: its ``run`` takes the words after ``ldmi``, and returns the exit code.
        description: what ``ldmi --help`` says of it.
    """

    module: str
    description: str


COMMANDS = {
    "fit": Command(
        "ldmi_lightning.commands.fit",
        "train all stages, test each, and keep all of it in a folder of the run's own",
    ),
    "validate": Command(
        "ldmi_lightning.commands.evaluate", "show a checkpoint's val/acc, val/log_dmi, ... on the validation set"
    ),
    "test": Command("ldmi_lightning.commands.evaluate", "show a checkpoint's accuracy on the test set"),
    "predict": Command(
        "ldmi_lightning.commands.predict",
        "write a checkpoint's predictions of the test set, or of new samples, to files",
    ),
    "noise": Command(
        "ldmi_lightning.commands.noise",
        "show what label noise does to a data set, and keep the labels, without training",
    ),
    "audit": Command("ldmi_lightning.commands.audit", "find the labels that are wrong, and write a clean label file"),
    "benchmark": Command(
        "ldmi_lightning.commands.benchmark", "carry out a grid of runs, and write its table and figure"
    ),
    "report": Command(
        "ldmi_lightning.commands.report", "write one page of HTML on a run, or on several runs side by side"
    ),
    "export": Command(
        "ldmi_lightning.commands.export", "write a run's model as an ONNX graph, for programs without this package"
    ),
}

DESCRIPTION = "Train classifiers on labels that cannot be trusted: a cross-entropy warm-up, then L_DMI, in one fit."


def main(args: list[str] | None = None) -> int:
    """Carry out the command; return its exit code."""
    words = list(sys.argv[1:] if args is None else args)
    if words[:1] in (["-h"], ["--help"]):
        show(help_page())
        return 0
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        # So that `--model.backbone my_module.MyNet` finds a file in the working directory, as `python` itself would.
        sys.path.append(str(Path.cwd()))
    try:
        with ENDING:
            return carry_out(words)
    except (UserError, OSError, RuntimeError) as error:
        line = line_of(error, *words[:1])
        if os.environ.get("LDMI_TRACEBACK") or not line:
            raise
        print(f"ldmi: error: {line}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"ldmi: {f'error: {LOST}' if ENDING.lost else stopped}", file=sys.stderr)
        return 2 if ENDING.lost else 128 + stopped.number
    except KeyboardInterrupt:  # outside of Lightning's loops, which answer it with exit code 1
        print("ldmi: stopped by Ctrl-C.", file=sys.stderr)
        return 128 + signal.SIGINT


def carry_out(words: list[str]) -> int:
    """Find the command in the table, and run it."""
    remedy = f"Choose from {', '.join(COMMANDS)}; `ldmi --help` says what each does."
    if not words:
        raise UserError(f"A command is missing. {remedy}")
    if words[0].startswith("-"):
        meant = [word for word in words if word in COMMANDS][-1:] or ["COMMAND"]
        options = " ".join(word for word in words if word not in meant)
        raise UserError(f"The command comes first, and its options after it: ldmi {meant[0]} {options}")
    if words[0] not in COMMANDS:
        close = difflib.get_close_matches(words[0], COMMANDS, n=1)
        raise UserError(" ".join([f"{words[0]} is no command.", *(f"Did you mean {each}?" for each in close), remedy]))
    if any("help" in word or word == "-h" for word in words[1:]):
        page = importlib.import_module("ldmi_lightning.commands.help").page_of(words)
        if page is not None:
            show(page)
            raise SystemExit(0)
    run = importlib.import_module(COMMANDS[words[0]].module).run
    return int(run(words[1:], parse_fit) if words[0] == "benchmark" else run(words))


def parse_fit(words: list[str]) -> dict[str, Any]:
    """Return the whole configuration of ``ldmi fit`` for the words after ``ldmi``, defaults included."""
    found: dict[str, Any] = importlib.import_module("ldmi_lightning.commands.configuration").parse_fit(words)
    return found


def help_page() -> str:
    """Return what ``ldmi --help`` prints: all commands on one page."""
    commands = "\n".join(f"  {name:10} {command.description}" for name, command in COMMANDS.items())
    return (
        f"usage: ldmi COMMAND [--config FILE] [OPTIONS]\n\n{DESCRIPTION}\n\ncommands:\n{commands}\n\n"
        "`ldmi COMMAND --help` lists the options of a command; each can stand in a YAML file, too."
    )
