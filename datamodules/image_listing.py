"""Which image files a folder holds, what else lies there, and which of the files are the same byte for byte."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.errors import UserError

from .images import SUFFIXES

ROOT = "--data.root"
HIDDEN = "hidden"
LOOPS = "leading back to a folder above"


def list_images(folder: Path, left_out: Counter[str], above: Sequence[Path] = ()) -> list[Path]:
    """Return the image files in a folder and the folders within it, by name.

    Links are followed, but not to where they lead from.

    Args:
        folder: the folder.
        left_out: what is no image by its name is counted there, by suffix.
        above: the folders that it lies in.

    >>> import tempfile
    >>> root, rest = Path(tempfile.mkdtemp()), Counter()
    >>> (root / "b.JPG").touch(), (root / "a.txt").touch(), (root / "in").mkdir(), (root / "in/c.png").touch()
    (None, None, None, None)
    >>> [path.relative_to(root).as_posix() for path in list_images(root, rest)], dict(rest)
    (['b.JPG', 'in/c.png'], {'.txt': 1})
    """
    return list(iter_images(folder, left_out, above))


def iter_images(folder: Path, left_out: Counter[str], above: Sequence[Path] = (), option: str = ROOT) -> Iterator[Path]:
    """Yield what :func:`list_images` returns, a folder at a time: of a million images the names take memory.

    Args:
        folder: the folder.
        left_out: what is no image by its name is counted there, by suffix.
        above: the folders that it lies in.
        option: what has named it, for messages.
    """
    yield from _walk(folder, {_identity(each) for each in above}, left_out, option)


def _walk(folder: Path, above: set[tuple[int, int]], left_out: Counter[str], option: str) -> Iterator[Path]:
    own = _identity(folder)
    if own in above:
        left_out[LOOPS] += 1
        return
    for entry in entries(folder, option):
        if entry.name.startswith("."):
            left_out[HIDDEN] += 1
        elif entry.is_dir():
            yield from _walk(Path(entry.path), above | {own}, left_out, option)
        elif (suffix := Path(entry.name).suffix.lower()) in SUFFIXES:
            yield Path(entry.path)
        else:
            left_out[suffix or "without a suffix"] += 1


def entries(folder: Path, option: str = ROOT) -> list[os.DirEntry[str]]:
    """Return what a folder holds, by name, or raise if nobody may look."""
    try:
        with os.scandir(folder) as scan:
            return sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}). Look at {option}.") from error


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def first_copies(paths: Sequence[Path]) -> NDArray[np.int64]:
    """Return for each file the position of the first one that is the same byte for byte: its own, where there is none before.

    Only files of one size are read.

    >>> import tempfile
    >>> names = [Path(tempfile.mkdtemp()) / name for name in "abcd"]
    >>> [path.write_text(text) for path, text in zip(names, ("one", "two", "one", "three"), strict=True)]
    [3, 3, 3, 5]
    >>> first_copies(names).tolist()
    [0, 1, 0, 3]
    """
    sizes = [path.stat().st_size for path in paths]
    shared = {size for size, count in Counter(sizes).items() if count > 1}
    seen: dict[tuple[int, bytes], int] = {}
    first = np.arange(len(paths))
    for position, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        if size in shared:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "blake2b").digest()
            first[position] = seen.setdefault((size, digest), position)
    return first


def describe_copies(
    paths: Sequence[Path],
    labels: NDArray[np.int64],
    parts: Mapping[str, NDArray[np.int64]],
    root: Path,
) -> list[str]:
    """Say which images of one split are in another, too, and which are in two classes; a line each, none if there are none.

    Args:
        paths: all images.
        labels: their classes, shape ``(N,)``.
        parts: positions by split.
        root: folder below which they are named.
    """
    first = first_copies(paths)
    if (first == np.arange(len(first))).all():
        return []
    lines = []
    for split, other in (("test", "train"), ("val", "train"), ("test", "val")):
        inside = {copy: where for where, copy in zip(parts[other].tolist(), first[parts[other]].tolist(), strict=True)}
        twice = [where for where in parts[split].tolist() if int(first[where]) in inside]
        if twice:
            one, same = (paths[at].relative_to(root) for at in (twice[0], inside[int(first[twice[0]])]))
            lines.append(
                f"{len(twice):,} of {len(parts[split]):,} {split} images are in the {other} split too, byte for byte (first: "
                f"{one}, which is {same}): what is measured on them says little. Keep one of each, or both in one split."
            )
    odd = np.flatnonzero(labels != labels[first])
    if len(odd):
        one, same = (paths[at].relative_to(root) for at in (odd[0], first[odd[0]]))
        lines.append(
            f"{len(odd):,} images are in another class too, byte for byte (first: {one}, which is {same}): "
            "at most one of the two labels is right."
        )
    return lines
