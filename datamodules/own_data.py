"""What all data of one's own has in common: labels as given, which may be noisy already, and augmentation by choice."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import NoNoise
from ldmi_lightning.saying import say

from .base import NoisyDataModule
from .residency import reason_to_stream
from .transforms import IMAGENET_MEAN, IMAGENET_STD, Normalise


class OwnData(NoisyDataModule):
    """Labels as somebody gave them.

    With :class:`~ldmi_lightning.noise.NoNoise` nobody knows the true ones: those of the training and validation set are taken
    as noisy already, and test labels are what there is to test against, which makes them no better than they were given. With
    any other injector the labels given are taken as true, unless it says otherwise, as votes may.
    """

    augmentation: nn.Module | None = None
    """What is done to training batches as they are stored (uint8 images), before the rest."""
    notes: Sequence[str] = ()
    """What was found out or done about the data before ``setup``, which says it."""
    streamed: bool | None = None
    """Whether inputs are read batch by batch rather than held in memory; ``None`` where they do not fit."""
    said: frozenset[str] = frozenset()
    """What has been said: a checkpoint's words may have the data set up once more."""

    def labels_are_true(self, split: str) -> bool:
        """Whether the labels given are taken as true."""
        return split == "test" or self.labels_are_known(split)

    def labels_are_known(self, split: str) -> bool:
        """Whether the labels given are known to be true, as far as noise is injected on that condition."""
        return not isinstance(self.noise, NoNoise) and self.noise.takes_true_labels

    def setup(self, stage: str) -> None:
        """Load the data and inject the noise, once; say what was done to it, and which classes have few samples."""
        if self.splits:
            return
        super().setup(stage)
        counts = {name: self.class_counts(name) for name in ("train", "val", "test")}
        notes = dict.fromkeys([*self.notes, *describe_rare_classes(counts, self.class_names)])
        for note in notes:
            if note not in self.said:
                say(note)
        self.said = frozenset(notes) | self.said

    def streams(self, needed: int, what: str, instead: str) -> bool:
        """Return whether inputs are streamed: as the user says, or because they do not fit into memory, which is said.

        Args:
            needed: bytes that they would take.
            what: what they are, in words that begin a sentence.
            instead: what is done with them instead, in words.
        """
        if self.streamed is not None:
            return self.streamed
        trainer = self.trainer
        device = trainer.strategy.root_device if trainer is not None else torch.device("cpu")
        processes = trainer.world_size // trainer.num_nodes if trainer is not None else 1
        reason = reason_to_stream(needed, what, device, processes)
        if reason is not None:
            say(f"{reason}: they are {instead}. --data.streamed false holds them there.")
        return reason is not None

    def streams_images(self, images: int, size: int) -> bool:
        """Return whether images are streamed, of which there are so many of this height and width."""
        read = f"{self.num_workers} process{'es' * (self.num_workers > 1)}" if self.num_workers else "the main process"
        what = f"{images:,} images of {size}×{size}"
        return self.streams(images * 3 * size * size, what, f"decoded batch by batch, by {read}")

    def train_transform(self) -> nn.Module:
        """Augment, then do what is done to all batches."""
        if self.augmentation is None:
            return self.eval_transform()
        return nn.Sequential(self.augmentation, self.eval_transform())


def normalise_images(channels: int) -> Normalise:
    """Return the normalisation of images that nothing is known of.

    Colour gets ImageNet's mean and standard deviation, which most pretrained nets expect; all else goes to -1..1.
    """
    if channels == 3:
        return Normalise(IMAGENET_MEAN, IMAGENET_STD)
    return Normalise([0.5] * channels, [0.5] * channels)


def check_class_names(names: Sequence[str], what: str) -> list[str]:
    """Return the names as a list of strings, or raise unless they are at least two, all different."""
    if len(names) < 2:
        found = f"one class ({names[0]})" if names else "no class"
        raise UserError(f"{what} has {found}, but to tell classes apart takes at least two.")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{what} has two classes named {twice[0]}: every class needs a name of its own.")
    return list(map(str, names))


def shorten(names: Sequence[object]) -> str:
    """Return a list of names for one line.

    >>> shorten(["a", "b"])
    'a, b'
    """
    shown = ", ".join(str(name) for name in names[:10])
    return shown if len(names) <= 10 else f"{shown}, … ({len(names)} in all)"


def describe_rare_classes(counts: Mapping[str, Tensor], class_names: Sequence[str]) -> list[str]:
    """Say of which classes validation or test have no sample, and what that means; nothing where they have all.

    Args:
        counts: samples of each class in ``"train"``, ``"val"`` and ``"test"``, shape ``(C,)``.
        class_names: their names.

    >>> counts = {"train": torch.tensor([5, 1]), "val": torch.tensor([2, 1]), "test": torch.tensor([2, 0])}
    >>> describe_rare_classes(counts, ["cat", "dog"])
    ['Few samples: the test has none of dog (2 in all), which balanced accuracy leaves out.']
    """
    total = torch.stack(list(counts.values())).sum(0)
    meanings = {
        "val": "validation has none of %s, by which no epoch is selected",
        "test": "the test has none of %s, which balanced accuracy leaves out",
    }
    told = []
    for split, meaning in meanings.items():
        missing = (counts[split] == 0).nonzero().flatten().tolist()
        if missing:
            told.append(meaning % shorten([f"{class_names[label]} ({total[label]:,} in all)" for label in missing]))
    return [f"Few samples: {'; '.join(told)}."] if told else []
