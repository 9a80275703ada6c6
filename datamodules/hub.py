"""Loading a data set from a local folder or the Hugging Face hub, with errors that say what to do."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

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
    import datasets

    if root is not None and not Path(root).is_dir():
        raise UserError(
            f"--data.root {root} is no folder. Give the folder that holds the files of {hub_id}, for example one made by "
            f"`hf download {hub_id} --repo-type dataset --local-dir {root}`, or leave --data.root out to load it from "
            "the hub."
        )
    datasets.disable_progress_bars()
    where = f"--data.root {root}" if root else "the hub"
    remedy = (
        f"Give a local copy with --data.root, for example one made by `hf download {hub_id} --repo-type dataset "
        "--local-dir FOLDER`."
    )
    try:
        data = datasets.load_dataset(root or hub_id)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{hub_id} could not be loaded from {where}: {reason.rstrip('.')}. {remedy}") from error
    for split in splits:
        if split not in data:
            raise UserError(f"{where} has no {split} split, but {sorted(data)}: it is not {hub_id}. {remedy}")
        if missing := sorted(set(columns) - set(data[split].column_names)):
            raise UserError(
                f"The {split} split in {where} has no column {missing[0]}, but {data[split].column_names}: "
                f"it is not {hub_id}. {remedy}"
            )
    return data


def decode_images(data: Any, column: str, mode: Literal["L", "RGB"]) -> Tensor:
    """Decode a column of images of one size.

    Args:
        data: a ``datasets.Dataset``.
        column: name of the column.
        mode: ``"L"`` for grey, ``"RGB"`` for colour.

    Returns:
        uint8, shape ``(N, channels, height, width)``.
    """
    import datasets

    files = data.cast_column(column, datasets.Image(decode=False))[column]
    images = [_decode(file, number, column, mode) for number, file in enumerate(files)]
    odd = next((number for number, image in enumerate(images) if image.shape != images[0].shape), None)
    if odd is not None:
        raise UserError(
            f"Image {odd} of column {column} has shape {images[odd].shape}, but the first has {images[0].shape}: this data "
            "set needs images of one size. Look at --data.root."
        )
    pixels = np.stack(images)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:3], -1)).permute(0, 3, 1, 2).contiguous()


def _decode(file: Any, number: int, column: str, mode: str) -> NDArray[np.uint8]:
    try:
        source = io.BytesIO(file["bytes"]) if file["bytes"] is not None else file["path"]
        return np.asarray(Image.open(source).convert(mode))
    except (OSError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"Image {number} of column {column} cannot be decoded ({reason}). Mend it in --data.root."
        ) from error
