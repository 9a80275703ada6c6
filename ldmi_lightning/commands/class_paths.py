"""Why a class path of the command line's cannot be used: the true reason, and the nearest name that can."""

import difflib
import importlib
import inspect
import re
import traceback
from pathlib import Path

from ldmi_lightning.commands import options, source

WANTED = {
    "data": "a LightningDataModule",
    "model": "an ldmi_lightning.LDMIModule",
    "backbone": "a torch.nn.Module",
    "loss": "an ldmi_lightning.losses.Loss or another ldmi_lightning.Method",
    "noise": "an ldmi_lightning.noise.Noise",
    "optimizer": "a torch.optim.Optimizer",
    "scheduler": "a scheduler of torch.optim.lr_scheduler",
    "callbacks": "a pytorch_lightning.Callback",
    "logger": "a logger of pytorch_lightning",
    "augmentation": "a torch.nn.Module",
}
"""What an option takes, by its last word."""


_SAYS_SO = re.compile(
    r"No module named|has no attribute|cannot import name|Expected a dot import path|does not correspond to a subclass"
    r"|expects a function or a callable class|Unexpected import path"
)
_GIVEN = (
    r"Problem with given class_path '([^']+)'",
    r"Import path (\S+) does not",
    r"'class_path': '([^']+)'",
    r"Expected a path but ([\w.]+) either",
    r"Given value: ([\w.]+)$",
    r"Expected a dot import path string: (\S+)",
)


def class_path_in(message: str) -> tuple[str, str]:
    r"""Find the class path that jsonargparse could not use in what it says of it, and the option that it was given to.

    Returns:
        Both are empty where it says something else, or repeats what has been said of an inner option.

    >>> class_path_in('Parser key "loss":\n  Import path mine.NoLoss does not correspond to a subclass of Method')
    ('mine.NoLoss', 'loss')
    >>> class_path_in('Parser key "epochs":\n  Expected an int')
    ('', '')
    """
    if re.search(r"^[ -]*--[\w.]+: ", message, re.MULTILINE):
        return "", ""
    path = next((match[1] for pattern in _GIVEN if (match := re.search(pattern, message, re.MULTILINE))), "")
    if not _SAYS_SO.search(message) and ("." not in path or can_be_imported(path)):
        return "", ""
    return path, ".".join(re.findall(r'Parser key "([^"]+)"', message))


def can_be_imported(path: str) -> bool:
    """Whether a dotted path names something."""
    try:
        resolve(path)
    except Exception:  # whatever a module of the user's raises
        return False
    return True


def base_in(message: str) -> str:
    """Find the class that jsonargparse asks a class path to be derived from; empty where it says nothing of one.

    >>> base_in("Import path mine.NoLoss does not correspond to a subclass of Method")
    'Method'
    """
    found = re.search(r"does not correspond to a subclass of (\w+)", message)
    return found[1] if found else ""


def why_not(path: str, key: str, base: str = "") -> str:
    """Say why a class path cannot be used.

    Args:
        path: what was given, a short name or a dotted path.
        key: the option, such as ``model.robust.loss``.
        base: the class that is asked for, where it is known.

    >>> why_not("nowhere.Net", "model.backbone").partition(":")[0]
    'nowhere.Net cannot be imported'
    >>> why_not("DMILos", "model.robust.loss")
    'DMILos is no class known here. Did you mean DMILoss? One of yours has a dotted path.'
    """
    kind = key.rpartition(".")[2]
    place, _, name = path.rpartition(".")
    if not place:
        near = nearest(name, known_names(kind))
        return " ".join(
            part for part in (f"{path} is no class known here.", near, "One of yours has a dotted path.") if part
        )
    try:
        found = resolve(path)
    except Exception as error:  # whatever a module of the user's raises
        return why_not_imported(path, error)
    wanted = WANTED.get(kind, "what is asked for here")
    if base not in wanted:
        wanted = f"a {base}"
    if inspect.isclass(found):
        return f"{path} is a class, but not derived from {wanted.partition(' ')[2]}."
    if callable(found):
        annotated = f"`def {name}(...) -> {wanted.split()[1]}:`"
        return f"{path} is a function that does not say that it returns {wanted}: annotate it, as in {annotated}."
    return f"{path} is {type(found).__name__}, but not {wanted}."


def why_not_imported(path: str, error: Exception) -> str:
    """Say why importing a class path has ended with an error."""
    place, _, name = path.rpartition(".")
    missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    if missing and f"{path}.".startswith(f"{missing}."):
        return (
            f"{path} cannot be imported: there is no module {missing}. Install it, or put its folder on PYTHONPATH; the working "
            "directory is searched, too."
        )
    if fault := fault_of_import(error):
        return fault
    if isinstance(error, AttributeError):
        near = nearest(name, dir(importlib.import_module(place)))
        return " ".join(part for part in (f"{place} has no {name}.", near) if part)
    return f"{path} cannot be imported: {type(error).__name__}: {error}."


def resolve(path: str) -> object:
    """Import what a dotted path names, which may lie within a class."""
    place, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(place), name)
    except ModuleNotFoundError as error:
        if error.name != place or "." not in place:
            raise
        try:
            return getattr(resolve(place), name)
        except AttributeError:
            raise error from None


def nearest(name: str, known: list[str]) -> str:
    """Ask for the nearest names; empty where none is near."""
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.75)
    return f"Did you mean {' or '.join(close)}?" if close else ""


def known_names(kind: str) -> list[str]:
    """Return the short names that an option takes."""
    modules = [source.read_module(place) for place in options.PLACES.get(kind, ())]
    names = [name for module in modules if module is not None for name in source.public_names(module)]
    return [name for name in names if name not in options.BASES]


def fault_of_import(error: BaseException) -> str:
    """Say where a module that was being imported has failed, and how; empty where none was.

    >>> try:
    ...     exec(compile("import nothing_of_the_kind", "mine.py", "exec"))
    ... except ModuleNotFoundError as error:
    ...     fault_of_import(error)
    "mine.py, line 1, cannot be imported: ModuleNotFoundError: No module named 'nothing_of_the_kind'."
    """
    said = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}, cannot be imported: {type(error).__name__}: {error.msg}."
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == "<module>"]
    frames = [frame for frame in frames if not frame.filename.startswith("<")]
    if not frames:
        return ""
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}, cannot be imported: {type(error).__name__}: {said}."
