"""Reading the command line: `--config` first whatever the order, and one clear line for a mistake."""

import difflib
import re
from pathlib import Path
from typing import Any, NoReturn

from pytorch_lightning.cli import LightningArgumentParser

from ldmi_lightning.errors import UserError


def configs_first(args: list[str]) -> list[str]:
    """Move ``--config FILE`` before all other options, since jsonargparse lets a file overwrite what stands before it.

    >>> configs_first(["fit", "--data.batch_size", "8", "--config", "a.yaml"])
    ['fit', '--config', 'a.yaml', '--data.batch_size', '8']
    """
    configs: list[str] = []
    others: list[str] = []
    pending = args[1:]
    while pending:
        word = pending.pop(0)
        if word in ("--config", "-c"):
            configs += [word, *pending[:1]]
            del pending[:1]
        elif word.startswith("--config="):
            configs.append(word)
        else:
            others.append(word)
    return [*args[:1], *configs, *others]


def add_own_config(args: list[str], name: str) -> list[str]:
    """Where a checkpoint is given but no configuration, take the ``config.yaml`` that lies beside the checkpoint."""
    if any(word in ("--config", "-c") or word.startswith("--config=") for word in args):
        return args
    for position, word in enumerate(args):
        given = word.partition("=")[2] if word.startswith("--ckpt_path=") else ""
        if word == "--ckpt_path" and position + 1 < len(args):
            given = args[position + 1]
        config = Path(given).parent / name
        if given and config.is_file():
            return [*args[:1], "--config", str(config), *args[1:]]
    return args


class Parser(LightningArgumentParser):
    """LightningCLI's parser that answers a mistake with one line, and takes no abbreviations."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a :class:`UserError` with the innermost cause and its full key."""
        cause: BaseException | None = ex
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause
            cause = cause.__cause__ or cause.__context__
        raise UserError(self._one_line(message)) from None

    def _one_line(self, message: str) -> str:
        keys: list[str] = []
        reason = message.splitlines()[0]
        for line in message.splitlines():
            text = line.strip().removeprefix("- ")
            if found := re.match(r'(?:Parser key|Problem with given key) "([^"]+)":\s*(.*)', text):
                keys.append(found[1])
                reason = found[2] or reason
            elif text and not re.match(
                r"(Expected a <class|Does not validate against any|Subtypes:|Errors:|Given value|Problem with given class)",
                text,
            ):
                reason = text
        place = f"--{'.'.join(keys)}: " if keys else ""
        return f"{place}{reason}{self._nearest(reason)}"

    def _nearest(self, reason: str) -> str:
        unknown = re.search(r"(?:Unrecognized arguments: --|Key '|nested key '|key \"|Option ')([\w.]+)", reason)
        if not unknown:
            return ""
        known = sorted({action.dest for action in self._actions if action.dest})
        close = difflib.get_close_matches(unknown[1], known, n=1, cutoff=0.6)
        return f" Did you mean --{close[0]}?" if close else " `ldmi fit --help` lists the options."
