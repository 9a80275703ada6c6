"""What stands in the place of a file that a download has not brought: a Git-LFS pointer, or a web page."""

import re
import stat
from pathlib import Path

LFS = b"version https://git-lfs.github.com/spec"
HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*\?>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.I | re.S
)
HEAD = 1024
"""So many bytes tell it."""


def what_it_is(content: bytes) -> str | None:
    """Say what a file is, if it is not what its name says but one of those that failed downloads leave.

    Args:
        content: the file's first bytes, or all of them.

    Returns:
        What it is and what to do, to follow "it is"; ``None`` where nothing is known of it.

    >>> what_it_is(b"<!DOCTYPE html><title>Not found</title>")
    'an HTML page: download the file itself'
    >>> what_it_is(b"0,1")
    """
    if content.startswith(LFS):
        return "a Git-LFS pointer: fetch the file itself with `git lfs pull`"
    if HTML.match(content[:HEAD]):
        return "an HTML page: download the file itself"
    return None


def kind_of_file(path: str | Path) -> str | None:
    """Say the same of a file: see :func:`what_it_is`.

    Returns:
        ``None`` also where the file cannot be read, which whoever opens it will say.
    """
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # a FIFO would be waited for
            return None
        with Path(path).open("rb") as file:
            return what_it_is(file.read(HEAD))
    except OSError:
        return None
