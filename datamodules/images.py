"""The one reader of images, for all data sets: whatever Pillow reads becomes 8 bits, upright, without transparency."""

import io
import stat
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from ldmi_lightning.errors import UserError
from ldmi_lightning.file_kinds import HEAD, what_it_is
from ldmi_lightning.saying import say

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""What the names of image files end with, in small or capital letters."""

READER = 2
"""Version of the reader, which grows where it gives other pixels: what an older one has kept is not used."""

SHOWN = 20
"""So many broken images are named, and the others counted."""

ORIENTATION = 0x0112
UPRIGHT = {
    # ImageOps.exif_transpose does the same, and writes the EXIF anew, which fails where a camera has written it badly.
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Mode = Literal["L", "RGB"]


class UnreadableImage(UserError):
    """An image that is missing, cut short, or none.

    Args:
        what: the file, or which image it is.
        reason: what is wrong with it.
    """

    def __init__(self, what: object, reason: str) -> None:
        super().__init__(f"{what} cannot be read ({reason})")
        self.what, self.reason = what, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.reason)


def read_image(
    file: Path | bytes,
    mode: Mode = "RGB",
    *,
    at_least: int | None = None,
    notes: Counter[str] | None = None,
) -> Tensor:
    """Decode an image.

    - The orientation in EXIF is applied.
    - Transparency is put on white, as a page shows it.
    - Grey of 16 bits is divided by 257, so that black stays black and white stays white. Whole numbers of 32 bits are
      taken as 16 bits, and refused where they exceed them; floating-point numbers are refused, since nobody says which is
      white. Colour of 16 bits a channel keeps its upper 8.
    - CMYK becomes RGB without a colour profile; profiles are not applied at all.
    - Of several frames (GIF, TIFF, MPO, WebP) the first is read.
    - More pixels than ``PIL.Image.MAX_IMAGE_PIXELS`` (89,478,485) are refused.

    Args:
        file: a file, or what one holds.
        mode: ``"L"`` for grey, ``"RGB"`` for colour.
        at_least: height and width below which the image may not come out; a JPEG file of at least twice that is decoded at
            a half, a quarter or an eighth of its size, which is quicker. ``None`` for the image's own size.
        notes: what was done to the image is counted there, in words that follow a number.

    Returns:
        uint8, shape ``(1, H, W)`` or ``(3, H, W)``.

    Raises:
        UnreadableImage: if there is none to decode.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of metadata that is written badly: pixels that cannot be read are an error
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(_source(file)) as opened:
                if at_least is not None:
                    opened.draft("RGB", (at_least, at_least))
                pixels = np.array(_plain(opened, mode, notes))
    except Exception as error:  # There is no end to what Pillow raises on broken bytes.
        what = "The image" if isinstance(file, bytes) else file
        raise UnreadableImage(what, _reason(error, file)) from error
    image = torch.from_numpy(pixels)
    return image.permute(2, 0, 1) if mode == "RGB" else image.unsqueeze(0)


def _source(file: Path | bytes) -> Path | io.BytesIO:
    """Return what Pillow opens, or raise: to open a FIFO would wait for ever."""
    if isinstance(file, bytes):
        if not file:
            raise ValueError("it is empty")
        return io.BytesIO(file)
    status = file.stat()
    if stat.S_ISDIR(status.st_mode):
        raise ValueError("it is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is a FIFO, a socket or a device, and no file")
    if not status.st_size:
        raise ValueError("it is empty")
    return file


def _plain(image: Image.Image, mode: Mode, notes: Counter[str] | None) -> Image.Image:
    """Return the image upright, in ``mode``, without transparency."""
    done = []
    if notes is not None and getattr(image, "is_animated", False):  # before it is loaded, which may close the file
        done.append("with several frames, of which the first is taken")
    image.load()  # before EXIF is asked for: of a TIFF file this applies the orientation, and takes it out
    if (turn := UPRIGHT.get(_orientation(image))) is not None:
        image = image.transpose(turn)
        done.append("turned upright, as their EXIF says")
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        pass
    elif image.mode[0] == "I":
        image = _from_16_bits(image)
        done.append("of 16 bits, brought to 8")
    elif image.mode == "F":
        raise ValueError(
            "it holds floating-point numbers, of which nobody says which is white; save it with 8 or 16 bits"
        )
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image, transparent = _on_white(image)
        done += ["with transparency, put on white"] if transparent else []
    elif image.mode == "CMYK":
        done.append("in CMYK, brought to RGB")
    if notes is not None:
        notes.update(done)
    return image if image.mode == mode else image.convert(mode)


