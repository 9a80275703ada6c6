"""Labels that people gave: CIFAR-10N and CIFAR-100N."""

import pickle
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ldmi_lightning.errors import UserError
from ldmi_lightning.file_kinds import kind_of_file
from ldmi_lightning.noise.base import Labels, Noise
from ldmi_lightning.noise.label_file import WrittenLabels, look_up
from ldmi_lightning.pickled import unsafe_globals

Kind = Literal["aggre", "rand1", "rand2", "rand3", "worse", "noisy"]

KEYS: dict[Kind, str] = {
    "aggre": "aggre_label",
    "rand1": "random_label1",
    "rand2": "random_label2",
    "rand3": "random_label3",
    "worse": "worse_label",
    "noisy": "noisy_label",
}

_reconstruct = np.empty(0).__reduce__()[0]
ARRAYS: list[Any] = [
    # All that a pickled array of integers is made of. NumPy 1 knew the function under its first name.
    (_reconstruct, "numpy.core.multiarray._reconstruct"),
    (_reconstruct, "numpy._core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.uint8, np.int32, np.int64)),
]


class HumanNoise(Noise):
    """Human labels of CIFAR-10 or CIFAR-100 (Wei et al., *Learning with Noisy Labels Revisited*, ICLR 2022).

    The file is the authors' own ``CIFAR-10_human.pt`` or ``CIFAR-100_human.pt``, from
    https://github.com/UCSC-REAL/cifar-10-100n. It is a pickle, and read without running code; tensors and lists in the place
    of its arrays will do. Its clean labels are compared with the data's by original index.

    Args:
        file: the ``.pt`` file.
        kind: of CIFAR-10N ``aggre`` (the majority of three people; 9 % are wrong), ``rand1``, ``rand2`` or ``rand3`` (one
            of them; 17–18 %), or ``worse`` (a wrong one, if there is one; 40 %); of CIFAR-100N ``noisy`` (40 %).
    """

    def __init__(self, file: str, kind: Kind) -> None:
        super().__init__()
        if kind not in KEYS:
            raise UserError(f"--data.noise.kind must be one of {', '.join(get_args(Kind))}, but got {kind}.")
        self.file = file
        self.kind = kind
        self.written = read_human_labels(file, kind)

    def __call__(self, labels: Labels, num_classes: int, *, index: Labels, x: object = None) -> Labels:
        """Return the labels that people gave."""
        return look_up(self.written, labels, num_classes, index, f"--data.noise.file {self.file}")


def read_human_labels(file: str, kind: Kind) -> WrittenLabels:
    """Read one kind of label, and the clean ones, from a file of CIFAR-10N or CIFAR-100N; nothing in it is run."""
    source = f"--data.noise.file {file}"
    if not Path(file).is_file():
        raise UserError(
            f"{source} is no file. Give CIFAR-10_human.pt or CIFAR-100_human.pt of https://github.com/UCSC-REAL/cifar-10-100n."
        )
    held = _load(file, source)
    if not isinstance(held, dict) or not {"clean_label", KEYS[kind]} <= held.keys():
        found = ", ".join(map(str, held)) if isinstance(held, dict) else type(held).__name__
        raise UserError(
            f"{source} has no {KEYS[kind]} beside clean_label, but {found}: choose another --data.noise.kind."
        )
    label, clean = (_vector(held[key], key, source) for key in (KEYS[kind], "clean_label"))
    if len(label) != len(clean):
        raise UserError(
            f"{source} is damaged: {KEYS[kind]} is no vector of labels as long as the others: it has {len(label)}, and "
            f"clean_label {len(clean)}."
        )
    return WrittenLabels(np.arange(len(label)), label, clean)


def _load(file: str, source: str) -> Any:
    """Return what a file holds, without running code from it."""
    if kind := kind_of_file(file):
        raise UserError(f"{source} is {kind}.")
    try:
        with torch.serialization.safe_globals(ARRAYS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with torch.serialization.safe_globals(ARRAYS):
            names = unsafe_globals(file)
        if names:
            raise UserError(
                f"{source} is not made of arrays alone; what else it holds ({', '.join(names[:3])}) could run code, and is not "
                "loaded."
            ) from error
        raise UserError(f"{source} is damaged, or no .pt file at all.") from error
    except Exception as error:  # whatever a foreign file makes PyTorch and NumPy say
        raise UserError(f"{source} is damaged, or no .pt file at all ({type(error).__name__}).") from error


def _vector(held: Any, key: str, source: str) -> Labels:
    """Return labels that are held as an array, a tensor or a list of whole numbers."""
    try:
        values = np.asarray(held)
    except Exception:  # rows of different lengths, or a tensor of a kind that NumPy lacks
        values = np.empty(0, object)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        shape = (
            f" of shape {tuple(values.shape)} and type {values.dtype}" if isinstance(held, np.ndarray | Tensor) else ""
        )
        raise UserError(
            f"{source} is damaged: {key} is no vector of labels, whole numbers, but a {type(held).__name__}{shape}."
        )
    return values.astype(np.int64)
