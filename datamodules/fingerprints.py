"""What tells one data set from another: digests of inputs and splits, and transforms in words."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ldmi_lightning.inputs import tensors_in

from .loaders import Split
from .streamed import Streamed

LOOKED_AT = 1000
"""So many of the images of a split that may be streamed, spread over it, are looked at where a run is told from another."""
TRAINED_ON = ("train", "val")


def inputs_digest(inputs: Mapping[str, Any], most: int | None = None) -> str:
    """Return the SHA-256 of the training and validation inputs; of streamed ones, of what tells them from others.

    Of a tuple or dict of tensors the places and names count too.

    Args:
        inputs: those of each split, as they are stored, or as they are read.
        most: how many files or rows of a split to look at, which takes a while where there are a million; ``None`` for all.
    """
    digest = hashlib.sha256()
    for name in TRAINED_ON:
        x = inputs[name]
        if isinstance(x, Streamed):
            digest.update(f"{x.kinds()}\n".encode())
            for trait in x.traits(most):
                digest.update(trait)
        else:
            for where, tensor in tensors_in(x, ""):
                digest.update(f"{where and where + ' '}{tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(as_bytes(tensor))
    return digest.hexdigest()


def split_digest(splits: Mapping[str, Split]) -> str:
    """Return the SHA-256 of which samples of the original data set are in training, and which in validation."""
    return hashlib.sha256(b"|".join(bytes(as_bytes(splits[name].original_index)) for name in TRAINED_ON)).hexdigest()


def described(transform: nn.Module) -> str:
    """Return what a transform does, in one line: its parts, their plain settings, and digests of their tensors.

    >>> described(nn.Sequential(nn.ZeroPad2d(2), nn.Flatten(2)))
    'Sequential(), ZeroPad2d(padding=(2, 2, 2, 2), value=0.0), Flatten(end_dim=-1, start_dim=2)'
    """
    parts = []
    for part in transform.modules():
        plain = {
            name: value for name, value in vars(part).items() if isinstance(value, int | float | str | tuple | list)
        }
        settings = [
            f"{name}={value!r}" for name, value in sorted(plain.items()) if name != "training" and name[0] != "_"
        ]
        tensors = [*part.named_buffers(recurse=False), *part.named_parameters(recurse=False)]
        settings += [f"{name}={hashlib.sha256(as_bytes(value)).hexdigest()[:8]}" for name, value in tensors]
        parts.append(f"{type(part).__name__}({', '.join(settings)})")
    return ", ".join(parts)


def as_bytes(x: Tensor) -> memoryview:
    """Return the bytes of a tensor of any type on any device."""
    return x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
