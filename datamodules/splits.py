"""Splitting data that has no validation or test split of its own: by a seed, class by class."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.errors import UserError

SPLITS = ("train", "val", "test")


def shuffled_by_class(labels: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Order a data set by class, and at random within each class.

    Args:
        labels: labels, shape ``(N,)``, not negative.
        seed: seed of the order.

    Returns:
        Positions in that order, and each one's number within its class, from 0; both of shape ``(N,)``.

    >>> [part.tolist() for part in shuffled_by_class(np.array([1, 0, 1]), seed=0)]
    [[1, 2, 0], [0, 0, 1]]
    """
    shuffled = np.random.RandomState(seed).permutation(len(labels))
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return shuffled[np.argsort(labels[shuffled], kind="stable")], rank


def seeded_split(labels: NDArray[np.int64], shares: Mapping[str, float], seed: int = 0) -> dict[str, NDArray[np.int64]]:
    """Deal the positions of a data set out: to each named split its share, drawn at random, and ``"train"`` the rest.

    Every split holds about its share of every class. Where the draw leaves one out, samples are exchanged
    (:func:`spread_rare_classes`): train keeps one of each, and ``"val"`` gets one of each that has two. Equal labels
    throughout give a plain random split.

    Args:
        labels: labels as given, shape ``(N,)``, not negative.
        shares: share of all N samples that each split gets, such as ``{"val": 0.1, "test": 0.1}``; below 1 in sum.
        seed: seed of the draw.

    Returns:
        Positions by split, each ``round(share * N)`` of them in random order; ``"train"`` in index order.

    >>> parts = seeded_split(np.array([0, 0, 0, 0, 1, 1, 1, 1]), {"val": 0.25})
    >>> (parts["val"] // 4).tolist(), len(parts["train"])
    ([0, 1], 6)
    """
    by_class, rank = shuffled_by_class(labels, seed)
    size = np.bincount(labels)[labels[by_class]]
    # Each class spread evenly over [0, 1]: then every stretch holds its share of each.
    order = by_class[np.argsort((rank + 0.5) / size, kind="stable")]
    parts, begin = {}, 0
    for name, share in shares.items():
        end = begin + round(share * len(labels))
        parts[name], begin = order[begin:end], end
    spread = spread_rare_classes(labels, {"train": order[begin:]} | parts)
    return spread | {"train": np.sort(spread["train"])}


def spread_rare_classes(
    labels: NDArray[np.int64], parts: Mapping[str, NDArray[np.int64]]
) -> dict[str, NDArray[np.int64]]:
    """Exchange samples between splits until train has one of each class, and ``"val"`` one of each that has two.

    What is given away is of a class of which the split has more than one. Where there is nothing to exchange, as in a
    validation set of fewer samples than classes, a class stays left out; and where no class is, nothing changes.

    Args:
        labels: labels as given, shape ``(N,)``, not negative.
        parts: positions by split.

    Returns:
        Positions by split, as many as before.

    >>> parts = {"train": np.array([0, 1, 4]), "val": np.array([2, 3])}
    >>> {name: part.tolist() for name, part in spread_rare_classes(np.array([0, 1, 0, 0, 1]), parts).items()}
    {'train': [0, 1, 3], 'val': [2, 4]}
    """
    spread = {name: part.copy() for name, part in parts.items()}
    classes = int(labels.max()) + 1 if len(labels) else 0
    counts = {name: np.bincount(labels[part], minlength=classes) for name, part in spread.items()}
    total = sum(counts.values(), np.zeros(classes, np.int64))
    for name, needed in (("train", 1), ("val", 2)):
        for label in np.flatnonzero((total >= needed) & (counts.get(name, total) == 0)):
            # The largest of the other splits that has one to give, and after it still one where it needs one.
            givers = [
                other
                for other in sorted(spread, key=lambda each: -len(spread[each]))
                if counts[other][label] > (other == "train")
            ]
            crowded = np.flatnonzero(counts[name][labels[spread[name]]] > 1)
            if not givers or not len(crowded):
                continue
            ours = crowded[-1]
            theirs = np.flatnonzero(labels[spread[givers[0]]] == label)[-1]
            for split, change in ((name, 1), (givers[0], -1)):
                counts[split][label] += change
                counts[split][labels[spread[name][ours]]] -= change
            spread[name][ours], spread[givers[0]][theirs] = spread[givers[0]][theirs], spread[name][ours]
    return spread


def fill_splits(
    labels: Mapping[str, NDArray[np.int64]], shares: Mapping[str, float], seed: int = 0
) -> dict[str, NDArray[np.int64]]:
    """Complete the splits that a source has to ``"train"``, ``"val"`` and ``"test"``: what is missing comes out of train.

    Args:
        labels: labels as given by split, ``"train"`` among them.
        shares: share of the source's train split that ``"val"`` and ``"test"`` get where they are missing.
        seed: seed of the draw.

    Raises:
        UserError: if a share is none, or leaves a split without a sample.

    Returns:
        Positions by split, counted through the source's own train, val and test split, one after the other.

    >>> parts = fill_splits({"train": np.zeros(4, int), "test": np.zeros(2, int)}, {"val": 0.25, "test": 0.25})
    >>> {name: len(part) for name, part in parts.items()}, parts["test"].tolist()
    ({'train': 3, 'val': 1, 'test': 2}, [4, 5])
    """
    own, begin = {}, 0
    for name in SPLITS:
        if name in labels:
            own[name] = np.arange(begin, begin + len(labels[name]))
            begin += len(labels[name])
    missing = {name: shares[name] for name in SPLITS if name not in labels}
    said = " and ".join(f"--data.{name}_share {share:g}" for name, share in missing.items())
    if any(not 0 < share < 1 for share in missing.values()) or sum(missing.values()) >= 1:
        raise UserError(
            f"{said}: shares must lie between 0 and 1, and below 1 in sum, so that some is left to train on."
        )
    filled = own | seeded_split(labels["train"], missing, seed)
    empty = next((name for name in (*missing, "train") if not len(filled[name])), None)
    if missing and empty:
        raise UserError(
            f"{said} of {len(labels['train'])} samples leaves the {empty} split without any. Change the share, or give the "
            "data a split of its own."
        )
    return {name: filled[name] for name in SPLITS}
