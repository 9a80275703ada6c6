"""Checkpoint files: reading one safely, and telling whether it belongs to the run that wants to go on from it."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldmi_lightning.errors import UserError

KEY = "ldmi_lightning"
"""Where a checkpoint holds what is LDMIModule's own: ``progress`` and ``identity``."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read one of LDMIModule's checkpoints without running code from it, or say what is wrong with it.

    Every byte is checked against the CRC-32 that PyTorch stores beside each tensor (and does not look at itself): a
    single flipped one is found. That costs nothing when a checkpoint is saved.

    Raises:
        UserError: the file is missing, damaged or none of LDMIModule's; its message names an intact one beside it.
    """
    checkpoint, fault = _read(Path(path))
    if fault:
        raise UserError(f"{path} cannot be used: {fault}.{_intact_neighbours(Path(path))}")
    return checkpoint


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """Return a checkpoint, or what is wrong with it."""
    if not path.is_file():
        return {}, "there is no such file"
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            return {}, f"it is damaged (in {damaged})"
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except zipfile.BadZipFile:
        return {}, "it is cut short, or no checkpoint at all"
    except Exception as error:  # whatever a foreign file makes PyTorch say
        return {}, f"PyTorch refuses to read it ({str(error).splitlines()[0].rstrip('.')})"
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(KEY), dict):
        return {}, "it is none of LDMIModule's checkpoints"
    if not isinstance(weights := checkpoint.get("state_dict"), dict):
        return {}, "it holds no weights"
    for name, value in weights.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
            return {}, f"its weights {name} are not finite"
    return checkpoint, ""


def _intact_neighbours(path: Path) -> str:
    others = sorted(path.parent.glob("*.ckpt"), key=lambda each: each.stat().st_mtime, reverse=True)
    intact = [each for each in others if each != path and not _read(each)[1]]
    return f" Intact beside it, newest first: {', '.join(map(str, intact))}." if intact else ""


def difference(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Name the first key in which two identities differ, with both values; empty if they agree.

    >>> difference({"data.batch_size": 64}, {"data.batch_size": 128})
    'data.batch_size is 128, but was 64'
    """
    for key in [*saved, *(key for key in now if key not in saved)]:
        if saved.get(key) != now.get(key):
            return f"{key} is {now.get(key)}, but was {saved.get(key)}"
    return ""


def flatten(config: Any, prefix: str, skip: tuple[str, ...]) -> dict[str, Any]:
    """Turn a nested configuration into dotted keys, without those whose last part is in ``skip``.

    >>> flatten({"warmup": {"epochs": 2, "lr": 0.1}}, "model", skip=("epochs",))
    {'model.warmup.lr': 0.1}
    """
    if not isinstance(config, Mapping):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key not in skip:
            flat |= flatten(value, f"{prefix}.{key}", skip)
    return flat


def is_plain(value: Any) -> bool:
    """Whether a value is made of plain Python types only, which load without running code.

    >>> is_plain({"lr": 0.1, "sizes": [1, 2]}), is_plain(object())
    (True, False)
    """
    if isinstance(value, Mapping):
        return all(isinstance(key, str | int) and is_plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(is_plain(each) for each in value)
    return value is None or isinstance(value, bool | int | float | str)
