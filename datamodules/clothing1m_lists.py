"""The lists of Clothing1M, in both layouts: which images are in which split, and their labels."""

import codecs
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.errors import UserError
from ldmi_lightning.file_kinds import what_it_is
from ldmi_lightning.label_table import whole_number
from ldmi_lightning.saying import say

NAMES = [
    *("T-Shirt", "Shirt", "Knitwear", "Chiffon", "Sweater", "Hoodie", "Windbreaker", "Jacket", "Down Coat", "Suit"),
    *("Shawl", "Dress", "Vest", "Underwear"),
]
OFFICIAL = {
    "train": ("noisy_train_key_list.txt", "noisy_label_kv.txt"),
    "val": ("clean_val_key_list.txt", "clean_label_kv.txt"),
    "test": ("clean_test_key_list.txt", "clean_label_kv.txt"),
}
AUTHORS = {"train": "noisy_train.txt", "val": "clean_val.txt", "test": "clean_test.txt"}

Paths = NDArray[np.bytes_]
Labels = NDArray[np.int64]


def read_lists(root: Path) -> dict[str, tuple[Paths, Labels]]:
    """Read the lists of either layout: for each split the images' paths below ``root``, and their labels.

    Raises:
        UserError: if a list is missing, broken, or gives an image two labels, or a test image is in another list, too.
    """
    if any(_find(root, name) for name in AUTHORS.values()):
        lists = {split: _pairs(_need(root, name)) for split, name in AUTHORS.items()}
    else:
        needed = {name: _need(root, name) for names in OFFICIAL.values() for name in names}
        lists = {split: _look_up(needed[keys], needed[labels]) for split, (keys, labels) in OFFICIAL.items()}
    _look_for_copies({split: paths.tolist() for split, (paths, _) in lists.items()})
    return lists


def _look_for_copies(lists: Mapping[str, list[bytes]]) -> None:
    """Refuse test images that are in another list; say what other images are named twice."""
    for split, paths in lists.items():
        if repeated := len(paths) - len(set(paths)):
            say(
                f"The {split} list names {repeated:,} of its {len(paths):,} images again: each counts as often as it is named."
            )
    for split, other in (("test", "train"), ("test", "val"), ("val", "train")):
        inside = set(lists[split])
        shared = [path for path in lists[other] if path in inside]
        if not shared:
            continue
        first = os.fsdecode(shared[0])
        said = f"{len(shared):,} images of the {split} list are in the {other} list, too, the first of which is {first}"
        if split == "test":
            raise UserError(
                f"{said}: what a model has seen is no test. Take them out of one of the lists in --data.root."
            )
        say(f"{said}: the epochs are selected with what is trained on.")


def _find(root: Path, name: str) -> Path | None:
    return next((path for path in (root / "annotations" / name, root / name) if path.is_file()), None)


def _need(root: Path, name: str) -> Path:
    found = _find(root, name)
    if found is None:
        official = dict.fromkeys(name for names in OFFICIAL.values() for name in names)
        raise UserError(
            f"--data.root {root} has no {name}, neither in itself nor in annotations/. Clothing1M needs "
            f"{', '.join(AUTHORS.values())}, or else {', '.join(official)}."
        )
    return found


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Look at --data.root.") from error
    if kind := what_it_is(content):
        raise UserError(f"{path} is {kind}.")
    return content.removeprefix(codecs.BOM_UTF8)


def _words(path: Path) -> list[bytes]:
    words = _content(path).split()
    if not words:
        raise UserError(f"{path} is empty, but must name the images of a split. Look at --data.root.")
    return words


def _pairs(path: Path) -> tuple[Paths, Labels]:
    """Read a list of ``path label`` lines."""
    words = _words(path)
    try:
        labels = np.array(words[1::2], dtype=np.bytes_).astype(np.int64)
        pairs = np.array(words[::2], dtype=np.bytes_), labels
    except ValueError:
        pairs = _pairs_by_line(path)
    if len(words) % 2 or len(pairs[0]) != len(pairs[1]):
        pairs = _pairs_by_line(path)
    _refuse_two_labels(path, *pairs)
    return pairs


def _pairs_by_line(path: Path) -> tuple[Paths, Labels]:
    """Read such a list line by line, which is slower; a label may be a class name, or a float such as 3.0."""
    paths, labels = [], []
    for number, line in enumerate(re.split(rb"\r\n|\r|\n", _content(path)), 1):
        words = line.split(maxsplit=1)
        if not words:
            continue
        label = _label(os.fsdecode(words[1].strip())) if len(words) == 2 else None
        if label is None:
            raise UserError(
                f"{path}, line {number} reads {os.fsdecode(line)[:80]!r}: each line must hold an image's path and its label, "
                "as a number."
            )
        paths.append(words[0])
        labels.append(label)
    return np.array(paths, dtype=np.bytes_), np.array(labels, dtype=np.int64)


def _label(text: str) -> int | None:
    return NAMES.index(text) if text in NAMES else whole_number(text)


def _refuse_two_labels(path: Path, paths: Paths, labels: Labels) -> None:
    label_of: dict[bytes, int] = {}
    odd = [
        (name, label)
        for name, label in zip(paths.tolist(), labels.tolist(), strict=True)
        if label_of.setdefault(name, label) != label
    ]
    if odd:
        name, label = odd[0]
        raise UserError(
            f"{path} gives {os.fsdecode(name)} two labels, {label_of[name]} and {label} ({len(odd):,} lines disagree with one "
            "before them). Keep one label for each image."
        )


def _look_up(keys: Path, labels: Path) -> tuple[Paths, Labels]:
    """Read a list of paths, and find each one's label in another list."""
    paths, (known, values) = _words(keys), _pairs(labels)
    label_of = dict(zip(known.tolist(), values.tolist(), strict=True))
    missing = next((path for path in paths if path not in label_of), None)
    if missing is not None:
        raise UserError(
            f"{keys} names {os.fsdecode(missing)}, which has no label in {labels}. Are both from the same download?"
        )
    return np.array(paths, dtype=np.bytes_), np.array([label_of[path] for path in paths], dtype=np.int64)
