"""The help pages of the commands that train and use a model, written from the classes' own docstrings without PyTorch."""

import argparse
import ast
import difflib
import functools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ldmi_lightning.commands import options, source, wording
from ldmi_lightning.errors import UserError
from ldmi_lightning.runs.configuration import STAGES

HELP, HELP_ALL = ("-h", "--help"), "--help_all"
STAGE = "ldmi_lightning.Stage"
MODEL = "ldmi_lightning.LDMIModule"
TRAINER = "pytorch_lightning.Trainer"
_CLASS_HELP = re.compile(r"--((?:data|model|trainer)(?:\.\w+)*)\.help(?:=(\S*))?")


class Row(NamedTuple):
    """A line of a page: an option, what follows it, and what it does."""

    option: str
    takes: str
    help: str


class Group(NamedTuple):
    """Rows under a heading, with a sentence on all of them."""

    title: str
    rows: Sequence[Row]
    says: str = ""


def page_of(words: Sequence[str]) -> str | None:
    """Return the page that the words after ``ldmi`` ask for; ``None`` where they ask for none.

    Args:
        words: a command and its options.
    """
    command, *rest = words
    if command not in (*options.DESCRIPTIONS, "noise"):
        return None
    for position, word in enumerate(rest):
        if found := _CLASS_HELP.fullmatch(word):
            following = [each for each in rest[position + 1 :][:1] if not each.startswith("-")]
            name = found[2] or "".join(following)
            return class_page(command, found[1], name) if name else choices_page(command, found[1])
    if command != "noise" and {*HELP, HELP_ALL} & set(rest):
        return command_page(command, everything=HELP_ALL in rest)
    return None


# -- pages ------------------------------------------------------------------------------------------------------------


def command_page(command: str, everything: bool = False) -> str:
    """Return the page of ``ldmi fit``, ``validate``, ``test`` or ``predict``.

    Args:
        command: the word after ``ldmi``.
        everything: whether all of the Trainer's options are listed.
    """
    own = [each for each in options.RUN.values() if not each.only or command in each.only]
    seldom = options.SELDOM if command == "fit" else (*options.SELDOM, *options.SELDOM_AFTER_FIT)
    own = [each for each in own if everything or each.name not in seldom]
    groups = [
        Group("run", [Row(each.name, each.takes, each.help) for each in own]),
        Group("data", data_rows()),
        Group("model", shortened(model_rows(), everything)),
        Group("stages", shortened(stage_rows(), everything), says_of_stages()),
        Group(
            "trainer",
            trainer_rows(everything),
            "" if everything else f"More of them, and more on each: `ldmi {command} {HELP_ALL}`.",
        ),
    ]
    says = (
        f"{options.DESCRIPTIONS[command]} CLASS is a short name or the dotted path of one of yours, and its arguments are "
        f"options, too: --data CLASS --data.NAME VALUE. `ldmi {command} --data.help CLASS` lists them; so do "
        "--model.backbone.help, --model.STAGE.loss.help and the others. All options can stand in a YAML file."
    )
    return render(f"ldmi {command} [--config FILE] [OPTIONS]", says, groups)


def class_page(command: str, key: str, name: str) -> str:
    """Return the page of a class or function that an option takes: what it is, and its own options.

    Args:
        command: the word after ``ldmi``.
        key: the option, such as ``model.robust.loss``.
        name: the class: a short name or a dotted path.
    """
    path, found = find_class(key, name)
    says = source.summary(found)
    rows = class_rows(key, found)
    groups = [Group("options", rows)] if rows else []
    if key == "model":
        groups.append(Group("stages", stage_rows(), says_of_stages()))
    end = "" if groups else "It has no options."
    return render(f"ldmi {command} --{key} {name} [OPTIONS]", f"{path}{': ' if says else ''}{says}", groups, end)


def choices_page(command: str, key: str) -> str:
    """Return the page of the classes of this package that an option takes."""
    known = choices(key)
    if not known:
        raise UserError(f"--{key}.help needs the name of a class: --{key}.help CLASS.")
    rows = [Row(name, "", source.summary(found)) for name, found in known.items()]
    end = (
        f"`ldmi {command} --{key}.help CLASS` shows the options of one; the dotted path of your own can take its place."
    )
    return render(f"ldmi {command} --{key} CLASS [OPTIONS]", f"What --{key} can be.", [Group("classes", rows)], end)


def render(usage: str, says: str, groups: Iterable[Group], end: str = "") -> str:
    """Lay a page out for the width of the terminal."""
    page = argparse.ArgumentParser(
        usage=usage,
        description=says.replace("%", "%%"),
        epilog=end,
        add_help=False,
        formatter_class=functools.partial(argparse.HelpFormatter, max_help_position=26),
    )
    for group in groups:
        place = page.add_argument_group(group.title, group.says or None)
        for row in group.rows:
            text = row.help.replace("%", "%%")
            if row.option.startswith("-"):
                kind = {"metavar": row.takes} if row.takes else {"action": "store_true"}
                place.add_argument(*row.option.split(", "), dest=row.option, help=text, **kind)  # type: ignore[arg-type]
            else:
                place.add_argument(row.option, help=text)
    return page.format_help().rstrip()


# -- rows -------------------------------------------------------------------------------------------------------------


def data_rows() -> list[Row]:
    """Return what can be said of the data."""
    default = options.DEFAULT_DATA["class_path"].rpartition(".")[2]
    return [
        Row("--data", "CLASS", f"The data set: {listed('data')} (default: {default})."),
        Row("--data.noise", "CLASS", f"Label noise that is put in: {listed('noise')} (default: none)."),
    ]


