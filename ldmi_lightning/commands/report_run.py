"""What ``ldmi report`` does: read what the runs have left, and write the page."""

import shlex
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from ldmi_lightning import files
from ldmi_lightning.errors import UserError
from ldmi_lightning.runs.left import read_run

PAGE = "report.html"
"""The name of the page, where none is given."""
MARK = b'<meta name="generator" content="ldmi report">'
"""By this a page of an earlier call is known, which may be replaced."""


def run(options: Namespace, words: Sequence[str]) -> int:
    """Carry out ``ldmi report`` with its parsed options; see :func:`ldmi_lightning.commands.report.run`."""
    folders = [Path(each) for each in options.runs]
    for place, folder in enumerate(folders):
        if folder.resolve() in [each.resolve() for each in folders[:place]]:
            raise UserError(f"The run {folder} is named twice: name each once.")
    path = Path(options.output) if options.output is not None else default_page(folders)
    runs = [read_run(folder) for folder in folders]
    check_place(path)
    for left in runs:
        for sentence in left.missing:
            print(f"{left.folder}: {sentence}")

    from ldmi_lightning.pages.report import (
        report_page,
    )  # matplotlib takes a second, which a mistake should not wait for

    replaced = path.exists()
    files.write(path, report_page(runs, shlex.join(words)).encode())
    print(f"{'Report, in the place of an earlier one' if replaced else 'Report'}: {path}")
    return 0


def default_page(folders: Sequence[Path]) -> Path:
    """Return where the page is written unless the user says otherwise.

    >>> default_page([Path("runs/a")]).as_posix(), default_page([Path("runs/a"), Path("runs/b")]).as_posix()
    ('runs/a/report.html', 'report.html')
    """
    return folders[0] / PAGE if len(folders) == 1 else Path(PAGE)


def check_place(path: Path) -> None:
    """Refuse a place where no page can be written, or where something else than a report lies.

    Raises:
        UserError: it is a folder, lies in none, or holds another file.
    """
    if path.is_dir():
        raise UserError(f"--output {path} is a folder: name a file, such as {path / PAGE}.")
    if not path.parent.is_dir():
        raise UserError(f"--output {path}: there is no folder {path.parent}. Make it, or choose another place.")
    if path.exists() and MARK not in path.read_bytes():
        raise UserError(f"--output {path} is there already, and no report: choose another name, or remove it.")
