"""Loading a data set from a local folder or the Hugging Face hub, with errors that say what to do."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from ldmi_lightning.errors import UserError


def load_hub_dataset(root: str | None, hub_id: str, splits: Sequence[str] = (), columns: Sequence[str] = ()) -> Any:
    """Load a data set from a local folder, or from the hub where ``root`` is ``None``.

    Args:
        root: folder that ``datasets.load_dataset`` reads, such as a download of the hub's repository.
        hub_id: the data set's name on the Hugging Face hub.
        splits: the splits that it must have.
        columns: the columns that each of these must have.

    Returns:
        A ``datasets.DatasetDict``.
    """
    if root is not None and not Path(root).is_dir():
        raise UserError(
            f"--data.root {root} is no folder. Give the folder that holds the files of {hub_id}, for example one made by "
            f"`{download_command(hub_id, root)}`, or leave --data.root out to load it from the hub."
        )
    where = f"--data.root {root}" if root else "the hub"
    remedy = f"Give a local copy with --data.root, for example one made by `{download_command(hub_id)}`."
    try:
        data = read_dataset(root or hub_id)
    except UnreadableDataset as error:
        raise UserError(f"{hub_id} could not be loaded from {where}: {error}. {remedy}") from error
    for split in splits:
        if split not in data:
            raise UserError(f"{where} has no {split} split, but {sorted(data)}: it is not {hub_id}. {remedy}")
        if missing := sorted(set(columns) - set(data[split].column_names)):
            raise UserError(
                f"The {split} split in {where} has no column {missing[0]}, but {data[split].column_names}: "
                f"it is not {hub_id}. {remedy}"
            )
    return data


class UnreadableDataset(UserError):
    """A folder or a name that ``datasets`` cannot load; the message is its reason."""


def read_dataset(source: str, subset: str | None = None) -> Any:
    """Load a folder, also one made by ``save_to_disk``, or what the hub has under this name.

    Returns:
        A ``datasets.DatasetDict``.

    Raises:
        UnreadableDataset: if there is none.
    """
    import datasets

    datasets.disable_progress_bars()
    saved = any((Path(source) / name).is_file() for name in ("dataset_dict.json", "state.json"))
    try:
        data = datasets.load_from_disk(source) if saved else datasets.load_dataset(source, subset)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableDataset(reason.rstrip(".")) from error
    return data if isinstance(data, datasets.DatasetDict) else datasets.DatasetDict(train=data)


def download_command(hub_id: str, folder: str = "FOLDER") -> str:
    """Return the command that makes a local copy of a data set on the hub."""
    return f"hf download {hub_id} --repo-type dataset --local-dir {folder}"


def read_labels(data: Any, column: str) -> NDArray[np.int64]:
    """Return a column of whole numbers, shape ``(N,)``, with -1, which is no class, where one is missing."""
    return np.array([-1 if label is None else label for label in data[column][:]], dtype=np.int64)


def decode_images(
    data: Any,
    column: str,
    mode: Literal["L", "RGB"],
    *,
    size: int | None = None,
    positions: NDArray[np.int64] | None = None,
    option: str = "--data.root",
) -> Tensor:
    """Decode a column of images.

    Args:
        data: a ``datasets.Dataset``.
        column: name of the column.
        mode: ``"L"`` for grey, ``"RGB"`` for colour.
        size: height and width to which each image is brought, whatever its shape; ``None`` for images of one size.
        positions: those to decode, in this order; ``None`` for all.
        option: the option that says where the data is, for the errors.

    Returns:
        uint8, shape ``(N, channels, height, width)``.
    """
    import datasets

    files = data.select_columns(column).cast_column(column, datasets.Image(decode=False))
    numbers = np.arange(len(files)) if positions is None else positions
    files = files if positions is None else files.select(positions)
    images = torch.empty(0, dtype=torch.uint8)
    for row, (number, file) in enumerate(zip(numbers, _cells(files, column), strict=True)):
        image = _decode(file, int(number), column, mode, option)
        if size is not None:
            image = resize(image, [size, size], antialias=True)
        if row == 0:
            images = torch.empty(len(numbers), *image.shape, dtype=torch.uint8)
        if image.shape != images.shape[1:]:
            raise UserError(
                f"Image {number} of column {column} has height and width {tuple(image.shape[1:])}, but image {numbers[0]} "
                f"{tuple(images.shape[2:])}: this data set needs images of one size. Look at {option}."
            )
        images[row] = image
    return images


def _cells(data: Any, column: str) -> Iterator[Any]:
    """Yield a column's cells, some hundreds read at once: encoded images are large."""
    for batch in data.iter(batch_size=256):
        yield from batch[column]


def _decode(file: Any, number: int, column: str, mode: str, option: str) -> Tensor:
    """Return one image, uint8, shape ``(channels, height, width)``."""
    try:
        source = io.BytesIO(file["bytes"]) if file["bytes"] is not None else file["path"]
        pixels = np.array(Image.open(source).convert(mode))
    except Exception as error:  # There is no end to what Pillow raises on broken bytes.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"Image {number} of column {column} cannot be decoded ({reason}). Mend it in {option}."
        ) from error
    return torch.from_numpy(pixels).view(*pixels.shape[:2], -1).permute(2, 0, 1)
