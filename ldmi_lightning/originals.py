"""What a sample was before it became numbers, for people to look at: a file, a text or a picture."""

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

THUMBNAIL = 96
"""Height and width within which a thumbnail stays, in pixels."""


class Original(NamedTuple):
    """A sample as a person would look at it.

    Attributes:
        kind: what it is; ``"row"`` is a row of a table, of which there is no more to show than its number.
        value: a file's path; a text; pixels, uint8 of shape ``(H, W)`` or ``(H, W, 3)``; ``None`` for a row.
    """

    kind: Literal["file", "text", "image", "row"]
    value: "Path | str | NDArray[np.uint8] | None"


class Originals(Sequence[Original | None]):
    """The originals of samples, each read when it is asked for.

    Args:
        samples: how many there are.
        read: returns the original at a position from 0, ``None`` where there is nothing to show.

    >>> both = Originals(2, lambda position: Original("text", "ab"[position]))
    >>> both[-1].value, [each.value for each in both]
    ('b', ['a', 'b'])
    """

    def __init__(self, samples: int, read: Callable[[int], Original | None]) -> None:
        self.samples, self.read = samples, read

    def __len__(self) -> int:
        return self.samples

    @overload
    def __getitem__(self, where: int) -> Original | None: ...

    @overload
    def __getitem__(self, where: slice) -> list[Original | None]: ...

    def __getitem__(self, where: int | slice) -> Original | list[Original | None] | None:
        found = range(self.samples)[where]
        return self.read(found) if isinstance(found, int) else [self.read(position) for position in found]

    def __iter__(self) -> Iterator[Original | None]:
        return map(self.read, range(self.samples))


def caption(original: Original | None) -> str:
    """Return an original's text, or its file's path; empty for a picture, a row, and where there is nothing.

    >>> caption(Original("file", Path("a/b.png"))), caption(Original("image", np.zeros((2, 2), np.uint8)))
    ('a/b.png', '')
    """
    return str(original.value) if original is not None and original.kind in ("file", "text") else ""


def thumbnail(original: Original | None, size: int = THUMBNAIL) -> bytes | None:
    """Return a picture no larger than ``size`` × ``size`` as a PNG file; smaller ones keep their own size.

    Args:
        original: a picture, or an image file.
        size: height and width, at least 1.

    Returns:
        What the file holds; ``None`` for a text or a row, and for a file that is no image, is broken or has gone.

    >>> made = thumbnail(Original("image", np.zeros((200, 100, 3), np.uint8)))
    >>> Image.open(io.BytesIO(made)).size  # width and height
    (48, 96)
    """
    if original is None or original.kind not in ("file", "image"):
        return None
    try:
        image = _opened(Path(str(original.value)), size) if original.kind == "file" else _drawn(original.value)
    except Exception:  # there is no end to what Pillow raises on broken bytes
        return None
    image.thumbnail((size, size))
    written = io.BytesIO()
    image.save(written, "png")
    return written.getvalue()


def _drawn(pixels: Any) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels, np.uint8))


def _opened(path: Path, size: int) -> Image.Image:
    """Return an image file upright, on white, in grey or colour; of a large JPEG a smaller decoding."""
    if not path.is_file():  # to open a FIFO would wait for ever
        raise FileNotFoundError(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata that is written badly
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as opened:
            opened.draft("RGB", (size, size))
            image: Image.Image = ImageOps.exif_transpose(opened) or opened
            if image.mode[0] == "I":  # grey of 16 bits
                return Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65_535) // 257).astype(np.uint8))
            if image.mode in ("L", "RGB") and "transparency" not in image.info:
                return image.copy()
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
