"""How a page is made: a template with what it shows, everything escaped, style and script inside the file."""

import base64
import hashlib
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render(template: str, /, script: str | None = None, **shown: Any) -> str:
    """Return a whole page.

    A page's template begins with ``{% extends "base.html" %}`` and fills ``{% block title %}`` and ``{% block main %}``.
    Whatever is shown is escaped, unless it is :class:`~markupsafe.Markup`, as the figures of
    :mod:`ldmi_lightning.pages.figures` are. The page's own rules (a Content-Security-Policy) forbid the browser to load
    anything, and to run any script but the one that is named here.

    Args:
        template: its file in ``pages/templates``.
        script: the file there with the page's script; ``None`` for none.
        shown: what the template calls by these names.

    >>> page = render("base.html")
    >>> page.startswith("<!doctype html>"), "script-src 'none'" in page
    (True, True)
    """
    made = environment()
    source = "" if script is None else made.get_template(script).render()
    allowed = (
        "'none'" if not source else f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
    )
    return made.get_template(template).render(page_script=Markup(source), script_allowed=Markup(allowed), **shown)


def environment() -> Environment:
    """Return the templates of this package, with everything that they show escaped, and with their filters.

    >>> environment().from_string("{{ name }} {{ 0.98765 | share }} {{ none | number }}").render(name="<b>")
    '&lt;b&gt; 98.77 % –'
    """
    made = Environment(
        loader=PackageLoader("ldmi_lightning.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"share": share, "number": number}
    return made


def share(value: float | None) -> str:
    """Write a share in percent; a dash for what is not known.

    >>> share(0.5), share(None)
    ('50.00 %', '–')
    """
    return "–" if value is None else f"{100 * value:.2f} %"


def number(value: Any) -> str:
    """Write a number as it is read; a dash for what is not known.

    >>> number(1234567), number(0.123456), number(-2.5e-7), number("CELoss"), number(None)
    ('1,234,567', '0.1235', '-2.5e-07', 'CELoss', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
