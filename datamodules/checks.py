"""What is refused of the inputs and labels that a data set loads."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ldmi_lightning.errors import UserError
from ldmi_lightning.inputs import in_memory, num_samples, tensors_in
from ldmi_lightning.noise import Noise


def one_tensor(x: Any, noise: Noise) -> Tensor:
    """Return the one tensor that noise needs of the inputs, or raise."""
    if in_memory(x):
        found = dict(tensors_in(x))
        if len(found) == 1:
            return next(iter(found.values()))
        raise UserError(
            f"{type(noise).__name__} needs the inputs as one tensor, but this data set's are {len(found)}: {', '.join(found)}. "
            "Choose a noise that depends on the class alone, or LabelFileNoise."
        )
    raise UserError(
        f"{type(noise).__name__} needs all inputs in memory, but this data set's are read batch by batch. Choose a noise "
        "that depends on the class alone, or LabelFileNoise; data of your own is held in memory with --data.streamed false."
    )


def check_inputs(x: Any, samples: int, what: str) -> None:
    """Raise unless there are as many inputs as labels."""
    if in_memory(x) and (found := num_samples(x)) != samples:
        raise UserError(f"{what} has {found} inputs, but {samples} labels. Return one for each from load().")


def check_labels(labels: NDArray[np.int64], num_classes: int, what: str) -> None:
    """Raise unless there are labels, and all of them name a class."""
    if not len(labels):
        raise UserError(f"{what} has no samples.")
    low, high = labels.min(), labels.max()
    if low < 0 or high >= num_classes:
        raise UserError(
            f"{what} has labels from {low} to {high}, but with {num_classes} classes they must lie in "
            f"0..{num_classes - 1}."
        )
