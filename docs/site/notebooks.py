"""The notebooks as pages: each cell is run when the site is built, and shows what it prints and draws."""

import base64
import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import jupytext
import matplotlib

matplotlib.use("Agg")  # before pyplot is imported, which is never asked for a window
import matplotlib.pyplot as plt

FOOT = """

---

This page is a notebook, run when the site was built. `jupytext --to ipynb {path}` makes one for Jupyter.
"""


def as_markdown(path: Path, shown_as: str) -> str:
    """Run a notebook in jupytext's percent format, and return it in Markdown.

    Args:
        path: the script.
        shown_as: its path, as a reader should give it.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    parts = []
    for cell in jupytext.read(path).cells:
        if cell.cell_type == "code":
            parts.append(f"```python\n{cell.source}\n```")
            printed = io.StringIO()
            with redirect_stdout(printed):
                exec(compile(cell.source, str(path), "exec"), names)
            if text := printed.getvalue().rstrip():
                parts.append(f"```text\n{text}\n```")
            parts += _figures()
        else:
            parts.append(cell.source)
    return "\n\n".join(parts) + FOOT.format(path=shown_as)


def _figures() -> list[str]:
    """Return the figures that a cell has left open, and close them."""
    parts = []
    for number in plt.get_fignums():
        drawn = io.BytesIO()
        plt.figure(number).savefig(drawn, format="png", dpi=150)
        plt.close(number)
        parts.append(f"![What the cell drew](data:image/png;base64,{base64.b64encode(drawn.getvalue()).decode()})")
    return parts
