"""Several people's labels in a datamodule: what samples are called, which of them have votes, and the votes of each split."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import CrowdLabels, Noise
from ldmi_lightning.originals import Original
from ldmi_lightning.saying import say

from .image_files import ImageFiles


class Part(Protocol):
    """The samples of one split: :class:`~ldmi_lightning.datamodules.base.Examples`."""

    @property
    def x(self) -> Any:
        """Inputs."""

    @property
    def index(self) -> NDArray[np.int64]:
        """Original indices."""

    def take(self, where: NDArray[np.int64]) -> Self:
        """Return some of the samples."""


PartT = TypeVar("PartT", bound=Part)


class Named(Protocol):
    """What is asked of a datamodule."""

    root: str | None

    def column(self, name: str, option: str) -> Sequence[Any]:
        """Return a column of the data's table, by original index."""

    def original(self, index: int) -> Original | None:
        """Return what a sample was."""


def item_names(data: Named, parts: Mapping[str, Part], column: str | None) -> dict[int, str]:
    """Return what the samples of a data set are called, by original index; nothing where they have no names.

    Args:
        data: the datamodule.
        parts: its splits.
        column: the column of its table that says so; ``None`` for the paths of the samples' files, below the data's root.
    """
    if column is not None:
        cells = data.column(column, "--data.noise.item_column")
        return {index: str(cells[index]).strip() for part in parts.values() for index in part.index.tolist()}
    root = Path(data.root or "").absolute()
    found = {}
    for part in parts.values():
        for place, index in enumerate(part.index.tolist()):
            path = part.x.path(place) if isinstance(part.x, ImageFiles) else _file(data.original(index))
            if path is None:  # then no sample of it has one
                return {}
            found[index] = Path(os.path.relpath(path, root)).as_posix()
    return found


def _file(original: Original | None) -> Path | None:
    return Path(str(original.value)) if original is not None and original.kind == "file" else None


def with_labels(parts: Mapping[str, PartT], noise: Noise, splits: Sequence[str], num_classes: int) -> dict[str, PartT]:
    """Leave out the samples that an injector has no label for, where it says so; one line counts them.

    Args:
        parts: all splits.
        noise: the injector.
        splits: those whose labels come from it.
        num_classes: C.
    """
    kept = dict(parts)
    for name in splits:
        has = noise.has_label(parts[name].index, num_classes)
        if has is None or has.all():
            continue
        if not has.any():
            raise UserError(
                f"No sample of the {name} split has a label: {type(noise).__name__} leaves all {len(has):,} out. Is it of "
                "another data set?"
            )
        say(f"{type(noise).__name__}: {(~has).sum():,} of {len(has):,} {name} samples have no label and are left out.")
        kept[name] = parts[name].take(np.flatnonzero(has))
    return kept


def votes_on(noise: Noise, parts: Mapping[str, Part], splits: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Return the votes on the samples of the splits, each of shape ``(N, A)``; empty where each sample has one label."""
    found = {name: noise.votes(parts[name].index) for name in splits}
    line = noise.unused(np.concatenate([part.index for part in parts.values()]))
    if line is not None:
        say(line)
    return {name: votes for name, votes in found.items() if votes is not None}


def labels_from_votes(noise: Noise | None, samples: int, class_names: Sequence[str] | None) -> NDArray[np.str_]:
    """Return what votes come to, as names of classes, for data that has no labels of its own; the injector is told so.

    Args:
        noise: the injector.
        samples: N.
        class_names: names of the classes, in the order of the labels.

    Raises:
        UserError: there are no votes, the classes have no names, or a sample has no vote.
    """
    if not isinstance(noise, CrowdLabels) or class_names is None:
        raise UserError(
            "y=None takes labels from votes: give noise=CrowdLabels(VOTES) and class_names, or give y, a label for each sample."
        )
    noise.class_names, noise.takes_true_labels = [str(name) for name in class_names], False
    labels = noise(np.zeros(samples, np.int64), len(class_names), index=np.arange(samples))
    return np.array(noise.class_names)[labels]
