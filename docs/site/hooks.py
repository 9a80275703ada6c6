"""What the site takes from elsewhere: the changelog, the notebooks, and names of the files that have no page of their own."""

import re
from pathlib import Path
from typing import Any

import notebooks
from mkdocs.structure.files import File, Files

REPO = Path(__file__).parents[2]


def on_files(files: Files, config: Any, **_: Any) -> None:
    """Add a page for each notebook."""
    for path in sorted((REPO / "docs" / "notebooks").glob("*.py")):
        content = notebooks.as_markdown(path, str(path.relative_to(REPO)))
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=content))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put the changelog into its page, show links to files of the repository as their names, and hide a menu of one."""
    if page.parent is None:
        page.meta["hide"] = ["navigation"]
    if page.file.src_uri == "changelog.md":
        return (REPO / "CHANGELOG.md").read_text()
    up = "../" * page.file.src_uri.count("/")
    return re.sub(rf"\[([^\]]+)\]\({re.escape(up)}\.\./((?!\w+\.md)[^)]+)\)", r"\1 (`\2`)", markdown)
