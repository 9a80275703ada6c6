"""What a run says of its rows: the probabilities of some splits, kept in its folder for `ldmi audit`."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning import files
from ldmi_lightning.errors import UserError

OUTPUTS = "outputs.npz"
"""The file's name in a run's folder."""
ABOUT = "about"

Kind = Literal["true", "given"]


class Predicted(NamedTuple):
    """The probabilities of a split's N rows.

    Attributes:
        index: original indices, int64, shape ``(N,)``.
        given: labels to learn from, int64, shape ``(N,)``.
        clean: true labels, -1 where they are not known, int64, shape ``(N,)``.
        probs: softmax outputs, shape ``(N, C)``.
    """

    index: NDArray[np.int64]  # type: ignore[assignment]  # tuple.index is not needed here
    given: NDArray[np.int64]
    clean: NDArray[np.int64]
    probs: NDArray[np.floating]


@dataclass(frozen=True)
class Outputs:
    """What a run says of its rows.

    Attributes:
        stage: whose best epoch it is.
        outputs: ``"true"`` where they are probabilities of the true label, ``"given"`` where of the given one.
        splits: by name, ``"fold"``, or ``"train"`` and ``"val"``.
    """

    stage: str
    outputs: Kind
    splits: Mapping[str, Predicted]


def write(folder: Path, found: Outputs) -> None:
    """Keep what a run says in its folder.

    >>> import tempfile
    >>> folder, rows = Path(tempfile.mkdtemp()), np.array([3, 5])
    >>> write(folder, Outputs("robust", "true", {"fold": Predicted(rows, rows % 2, rows % 2, np.full((2, 2), 0.5))}))
    >>> read(folder).stage, read(folder).splits["fold"].index.tolist()
    ('robust', [3, 5])
    """
    about = json.dumps({"stage": found.stage, "outputs": found.outputs})
    arrays: dict[str, Any] = {ABOUT: np.array(about)}
    for name, part in found.splits.items():
        arrays |= {f"{name}_{key}": array for key, array in part._asdict().items()}
    files.write_with(folder / OUTPUTS, lambda file: np.savez(file, **arrays))


def read(folder: Path) -> Outputs:
    """Return what a run says of its rows.

    Raises:
        UserError: it has left nothing, or the file is damaged.
    """
    path = folder / OUTPUTS
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            about = json.loads(str(held[ABOUT]))
            names = dict.fromkeys(key.rpartition("_")[0] for key in held.files if key != ABOUT)
            splits = {name: Predicted(*(held[f"{name}_{key}"] for key in Predicted._fields)) for name in names}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        fault = "there is no such file" if not path.exists() else f"it is damaged ({type(error).__name__})"
        raise UserError(f"{path} cannot be read: {fault}. Delete it, and give the same command again.") from error
    return Outputs(about["stage"], about["outputs"], splits)
