"""The one way a file is written: beside its place, then renamed; so nobody sees it half-written, whoever else writes it."""

import io
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

UNFINISHED = ".tmp"
"""What the name of a file ends with until it is whole. A process that is killed leaves it behind."""

TAG = 12
"""So many hexadecimal digits make such a name its process's own."""


def write(path: Path, content: bytes) -> None:
    """Write a file.

    Raises:
        OSError: it cannot be written; a file that was there before is as it was.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write(folder / "a.txt", b"one")
    >>> [each.name for each in folder.iterdir()], (folder / "a.txt").read_bytes()
    (['a.txt'], b'one')
    """
    write_with(path, lambda file: file.write(content))


def write_with(path: Path, writer: Callable[[IO[bytes]], Any]) -> None:
    """Write a file by what writes into an open binary one, such as ``lambda file: torch.save(weights, file)``.

    Raises:
        OSError: it cannot be written, whatever the writer makes of that: PyTorch says RuntimeError where a disk is full.
    """
    with beside(path) as unfinished:
        raw = _Remembering(unfinished, "xb")
        try:
            with io.BufferedWriter(raw) as file:
                writer(file)
        except Exception as error:
            if raw.fault is None:
                raise
            raise OSError(raw.fault.errno, raw.fault.strerror, str(path)) from error


def copy(source: Path, target: Path) -> None:
    """Copy a file."""
    with beside(target) as unfinished:
        shutil.copyfile(source, unfinished)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Give a name beside ``path`` that nobody else has; what stands under it takes the place of ``path`` in the end.

    Where that fails, ``path`` is as it was, and nothing is left beside it.
    """
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex[:TAG]}{UNFINISHED}")
    try:
        yield unfinished
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder beside ``folder`` that takes its place in the end; where that fails, nothing is left of it.

    Raises:
        OSError: the folder is there already, or cannot be written.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} is there already")
    unfinished = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:TAG]}{UNFINISHED}")
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def unfinished_in(folder: Path) -> Iterator[Path]:
    """Return what processes are writing in a folder, or have left half-written there when they were killed."""
    return folder.glob(f"*.{'[0-9a-f]' * TAG}{UNFINISHED}")


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes have left in a folder in which nobody else writes."""
    for path in unfinished_in(folder):
        path.unlink(missing_ok=True)


class _Remembering(io.FileIO):
    """A file that remembers why it could not be written, since not every writer hands that on."""

    fault: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.fault = error
            raise
