"""The words of a command line, put right before a parser reads them, and one clear line for what a parser says of them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldmi_lightning.errors import UserError
from ldmi_lightning.runs.configuration import STAGES


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


_STAGE_OPTION = re.compile(rf"(--model\.(?:{'|'.join(STAGES)}))\.(\w+)(=null)?")


def nulls_in_stages(args: list[str]) -> list[str]:
    """Write ``--model.STAGE.NAME null`` as a mapping: jsonargparse would read a nested null as the word "None".

    >>> nulls_in_stages(["fit", "--model.robust.scheduler", "null", "--model.warmup.patience=null"])
    ['fit', '--model.robust', '{"scheduler": null}', '--model.warmup', '{"patience": null}']
    """
    words: list[str] = []
    for word in args:
        is_value = word == "null" and bool(words)
        found = _STAGE_OPTION.fullmatch(words[-1] if is_value else word)
        if found and (is_value or found[3]):
            words = [*(words[:-1] if is_value else words), found[1], f'{{"{found[2]}": null}}']
        else:
            words.append(word)
    return words


def check_mappings(args: Sequence[str]) -> None:
    """Raise for a mapping without a blank after a colon: in YAML ``{1:12}`` maps nothing, and ``1:12`` is a time."""
    for word in args:
        meant = re.sub(r"([{,]\s*-?\d+):(?=\S)", r"\1: ", word)
        if meant != word:
            raise UserError(f"{word} has no blank after a colon, as YAML needs: write '{meant}'.")


def check_seed(seed: Any) -> None:
    """Raise unless ``seed_everything`` is a whole number that NumPy takes: a run without a seed could not be repeated."""
    if isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise UserError(f"{SEED_RULE} {str(seed).lower()}.")


SEED_RULE = "--seed_everything must be a whole number in 0..2**32-1, but got"

_WRAPPING = re.compile(
    r"(Expected a <class|Does not validate against any|Subtypes:|Errors:|Given value|Problem with given class_path)"
)


def one_line(message: str) -> str:
    r"""Reduce jsonargparse's nested message to its first innermost cause, under the full key.

    >>> one_line('Parser key "data":\n  Problem with given class_path \'A\':\n    Parser key "size":\n      Expected a number')
    '--data.size: Expected a number'
    """
    keys: list[str] = []
    reason = ""
    depth = -1
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        indent = len(line) - len(line.lstrip())
        if indent <= depth:
            break  # the next alternative of a union: the first one is what was meant
        if found := re.match(r'Parser key "([^"]+)":\s*(.*)', text):
            keys.append(found[1])
            text = found[2]
        if text and not _WRAPPING.match(text):
            reason = f"{reason} {text}".strip()
            depth = indent - 1
    reason = reason or message.strip().splitlines()[-1].strip()
    # A nested parser has already put its own key in front.
    while found := re.match(r"--([\w.]+): ", reason):
        keys.append(found[1])
        reason = reason[found.end() :]
    return f"--{'.'.join(keys)}: {reason}" if keys else reason
