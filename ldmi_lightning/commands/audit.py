"""``ldmi audit``: find the labels that are wrong.

What its help says stands here, since a help page should not wait for PyTorch; other files carry the command out.
"""

import argparse
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ldmi_lightning.commands.engine_options import OPTIONS, add_engine_options, check_engine_options
from ldmi_lightning.commands.options import FOLDS
from ldmi_lightning.commands.output import show
from ldmi_lightning.errors import UserError

DESCRIPTION = """\
Find the labels that are wrong, say how many there are, and write a clean label file. One of three ways:

  ldmi audit --config FILE [options of ldmi fit]   every label judged by a model that never saw it: N folds, each a run of
                                                   `ldmi fit` on the rest, and one more run on everything
  ldmi audit RUN                                   by a run that there is: its validation labels, which were held out, and
                                                   its training labels, which it has seen
  ldmi audit --probabilities P.npy --labels L.csv  by the outputs of anybody's model, without training

The same command again resumes what was stopped; finished folds are not trained again.
"""

END = """\
Written are issues.csv (all labels, the worst first), labels.csv (corrected, for --data.noise LabelFileNoise), review.csv (to
look at by hand), label_studio.json, summary.json and audit.html; annotators.csv where labels come from several people's
votes. All other options are those of `ldmi fit`.
"""

OF_FOLDS = ("folds", "group", "jobs", "engine", *OPTIONS)
OF_PROBABILITIES = ("labels", "class_names", "outputs")


class AuditParser(argparse.ArgumentParser):
    """The parser of the options of ``ldmi audit`` that ``ldmi fit`` has not."""

    def error(self, message: str) -> NoReturn:
        """Raise a :class:`UserError`."""
        raise UserError(f"{message}. `ldmi audit --help` lists the options.")


def parser() -> AuditParser:
    """Return the parser; what it does not know are options of ``ldmi fit``."""
    made = AuditParser(
        prog="ldmi audit",
        usage="ldmi audit [RUN] [OPTIONS]",
        description=DESCRIPTION,
        epilog=END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="labels.csv has the suggested class where it is right with at least this probability (default: as documented)",
    )
    made.add_argument(
        "--votes",
        metavar="FILE",
        help="several people's labels, for a report on each of them: CSV of item,annotator,label, or an array (N, A), -1 for "
        "none; else the data's own",
    )
    made.add_argument("--output", metavar="DIR", help="folder for the result; it must not hold one")
    folds = made.add_argument_group("folds")
    folds.add_argument("--folds", type=int, metavar="N", help=f"number of folds, 2 at least (default: {FOLDS})")
    folds.add_argument(
        "--group",
        metavar="NAME|FILE",
        help="what keeps rows in one fold, such as photos of one person: a column of the data's table, or a CSV file of "
        "index,group",
    )
    add_engine_options(made)
    outputs = made.add_argument_group("outputs of anybody's model")
    outputs.add_argument("--probabilities", metavar="P.npy", help="probabilities of the classes, shape (N, C)")
    outputs.add_argument(
        "--labels",
        metavar="L.csv",
        help="N labels, numbers or names, in the column label; index and clean, if they are there",
    )
    outputs.add_argument(
        "--class_names", metavar="NAME,NAME", help="names of the classes, in the order of the columns of P.npy"
    )
    outputs.add_argument(
        "--outputs",
        choices=["given", "true"],
        help="what P.npy holds probabilities of: of the labels as given (cross-entropy and its like), or of the true ones "
        "(default: given)",
    )
    return made


def run(words: list[str]) -> int:
    """Carry out ``ldmi audit``; return its exit code."""
    rest = words[1:]
    if {"-h", "--help"} & set(rest):
        show(parser().format_help().rstrip())
        raise SystemExit(0)
    if any("help" in word for word in rest):
        page = importlib.import_module("ldmi_lightning.commands.help").page_of(["fit", *rest])
        if page is not None:
            show(page)
            raise SystemExit(0)
    folder = rest.pop(0) if rest and not rest[0].startswith("-") else None
    options, of_fit = parser().parse_known_args(rest)
    way = way_of(folder, vars(options), of_fit)
    check_numbers(options)
    command = ["ldmi", *words]
    if way == "probabilities":
        return int(importlib.import_module("ldmi_lightning.commands.audit_arrays").run(options, command))
    if way == "run":
        return int(
            importlib.import_module("ldmi_lightning.commands.audit_of_run").run(Path(str(folder)), options, command)
        )
    return int(importlib.import_module("ldmi_lightning.commands.audit_folds").run(options, of_fit, command))


def way_of(folder: str | None, options: Mapping[str, Any], of_fit: Sequence[str]) -> str:
    """Return which of the three ways is meant: ``"folds"``, ``"run"`` or ``"probabilities"``.

    Args:
        folder: the run's; ``None`` where none is given.
        options: the command's own, ``None`` for those that are not given.
        of_fit: the words that are left.

    Raises:
        UserError: none is meant, or two at once, or an option belongs to another way.

    >>> way_of("runs/a", {}, []), way_of(None, {}, ["--config", "a.yaml"])
    ('run', 'folds')
    """
    given = {name for name, value in options.items() if value is not None}
    fit = [word for word in of_fit if word.startswith("-")]
    folds = [f"--{name}" for name in OF_FOLDS if name in given]
    arrays = [f"--{name}" for name in OF_PROBABILITIES if name in given]
    if fit and (
        taken := next((each for each in ("--fold", "--ckpt_path", "--stage_cache") if each in _names(fit)), None)
    ):
        raise UserError(f"{taken} is not for `ldmi audit`, which sees to its runs itself: leave it out.")
    if of_fit and not fit:
        raise UserError(f"{of_fit[0]} is no option, and a run's folder stands first: ldmi audit RUN [OPTIONS].")
    ways = {
        "run": [folder] if folder is not None else [],
        "probabilities": ["--probabilities"] if "probabilities" in given else [],
        "folds": [*fit, *folds],
    }
    meant = [way for way, words in ways.items() if words]
    if len(meant) > 1:
        one, other = (ways[way][0] for way in meant[:2])
        raise UserError(
            f"{one} and {other} are two ways at once: give one of the two. `ldmi audit --help` shows the three."
        )
    if not meant:
        what = (
            f"{arrays[0]} needs --probabilities P.npy"
            if arrays
            else "Say what to audit: --config FILE, RUN or --probabilities"
        )
        raise UserError(f"{what}. `ldmi audit --help` shows the three ways.")
    if arrays and meant != ["probabilities"]:
        raise UserError(
            f"{arrays[0]} belongs to --probabilities P.npy: leave it out. `ldmi audit --help` shows the ways."
        )
    if meant == ["probabilities"] and "labels" not in given:
        raise UserError("--probabilities needs --labels L.csv, the labels that are judged.")
    return meant[0]


def _names(words: Sequence[str]) -> set[str]:
    return {word.partition("=")[0] for word in words}


def check_numbers(options: argparse.Namespace) -> None:
    """Refuse numbers that cannot be meant."""
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise UserError(f"--threshold is a probability, in 0..1, but got {options.threshold:g}.")
    if options.folds is not None and options.folds < 2:
        raise UserError(f"--folds must be at least 2, so that something is left to train on, but got {options.folds}.")
    check_engine_options(options)
