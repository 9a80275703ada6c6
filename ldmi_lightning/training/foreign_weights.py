"""Weights as other code keeps them: in a dict within the file, or in PyTorch's format before 1.6, as model zoos have it."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldmi_lightning.checkpoints import KEY, read_weights
from ldmi_lightning.errors import UserError

PLACES = ("state_dict", "model_state_dict", "model")
"""Where training scripts put a net's state dict."""
LEGACY = b"\x80\x02"
"""What PyTorch's files began with before they were zip files: a pickle of protocol 2."""


def read_any_weights(path: str) -> tuple[dict[str, Tensor], float | None, str]:
    """Read a net's weights without running code from the file.

    Returns:
        The weights; the learning rate that they were trained to, ``None`` where it is unknown; and under which key they were
        found, empty for a file of weights alone.

    Raises:
        UserError: the file is missing, damaged or holds no weights.
    """
    try:
        return *read_weights(path), ""
    except UserError:
        loaded = _load_intact(Path(path))
        for place, found in [("", loaded), *((place, loaded.get(place)) for place in PLACES)]:
            if isinstance(found, dict) and found and all(isinstance(each, Tensor) for each in found.values()):
                return found, None, place
        raise


def _load_intact(path: Path) -> dict[Any, Any]:
    """Return the dict that an intact file of someone else's holds; empty if there is none."""
    try:
        with path.open("rb") as file:
            legacy = file.read(len(LEGACY)) == LEGACY
        if not legacy:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    return {}
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError):
        return {}
    return loaded if isinstance(loaded, dict) and KEY not in loaded else {}
