"""What the site's own hooks make of docstrings, notebooks and links, and that the API has every public name."""

import importlib
import logging
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

griffe = pytest.importorskip("griffe")
pytest.importorskip("jupytext")
pytest.importorskip("latex2mathml")

REPO = Path(__file__).parents[1]
DOCS = REPO / "docs"
API = "".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
PUBLIC = ["", ".losses", ".methods", ".noise", ".datamodules", ".models", ".callbacks"]


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS / "site"))
    for name in ("hooks", "notebooks", "docstrings"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("hooks")


@pytest.fixture
def docstrings(hooks: ModuleType) -> ModuleType:
    return importlib.import_module("docstrings")


def test_roles_formulas_and_examples_become_what_a_page_can_show(docstrings: ModuleType) -> None:
    text = "See :func:`~a.b.c`, :math:`x^2`.\n\n.. math:: \\frac{a}\n          {b}\n\n>>> 1 + 1\n2\n\nAfter."
    made = docstrings.as_markdown(text)
    assert '<autoref identifier="a.b.c" optional><code>c</code></autoref>' in made
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in made
    assert "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac>" in made
    assert 'display="block"' in made
    assert "```pycon\n>>> 1 + 1\n2\n```\n\nAfter." in made
    assert not re.search(r":math:|\.\. math|:func:", made)


def test_no_construct_of_restructured_text_is_left_in_a_docstring(docstrings: ModuleType) -> None:
    package = griffe.load("ldmi_lightning", search_paths=[str(REPO)], extensions=griffe.Extensions())
    left = []
    for each in walk(package):
        if each.docstring is not None and re.search(
            r":[a-z]+:`|^ *\.\. [a-z]+::", docstrings.as_markdown(each.docstring.value), re.MULTILINE
        ):
            left.append(each.path)
    assert left == []


def walk(of: "griffe.Object") -> "list[griffe.Object]":
    found = [of]
    for each in of.members.values():
        if not each.is_alias:
            found += walk(each)
    return found


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ('"""Doc."""\ndef f():\n    pass\n', ["m.f has no docstring"]),
        ('"""Doc."""\nclass A:\n    """Doc."""\n    def g(self):\n        pass\n', ["m.A.g has no docstring"]),
        ('"""Doc."""\nX = 1\ndef _f():\n    pass\n', []),
    ],
)
def test_a_public_name_without_a_docstring_is_a_warning_which_a_strict_build_refuses(
    docstrings: ModuleType, caplog: pytest.LogCaptureFixture, tmp_path: Path, code: str, complaint: list[str]
) -> None:
    (tmp_path / "m.py").write_text(code)
    with caplog.at_level(logging.WARNING):
        griffe.load("m", search_paths=[str(tmp_path)], extensions=griffe.Extensions(docstrings.Docstrings()))
    assert [record.getMessage().removeprefix("docstrings: ") for record in caplog.records] == complaint


def test_a_notebook_shows_what_its_cells_print_and_draw(hooks: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "small.py"
    script.write_text(
        "# %% [markdown]\n# # Small\n\n# %%\nx = 2\nprint(x + 1)\n\n# %%\n"
        "import matplotlib.pyplot as plt\n\nplt.plot([1, x])\n"
    )
    made = hooks.notebooks.as_markdown(script, "docs/notebooks/small.py")
    assert made.startswith("# Small\n\n```python\nx = 2\nprint(x + 1)\n```\n\n```text\n3\n```\n\n```python\nimport")
    assert made.count("](data:image/png;base64,") == 1
    assert "jupytext --to ipynb docs/notebooks/small.py" in made


def test_a_notebook_whose_cell_fails_stops_the_build(hooks: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "wrong.py"
    script.write_text("# %%\nassert 1 + 1 == 3\n")
    with pytest.raises(AssertionError):
        hooks.notebooks.as_markdown(script, "wrong.py")


@pytest.mark.parametrize(
    ("page", "text", "shown"),
    [
        (
            "a.md",
            "[the losses](../ldmi_lightning/losses/__init__.py)",
            "the losses (`ldmi_lightning/losses/__init__.py`)",
        ),
        ("results/README.md", "[methods](../methods.md)", "[methods](../methods.md)"),
        ("results/README.md", "[a grid](../../configs/grids/mr.yaml)", "a grid (`configs/grids/mr.yaml`)"),
    ],
)
def test_links_to_files_without_a_page_become_their_names(hooks: ModuleType, page: str, text: str, shown: str) -> None:
    assert hooks.on_page_markdown(text, page_of(page)) == shown


@pytest.mark.parametrize(("parent", "meta"), [(None, {"hide": ["navigation"]}), ("Guides", {})])
def test_a_page_that_stands_alone_has_no_menu_beside_it(hooks: ModuleType, parent: str | None, meta: object) -> None:
    page = page_of("start.md", parent)
    hooks.on_page_markdown("", page)
    assert page.meta == meta


def page_of(src_uri: str, parent: str | None = "a section") -> SimpleNamespace:
    return SimpleNamespace(file=SimpleNamespace(src_uri=src_uri), parent=parent, meta={})


def test_every_public_name_stands_in_the_api() -> None:
    missing = []
    for room in PUBLIC:
        module = importlib.import_module("ldmi_lightning" + room)
        missing += [
            f"{module.__name__}.{name}"
            for name in module.__all__
            if name != "__version__"
            and not re.search(rf"^::: {re.escape(module.__name__)}\.{name}$", API, re.MULTILINE)
        ]
    assert missing == []


def test_every_page_and_notebook_stands_in_the_navigation() -> None:
    navigation = (REPO / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    pages = [str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if "cells" not in path.parts]
    pages += [f"notebooks/{path.stem}.md" for path in (DOCS / "notebooks").glob("*.py")]
    assert len(pages) > 40
    assert [page for page in pages if not re.search(rf"[-:] {re.escape(page)}$", navigation, re.MULTILINE)] == []
