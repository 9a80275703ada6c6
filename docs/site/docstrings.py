"""Docstrings as the site shows them: roles become links, formulas MathML, and examples blocks of code."""

import re
from html import escape
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.plugins import get_plugin_logger

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`(~?)([^`]+)`")
FORMULA = re.compile(r"(?m)^\.\. math:: (.*(?:\n +\S.*)*)")
MATH = re.compile(r":math:`([^`]+)`")
EXAMPLE = re.compile(r"(?m)^>>> .*(?:\n(?!$).*)*")
log = get_plugin_logger(__name__)


def as_markdown(text: str) -> str:
    """Return a docstring in Markdown.

    A name that has no place in the site stays a name: the link is optional.
    """
    text = EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", text)
    text = FORMULA.sub(lambda found: f"<div>{convert(found[1], display='block')}</div>", text)
    text = MATH.sub(lambda found: f"<span>{convert(found[1])}</span>", text)
    return ROLE.sub(_link, text)


def _link(found: re.Match[str]) -> str:
    name = found[2].rpartition(".")[2] if found[1] else found[2]
    return f'<autoref identifier="{escape(found[2])}" optional><code>{escape(name)}</code></autoref>'


class Docstrings(griffe.Extension):
    """Rewrites each docstring once it is found, and asks for one where there is none."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the object's; of a public class, function or module without one the strict build fails."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
        elif not obj.is_attribute and not any(part.startswith("_") for part in obj.path.split(".")):
            log.warning("%s has no docstring", obj.path)
