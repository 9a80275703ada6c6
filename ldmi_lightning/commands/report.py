"""``ldmi report``: one page of HTML on one run, or on several side by side.

What its help says stands here; ``report_run`` carries it out.
"""

import argparse
import importlib
from typing import NoReturn

from ldmi_lightning.errors import UserError

DESCRIPTION = """\
Write one self-contained HTML file on one run, or on several side by side: results of the stages, curves, U before and
after each stage, T beside T̂, confusion and accuracy of each class on the test set, singular steps, the noise and the
configuration. It needs no network, can be mailed, and can be read on paper, on a phone, in light and in dark.

A run that has not ended is reported as far as it has come.
"""


class ReportParser(argparse.ArgumentParser):
    """The parser of ``ldmi report``."""

    def error(self, message: str) -> NoReturn:
        """Raise a :class:`UserError`."""
        raise UserError(f"{message}. `ldmi report --help` lists the options.")


def run(words: list[str]) -> int:
    """Carry out ``ldmi report``; return its exit code.

    Args:
        words: the words after ``ldmi``.
    """
    options = parser().parse_args(words[1:])
    return int(importlib.import_module("ldmi_lightning.commands.report_run").run(options, ["ldmi", *words]))


def parser() -> ReportParser:
    """Return the parser."""
    made = ReportParser(
        prog="ldmi report",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("runs", metavar="RUN", nargs="+", help="folder of a run of `ldmi fit`")
    made.add_argument(
        "--output", metavar="FILE", help="the page (default: RUN/report.html; for several runs report.html)"
    )
    return made