def _orientation(image: Image.Image) -> int:
    try:
        found: int = image.getexif().get(ORIENTATION, 1)
    except Exception:  # what cannot be read says nothing, and the pixels are whole
        return 1
    return found if isinstance(found, int) else 1


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65_535:
        raise ValueError(
            f"it holds whole numbers from {low} to {high}, but grey is read up to 16 bits, 0 to 65,535; save it with those"
        )
    grey = ((values + 128) // 257).astype(np.uint8)
    if isinstance(transparent := image.info.get("transparency"), int):
        grey[values == transparent] = 255
    return Image.fromarray(grey)


def _on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """Return the image on white, and whether any of it was transparent."""
    if image.mode in ("La", "RGBa"):  # multiplied by its alpha
        image = image.convert(image.mode.upper())
    image = image.convert("RGBA")
    least = image.getchannel("A").getextrema()[0]
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB"), least != 255


def _reason(error: Exception, file: Path | bytes) -> str:
    """Return in one line why an image cannot be read."""
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels, and is not read; scale it down"
    if isinstance(error, UnidentifiedImageError):
        kind = what_it_is(file if isinstance(file, bytes) else _head(file))
        return f"it is {kind or 'no image'}"
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(said).splitlines()[0]


def _head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(HEAD)


def say_notes(notes: Counter[str], total: int, where: str) -> None:
    """Say in one line what was done to images, if anything was."""
    if notes:
        done = ", ".join(f"{count:,} {what}" for what, count in notes.most_common())
        say(f"{where}: of {total:,} images {done}.")


def refuse_broken(broken: list[UnreadableImage], total: int, where: str, verb: str = "read") -> None:
    """Raise if there are broken images; one line names all of them, or the first :data:`SHOWN` and how many there are.

    Args:
        broken: what was raised.
        total: number of images that were tried.
        where: the option that says where they are.
        verb: what cannot be done to them.
    """
    if not broken:
        return
    if len(broken) == 1:
        (only,) = broken
        raise UserError(
            f"{only.what} cannot be {verb} ({only.reason}). Repair it, or take it out of {where}."
        ) from only
    shown = ", ".join(f"{each.what} ({each.reason})" for each in broken[:SHOWN])
    more = f" and {len(broken) - SHOWN:,} more" if len(broken) > SHOWN else ""
    raise UserError(
        f"{len(broken):,} of {total:,} images cannot be {verb}: {shown}{more}. Repair them, or take them out of {where}."
    ) from broken[0]


def decode_images(
    data: Any,
    column: str,
    mode: Mode,
    *,
    size: int | None = None,
    positions: NDArray[np.int64] | None = None,
    option: str = "--data.root",
) -> Tensor:
    """Decode a column of images, as :func:`read_image` does.

    Args:
        data: a ``datasets.Dataset``.
        column: name of the column.
        mode: ``"L"`` for grey, ``"RGB"`` for colour.
        size: height and width to which each image is brought, whatever its shape; ``None`` for images of one size.
        positions: those to decode, in this order; ``None`` for all.
        option: the option that says where the data is, for the errors.

    Returns:
        uint8, shape ``(N, channels, height, width)``.

    Raises:
        UserError: if images cannot be decoded, all of which are named, or differ in size where they may not.
    """
    import datasets

    files = data.select_columns(column).cast_column(column, datasets.Image(decode=False))
    numbers = np.arange(len(files)) if positions is None else positions
    files = files if positions is None else files.select(positions)
    images = torch.empty(0, dtype=torch.uint8)
    first = -1
    broken: list[UnreadableImage] = []
    notes: Counter[str] = Counter()
    for row, (number, file) in enumerate(zip(numbers.tolist(), _cells(files, column), strict=True)):
        try:
            image = read_cell(file, mode, notes)
        except UnreadableImage as error:
            broken.append(UnreadableImage(f"Image {number} of column {column}", error.reason))
            continue
        if size is not None:
            image = resize(image, [size, size], antialias=True)
        if first < 0:
            images, first = torch.empty(len(numbers), *image.shape, dtype=torch.uint8), number
        if image.shape != images.shape[1:]:
            raise UserError(
                f"Image {number} of column {column} has height and width {tuple(image.shape[1:])}, but image {first} "
                f"{tuple(images.shape[2:])}: this data set needs images of one size. Look at {option}."
            )
        images[row] = image
    refuse_broken(broken, len(numbers), option, "decoded")
    say_notes(notes, len(numbers), f"Column {column}")
    return images


def _cells(data: Any, column: str) -> Iterator[Any]:
    """Yield a column's cells, some hundreds read at once: encoded images are large."""
    for batch in data.iter(batch_size=256):
        yield from batch[column]


def read_cell(cell: Any, mode: Mode, notes: Counter[str]) -> Tensor:
    """Return the image of a cell of a column of images, which holds ``bytes`` or a ``path``; see :func:`read_image`."""
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise UnreadableImage("The image", "there is none")
    return read_image(cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]), mode, notes=notes)
