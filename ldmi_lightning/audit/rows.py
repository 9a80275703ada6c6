"""What is known of the samples of an audit beside its arrays: where each is from, and what a person may look at."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.originals import Original


@dataclass(frozen=True)
class Rows:
    """The samples of an audit, N of them in the order of its arrays.

    Attributes:
        index: original index of each, int64 of shape ``(N,)``.
        split: ``"train"`` or ``"val"``, shape ``(N,)``.
        seen: whether the model that gave the sample's probabilities was trained or selected on its label, shape ``(N,)``.
        class_names: C of them.
        originals: what each sample was before it became numbers, N of them, read when asked; ``None`` where there is nothing.
        true: true label of each, shape ``(N,)``, -1 where it is not known; ``None`` where none is.
        votes: labels of A annotators, shape ``(N, A)``, -1 where one gave none; ``None`` where each sample has one label.
        annotators: their names.
    """

    index: NDArray[np.int64]
    split: NDArray[np.str_]
    seen: NDArray[np.bool_]
    class_names: list[str]
    originals: Sequence[Original | None]
    true: NDArray[np.int64] | None = None
    votes: NDArray[np.int64] | None = None
    annotators: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.index)