def shortened(rows: Sequence[Row], everything: bool) -> Sequence[Row]:
    """Return rows whose first part alone is shown, up to a semicolon or the end of a sentence, unless everything is."""
    if everything:
        return rows
    said = re.compile(r"(?s)(.+?)(?:;|\.)\s.*?( \(default: \S+\)\.)?$")
    return [
        row._replace(help=f"{found[1]}{found[2] or '.'}") if (found := said.fullmatch(row.help)) else row
        for row in rows
    ]


def model_rows() -> list[Row]:
    """Return what can be said of the model, its stages left out."""
    found = source.find(MODEL)
    own = source.arguments(found) if found else []
    default = options.DEFAULT_MODEL["init_args"]["backbone"]["class_path"].rpartition(".")[2]
    skipped = ("backbone", *options.FROM_DATA, *STAGES)
    return [
        Row("--model.backbone", "CLASS", f"The net: {listed('backbone')} (default: {default})."),
        *(row_of("model", each) for each in own if each.name not in skipped),
    ]


def stage_rows() -> list[Row]:
    """Return what can be said of each stage."""
    found = source.find(STAGE)
    rows = [row_of("model.STAGE", argument) for argument in (source.arguments(found) if found else [])]
    loss = f"What is minimised: {listed('loss')} (required)."
    return [
        Row("--model.STAGE", "null", "Leave the stage out."),
        *(row._replace(help=loss) if row.option == "--model.STAGE.loss" else row for row in rows),
    ]


def says_of_stages() -> str:
    """Say what a stage is by default."""
    parts = []
    for name in STAGES:
        stage = options.DEFAULT_MODEL["init_args"].get(name)
        loss = stage["loss"]["class_path"].rpartition(".")[2] if stage else ""
        default = f"{loss} for {stage['epochs']} epochs" if stage else "none"
        parts.append(f"{name} (by default {default})")
    return f"STAGE is {', '.join(parts[:-1])} or {parts[-1]}."


def trainer_rows(everything: bool) -> list[Row]:
    """Return the Trainer's most used options, or all that are not refused."""
    found = source.find(TRAINER)
    taken = {each.name: each for each in source.arguments(found)} if found else {}
    names = [name for name in taken if name not in options.REFUSED] if everything else list(options.TRAINER)
    return [
        row._replace(takes=own[0], help=wording.with_default(own[1], taken[name]))
        if (own := options.TRAINER.get(name))
        else row._replace(help=wording.with_default(wording.first_sentence(taken[name].help), taken[name]))
        for name in names
        if (row := row_of("trainer", taken[name]))
    ]


def class_rows(key: str, found: source.Found) -> list[Row]:
    """Return the options of a class."""
    kind = key.rpartition(".")[2]
    taken = source.arguments(found)
    if kind in ("optimizer", "scheduler"):
        taken = taken[1:]  # the parameters, or the optimizer, which the stage gives
    rows = []
    for argument in taken:
        if kind in ("model", "backbone") and argument.name in options.FROM_DATA:
            argument = argument._replace(default="'from the data'")
        rows.append(row_of(key, argument))
    return rows


def row_of(key: str, argument: source.Argument) -> Row:
    """Return the line of an argument.

    >>> row_of("data", source.Argument("batch_size", "int", "128", "size of the batch."))
    Row(option='--data.batch_size', takes='INT', help='Size of the batch (default: 128).')
    """
    return Row(f"--{key}.{argument.name}", wording.takes(argument.type), wording.with_default(argument.help, argument))


# -- classes ----------------------------------------------------------------------------------------------------------


def find_class(key: str, name: str) -> tuple[str, source.Found]:
    """Find a class or function by its dotted path, or by its short name where an option's classes are.

    Raises:
        UserError: there is none; the nearest name is given.
    """
    places = options.PLACES.get(key.rpartition(".")[2], ())
    for path in [name] if "." in name else [f"{place}.{name}" for place in places]:
        try:
            found = source.find(path)
        except SyntaxError as error:
            raise UserError(f"{path} cannot be read: line {error.lineno} of {error.filename}: {error.msg}.") from error
        if found is not None:
            return path, found
    close = difflib.get_close_matches(name.rpartition(".")[2], choices(key), n=1)
    hint = f"Did you mean {close[0]}? " if close else ""
    raise UserError(
        f"--{key}.help: {name} is no class that can be found. {hint}Give its dotted path, as in package.module.Name."
    )


def choices(key: str) -> dict[str, source.Found]:
    """Return the classes of this package that an option takes, by name."""
    kind = key.rpartition(".")[2]
    place = next((each for each in options.PLACES.get(kind, ()) if each.startswith("ldmi_lightning.")), "")
    if kind == "model":
        return {name: found for name in ("LDMIModule",) if (found := source.find(MODEL))}
    module = source.read_module(place) if place else None
    if module is None:
        return {}
    names = [name for name in source.public_names(module) if name not in options.BASES]
    known = {name: source.find_in(module, name) for name in names}
    return {
        name: each
        for name, each in known.items()
        if each is not None
        and isinstance(each.node, ast.ClassDef)
        and "NamedTuple" not in map(ast.unparse, each.node.bases)
    }


def listed(key: str) -> str:
    """Return the names of :func:`choices`, for a sentence."""
    return ", ".join(choices(key))
