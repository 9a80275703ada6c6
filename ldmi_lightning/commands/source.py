"""What classes and functions take, read from their source text: a help page should not wait for PyTorch."""

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from docstring_parser import DocstringStyle, parse

Definition = ast.ClassDef | ast.FunctionDef


class Argument(NamedTuple):
    """What a class or function takes.

    Attributes:
        name: its name.
        type: its annotation, as it is written; empty where there is none.
        default: as it is written; ``None`` where it must be given.
        help: what the docstring says of it.
    """

    name: str
    type: str
    default: str | None
    help: str


class Module(NamedTuple):
    """A module that has not been imported.

    Attributes:
        name: its dotted name.
        path: its file.
        tree: what is written in it.
    """

    name: str
    path: Path
    tree: ast.Module

    @property
    def package(self) -> str:
        """What its relative imports begin from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


class Found(NamedTuple):
    """A class or function, and the module in which it is written."""

    module: Module
    node: Definition


@cache
def read_module(name: str) -> Module | None:
    """Return a module by its dotted name; ``None`` where there is no file of Python.

    Only the package above ``ldmi_lightning.datamodules`` is imported for it, which imports nothing itself.
    """
    first, *rest = name.split(".")
    if first == __name__.partition(".")[0] and rest:
        first = f"{first}.{rest.pop(0)}"
    spec = find_spec(first)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    path = Path(spec.origin)
    for part in rest:
        inside = path.parent / part
        path = inside / "__init__.py" if inside.is_dir() else inside.with_suffix(".py")
    return Module(name, path, ast.parse(path.read_text("utf-8"))) if path.is_file() else None


def find(path: str) -> Found | None:
    """Find a class or function by its dotted path, through the imports of the modules on the way.

    >>> find("ldmi_lightning.losses.DMILoss").module.name
    'ldmi_lightning.losses.dmi'
    """
    place, _, name = path.rpartition(".")
    module = read_module(place) if place else None
    return None if module is None else find_in(module, name)


def find_in(module: Module, name: str) -> Found | None:
    """Find what a name stands for in a module: what is defined there, or imported."""
    for node in statements(module.tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return Found(module, node)
    for path in imported(module, name):
        if (found := find(path)) is not None:
            return found
    return None


def imported(module: Module, name: str) -> Iterator[str]:
    """Yield the dotted paths that a module may import a name from."""
    for node in statements(module.tree):
        if isinstance(node, ast.ImportFrom):
            parents = module.package.split(".")
            base = parents[: len(parents) - node.level + 1] if node.level else []
            place = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                if alias.name == "*" or (alias.asname or alias.name) == name:
                    yield f"{place}.{name if alias.name == '*' else alias.name}"


def constant(module: Module | None, name: str) -> str | None:
    """Return what a name is set to in a module, as it is written, or in the one that it is imported from."""
    if module is None:
        return None
    for node in statements(module.tree):
        if isinstance(node, ast.Assign) and [ast.unparse(each) for each in node.targets] == [name]:
            return ast.unparse(node.value)
    for path in imported(module, name):
        place, _, original = path.rpartition(".")
        if (found := constant(read_module(place), original)) is not None:
            return found
    return None


def statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield a module's own statements, also those under ``if`` and ``try``."""
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop(0)
        yield node
        if isinstance(node, ast.If | ast.Try):
            pending[:0] = [*node.body, *node.orelse]


def arguments(found: Found) -> list[Argument]:
    """Return what a class's constructor or a function takes, in order; a class without one takes what its base does.

    >>> arguments(find("ldmi_lightning.losses.DMILoss"))[0][:3]
    ('memory', 'float', '0.0')
    """
    said = said_of(found)

    def whole(argument: Argument) -> Argument:
        named = argument.default is not None and argument.default.isidentifier()
        default = constant(found.module, str(argument.default)) if named else None
        return argument._replace(help=said.get(argument.name, ""), default=default or argument.default)

    if isinstance(found.node, ast.FunctionDef):
        return [whole(argument) for argument in of_function(found.node)]
    for node in found.node.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            said |= documented(ast.get_docstring(node) or "")
            return [whole(argument) for argument in of_function(node)[1:]]
    if any("dataclass" in ast.unparse(each) for each in found.node.decorator_list):
        fields = [node for node in found.node.body if isinstance(node, ast.AnnAssign)]
        return [
            whole(Argument(ast.unparse(node.target), ast.unparse(node.annotation), written(node.value), ""))
            for node in fields
        ]
    for base in found.node.bases:
        above = base_of(found.module, ast.unparse(base))
        if above is not None and (taken := arguments(above)):
            return taken
    return []


