"""Checkpoint files: reading one safely, and telling whether it belongs to the run that is to be resumed."""

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldmi_lightning.errors import UserError
from ldmi_lightning.file_kinds import kind_of_file
from ldmi_lightning.pickled import unsafe_globals

KEY = "ldmi_lightning"
"""Where a checkpoint holds what is LDMIModule's own: ``progress`` and ``identity``."""

TO_RESUME = ("epoch", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers")
"""What a checkpoint must hold beside the weights for a run to be resumed."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read one of LDMIModule's checkpoints without running code from it, or say what is wrong with it.

    Every byte is checked against the CRC-32 that PyTorch stores beside each tensor (and does not look at itself): a
    single flipped one is found. That costs nothing when a checkpoint is saved.

    Raises:
        UserError: the file is missing, damaged or none of LDMIModule's; its message names an intact one beside it.
    """
    checkpoint, fault = _read(Path(path))
    if fault:
        raise UserError(f"{path} cannot be used: {fault}. {_advice(Path(path))}")
    return checkpoint


def refuse_damaged(path: str | Path) -> None:
    """Refuse a file that Lightning is about to read, if it is damaged or could run code.

    A checkpoint that is intact, but none of LDMIModule's, is left to who resumes it.
    """
    loaded, fault = _load(Path(path))
    if not fault and isinstance(loaded, dict) and KEY in loaded:
        fault = _fault_in(loaded)
    if fault:
        raise UserError(f"{path} cannot be used: {fault}. {_advice(Path(path))}")


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], float | None]:
    """Read a backbone's weights without running code from the file.

    Args:
        path: one of LDMIModule's checkpoints, or what ``torch.save(backbone.state_dict(), path)`` has written.

    Returns:
        The weights, under the backbone's own names; and the learning rate at which the checkpoint's first stage ended,
        ``None`` for a plain state dict.

    Raises:
        UserError: the file is missing, damaged or holds no weights.
    """
    loaded, fault = _load(Path(path))
    if not fault and isinstance(loaded, dict) and KEY in loaded:
        loaded, fault = _read(Path(path))
    elif not fault and not (
        isinstance(loaded, dict) and loaded and all(isinstance(v, Tensor) for v in loaded.values())
    ):
        fault = "it holds neither a checkpoint of LDMIModule nor a backbone's state dict"
    if fault:
        raise UserError(f"{path} cannot be used: {fault}. {_advice(Path(path))}")
    if KEY not in loaded:
        return loaded, None
    progress = loaded[KEY]["progress"]
    first = next(iter([*progress["finished"].values(), progress]))
    prefix = "backbone."
    weights = {name.removeprefix(prefix): v for name, v in loaded["state_dict"].items() if name.startswith(prefix)}
    return weights, first.get("lr")


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """Return one of LDMIModule's checkpoints, or what is wrong with it."""
    checkpoint, fault = _load(path)
    if fault:
        return {}, fault
    fault = _fault_in(checkpoint)
    return ({}, fault) if fault else (checkpoint, "")


def _fault_in(checkpoint: Any) -> str:
    """Return what keeps the content of a file from being one of LDMIModule's checkpoints; empty if nothing does."""
    own = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(own, dict) or not {"progress", "identity"} <= own.keys():
        return "it is none of LDMIModule's checkpoints"
    if not isinstance(checkpoint.get("state_dict"), dict):
        return "it holds no weights"
    for part in ("state_dict", "optimizer_states", KEY):
        for name, value in _tensors(checkpoint.get(part), part):
            if value.is_floating_point() and (value.isnan() | value.isposinf()).any():  # a mask may hold -inf
                return f"{name} is not finite"
    return ""


def _load(path: Path) -> tuple[Any, str]:
    """Return what a file holds, or what is wrong with it."""
    if not path.is_file():
        return {}, "there is no such file"
    if kind := kind_of_file(path):
        return {}, f"it is {kind}"
    try:
        with zipfile.ZipFile(path) as archive:
            folders = [each.filename for each in archive.infolist() if each.external_attr]  # PyTorch would skip them
            damaged = archive.testzip() or next(iter(folders), None)
        if damaged is not None:
            return {}, f"it is damaged (in {damaged})"
        return torch.load(path, map_location="cpu", weights_only=True), ""
    except zipfile.BadZipFile:
        return {}, "it is cut short, damaged, or no checkpoint at all"
    except pickle.UnpicklingError:
        if names := unsafe_globals(path):
            return {}, f"it holds Python objects, which could run code ({', '.join(names[:3])}), and is not loaded"
        return {}, "it is damaged, or saved in a way that PyTorch does not read without running code"
    except OSError as error:
        return {}, f"it cannot be read ({error.strerror})"
    except Exception as error:  # whatever a foreign file makes zipfile and PyTorch say
        return {}, f"it is damaged, or no checkpoint at all ({type(error).__name__})"


def _tensors(nest: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Walk through a nest of dicts and lists."""
    if isinstance(nest, Tensor):
        yield prefix, nest
    elif isinstance(nest, Mapping | list | tuple):
        for key, value in nest.items() if isinstance(nest, Mapping) else enumerate(nest):
            yield from _tensors(value, f"{prefix}.{key}")


def _advice(path: Path) -> str:
    others = sorted(path.parent.glob("*.ckpt"), key=lambda each: each.stat().st_mtime, reverse=True)
    intact = next((each for each in others if each != path and not _read(each)[1]), None)
    return f"Intact beside it: {intact}." if intact else "A run keeps last.ckpt, to resume from, in its run folder."


def misfit(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Name the first weights that a checkpoint and a module do not share in one shape; empty if there are none.

    >>> misfit({"fc.weight": torch.zeros(10, 4)}, {"fc.weight": torch.zeros(3, 4)})
    'fc.weight is (10, 4) in the checkpoint, but (3, 4) in the model'
    """
    for name in [*saved, *(name for name in own if name not in saved)]:
        there, here = (tuple(nest[name].shape) if name in nest else "missing" for nest in (saved, own))
        if there != here:
            return f"{name} is {there} in the checkpoint, but {here} in the model"
    return ""


def difference(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Name the first key in which two identities differ, with both values; empty if they agree.

    >>> difference({"data.batch_size": 64}, {"data.batch_size": 128})
    'data.batch_size is 128, but was 64'
    """
    for key in [*saved, *(key for key in now if key not in saved)]:
        if saved.get(key) != now.get(key):
            return f"{key} is {now.get(key)}, but was {saved.get(key)}"
    return ""


def flatten(config: Any, prefix: str) -> dict[str, Any]:
    """Turn a nested configuration into dotted keys.

    >>> flatten({"warmup": {"epochs": 2, "optimizer": {"lr": 0.1}}}, "model")
    {'model.warmup.epochs': 2, 'model.warmup.optimizer.lr': 0.1}
    """
    if not isinstance(config, Mapping):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}.{key}")
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
