"""How a help page words what a class takes: its default, and what may follow an option."""

import ast
import re

from ldmi_lightning.commands.source import Argument

WORDS = {
    "int": "INT",
    "float": "FLOAT",
    "str": "TEXT",
    "bool": "BOOL",
    "Path": "FILE",
    "timedelta": "TEXT",
    "Stage": "STAGE",
}
"""What follows an option, by the type of an argument."""


def with_default(text: str, argument: Argument) -> str:
    """Return what an argument does, as a sentence that ends with its default, unless that is none."""
    said = text.rstrip(".")
    said = said[:1].upper() + said[1:]
    if argument.default is None:
        note = "(required)"
    elif argument.default in ("None", "''") or re.search(r"\bdefault", said, re.IGNORECASE):
        note = ""
    else:
        note = f"(default: {shown(argument.default)})"
    return f"{' '.join(part for part in (said, note) if part)}." if said else note


def shown(default: str) -> str:
    """Return a default as YAML has it.

    >>> shown("'label'"), shown("True"), shown("20000")
    ('label', 'true', '20000')
    """
    try:
        value = ast.literal_eval(default)
    except ValueError:
        return default
    return str(value).lower() if isinstance(value, bool) else str(value)


def takes(annotation: str) -> str:
    """Say in a word what an option takes.

    >>> takes("int | None"), takes("Optional[Union[float, str]]"), takes("Literal['min', 'max']"), takes("Noise | None")
    ('INT', 'FLOAT|TEXT', 'min|max', 'CLASS')
    """
    if not annotation:
        return "VALUE"
    words = [word for part in alternatives(ast.parse(annotation, mode="eval").body) for word in words_for(part)]
    return "|".join(dict.fromkeys(words)) or "VALUE"


def alternatives(node: ast.expr) -> list[ast.expr]:
    """Return the parts of a union."""
    if isinstance(node, ast.BinOp):
        return [*alternatives(node.left), *alternatives(node.right)]
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("Optional", "Union"):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return [each for part in parts for each in alternatives(part)]
    return [node]


def words_for(node: ast.expr) -> list[str]:
    """Return the words for one part of a union."""
    written = ast.unparse(node.value if isinstance(node, ast.Subscript) else node).rpartition(".")[2]
    if written == "None":
        return []
    if written == "Literal" and isinstance(node, ast.Subscript):
        values = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return [str(ast.literal_eval(each)) for each in values]
    if isinstance(node, ast.Subscript) or written in ("list", "dict", "tuple"):
        return ["MAP" if written.lower() in ("dict", "mapping") else "LIST"]
    return [WORDS.get(written, "VALUE" if written.startswith("_") else "CLASS")]


def first_sentence(text: str) -> str:
    """Return the first sentence.

    >>> first_sentence("How often to log. Default: 50.")
    'How often to log.'
    """
    return re.split(r"(?<=\.)\s+(?=[A-Z])", text, maxsplit=1)[0]