def said_of(found: Found) -> dict[str, str]:
    """Return what docstrings say of each argument: a class's own, and those of its bases."""
    bases = [] if isinstance(found.node, ast.FunctionDef) else reversed(found.node.bases)
    above = [base for each in bases if (base := base_of(found.module, ast.unparse(each))) is not None]
    return {name: text for each in above for name, text in said_of(each).items()} | documented(docstring(found))


def base_of(module: Module, name: str) -> Found | None:
    """Find a base class by its name; one such as ``nn.Module`` is not looked for."""
    return find_in(module, name) if name.isidentifier() else None


def of_function(node: ast.FunctionDef) -> list[Argument]:
    """Return a function's arguments as they are written, but ``*args`` and ``**kwargs``.

    >>> tree = ast.parse("def f(x, y: int = 2, *, z: str): ...")
    >>> [(each.name, each.type, each.default) for each in of_function(tree.body[0])]
    [('x', '', None), ('y', 'int', '2'), ('z', 'str', None)]
    """
    positional = [*node.args.posonlyargs, *node.args.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(node.args.defaults))
    pairs = zip(
        [*positional, *node.args.kwonlyargs], [*defaults, *node.args.defaults, *node.args.kw_defaults], strict=True
    )
    return [Argument(each.arg, written(each.annotation) or "", written(default), "") for each, default in pairs]


def written(node: ast.expr | None) -> str | None:
    """Return an expression as it is written."""
    return None if node is None else ast.unparse(node)


def docstring(found: Found) -> str:
    """Return a docstring, also one that is put together after the class, as PyTorch's optimizers have it."""
    if written := ast.get_docstring(found.node):
        return written
    for node in statements(found.module.tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == f"{found.node.name}.__doc__":
            parts = [
                each for each in ast.walk(node.value) if isinstance(each, ast.Constant) and isinstance(each.value, str)
            ]
            in_order = sorted(parts, key=lambda each: (each.lineno, each.col_offset))
            lines = inspect.cleandoc("".join(str(each.value) for each in in_order)).splitlines()
            return "\n".join(line for line in lines if not line.isspace())  # where another text is put in
    return ""


def documented(text: str) -> dict[str, str]:
    r"""Return what a docstring says of each argument or attribute, in one line each.

    >>> documented("Do it.\n\nArgs:\n    size: how large,\n        in pixels.")
    {'size': 'how large, in pixels.'}
    """
    said = parse(text, style=DocstringStyle.GOOGLE)
    return {each.arg_name: plain((each.description or "").partition("\n\n")[0]) for each in said.params}


def summary(found: Found) -> str:
    """Return the first paragraph of a docstring in one line."""
    return plain(docstring(found).partition("\n\n")[0])


def plain(text: str) -> str:
    r"""Return a docstring's text in one line, without the marks of reStructuredText.

    >>> plain("usually :class:`~ldmi_lightning.losses.DMILoss`;\n    ``None`` for none")
    'usually DMILoss; null for none'
    """
    text = re.sub(r":\w+:`(~?)([^`]+)`", lambda found: found[2].rpartition(".")[2] if found[1] else found[2], text)
    return " ".join(text.replace("``None``", "null").replace("``", "").replace("`", "").split())


def public_names(module: Module) -> list[str]:
    """Return what ``__all__`` lists."""
    for node in statements(module.tree):
        if isinstance(node, ast.Assign) and [ast.unparse(each) for each in node.targets] == ["__all__"]:
            return list(ast.literal_eval(node.value))
    return []
