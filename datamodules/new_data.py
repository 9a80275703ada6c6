"""New samples, without labels, as a net takes them: read, stored and transformed as the training run did it."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from ldmi_lightning.errors import UserError
from ldmi_lightning.inputs import map_tensors, num_samples, take

from .base import NoisyDataModule
from .images import UnreadableImage, read_image
from .known_inputs import kind_of, kinds_in
from .shown import WHITE
from .tensor import all_inputs
from .text import TextDataModule, tokenise

READERS = 8
"""At most so many threads decode images."""
KINDS = {
    "texts": "texts",
    "images": "images",
    "numbers": "numbers",
    "ids": "whole numbers, such as token ids",
    "several": "inputs of several tensors",
}


class Prepared(NamedTuple):
    """New samples as a net takes them.

    Attributes:
        x: the inputs of the good ones, on the device; ``None`` where there is none.
        kept: which they are among the samples.
        faults: of each other one which it is, and why there is nothing to predict.
    """

    x: Any
    kept: list[int]
    faults: list[tuple[int, str]]


class NewData:
    """Makes of new samples what a net takes, by the words, the size and the normalisation of the training run.

    Args:
        data: the run's data set, which need not be set up where the state of a checkpoint was loaded into it.
        device: where inputs are made.

    Attributes:
        kind: ``"texts"``, ``"images"``, ``"numbers"``, ``"ids"`` or ``"several"``.
        notes: what was done to samples is counted there, in words that follow a number.

    >>> from ldmi_lightning.datamodules import DigitsDataModule
    >>> digits = DigitsDataModule()
    >>> digits.load_state_dict({"inputs": {"x": ["uint8", [1, 8, 8]]}})
    >>> white = np.full((2, 8, 8), 16, np.uint8)
    >>> [float(x.mean()) for x in NewData(digits).batches(white, batch_size=1)]
    [1.0, 1.0]
    """

    def __init__(self, data: NoisyDataModule, device: torch.device | None = None) -> None:
        self.data, self.device = data.new_from(), device or torch.device("cpu")
        words_known = isinstance(self.data, TextDataModule) and (self.data.tokenizer or self.data.words) is not None
        if not words_known if self.data.text_columns else self.data.input_kinds is None:
            raise UserError(
                f"The checkpoint does not say what the inputs of {type(self.data).__name__} are like, so that no new ones can be "
                "read: an earlier version wrote it, or the class has a state_dict of its own that leaves out its base's. Train "
                "anew."
            )
        self.kind = kind_of(self.data)
        self.transform = data.new_transform().to(self.device).eval()
        self.notes: Counter[str] = Counter()
        self._readers: ThreadPoolExecutor | None = None

    def batches(self, samples: Any, batch_size: int = 128) -> Iterator[Any]:
        """Yield the inputs of samples, some at a time, in their order.

        Args:
            samples: N texts in a list, or pairs of them; N paths of images in a list; or an array, or a dict or tuple of them, as
                the training inputs are stored.
            batch_size: so many at a time.

        Raises:
            UserError: they are of another kind, or one of them cannot be read.
        """
        nested = isinstance(samples, dict | tuple)
        given = all_inputs(samples, "The input") if nested else samples
        for begin in range(0, num_samples(given) if nested else len(given), batch_size):
            some = slice(begin, begin + batch_size)
            prepared = self.prepare(take(given, some) if nested else given[some])
            if prepared.faults:
                place, reason = prepared.faults[0]
                raise UserError(f"Sample {begin + place} cannot be predicted: {reason}. Repair it, or leave it out.")
            yield prepared.x

    @torch.no_grad()
    def prepare(self, samples: Any) -> Prepared:
        """Return some samples, at least one, as the net takes them; see :meth:`batches`."""
        faults: list[tuple[int, str]]
        if self.kind == "texts":
            stored, faults = self._texts(samples)
        elif (
            self.kind == "images"
            and isinstance(samples, list)
            and all(isinstance(e, str | Path | bytes) for e in samples)
        ):
            stored, faults = self._images(samples)
        else:
            stored, faults = self._arrays(samples)
        broken = {place for place, _ in faults}
        size = num_samples(samples) if isinstance(samples, dict | tuple) else len(samples)
        kept = [place for place in range(size) if place not in broken]
        if not kept:
            return Prepared(None, kept, faults)
        x = self.transform(map_tensors(lambda each: each.to(self.device), stored))
        return Prepared(x, kept, faults)

    # -- texts --------------------------------------------------------------------------------------------------------

    def _texts(self, samples: Any) -> tuple[Any, list[tuple[int, str]]]:
        data, wanted = self.data, len(self.data.text_columns)
        assert isinstance(data, TextDataModule)
        good: list[Any] = []
        faults: list[tuple[int, str]] = []
        for place, sample in enumerate(samples):
            texts = list(sample) if isinstance(sample, tuple | list) else [sample]
            if len(texts) != wanted or not all(isinstance(text, str) or text is None for text in texts):
                raise UserError(
                    f"The run reads texts, {'pairs of them' if wanted == 2 else 'one a sample'}, but got {str(sample)[:60]!r}."
                )
            if all(text is not None and tokenise(text) for text in texts):
                good.append(texts[0] if wanted == 1 else tuple(texts))
            else:
                faults.append((place, "the text is empty"))
        stored, cut = data.encode_new(good) if good else (None, 0)
        if cut:
            self.notes[f"longer than {data.tokenizer.max_tokens if data.tokenizer else 0} tokens, and cut"] += cut
        return stored, faults

    # -- images -------------------------------------------------------------------------------------------------------

    @property
    def stored(self) -> tuple[str, tuple[int, ...]]:
        """Type and shape of a sample's one tensor, as it is stored."""
        dtype, shape = (self.data.input_kinds or {})["x"]
        return dtype, tuple(shape)

    def _images(self, samples: Sequence[str | Path | bytes]) -> tuple[Tensor, list[tuple[int, str]]]:
        if self._readers is None:
            self._readers = ThreadPoolExecutor(min(READERS, os.cpu_count() or 1))
        images: list[Tensor] = []
        faults: list[tuple[int, str]] = []
        for place, (image, notes) in enumerate(self._readers.map(self._read, samples)):
            self.notes += notes
            if isinstance(image, Tensor):
                images.append(image)
            else:
                faults.append((place, image))
        return torch.stack(images) if images else torch.empty(0), faults

    def _read(self, file: str | Path | bytes) -> tuple[Tensor | str, Counter[str]]:
        """Return an image as it is stored, or what is wrong with it; and what was done to it."""
        _, (channels, height, width) = self.stored
        notes: Counter[str] = Counter()
        at_least = max(height, width) if self.data.resizing == "drafted" else None
        try:
            image = read_image(
                file if isinstance(file, bytes) else Path(file),
                "L" if channels == 1 else "RGB",
                at_least=at_least,
                notes=notes,
            )
        except UnreadableImage as error:
            return error.reason, Counter()
        if self.data.resizing != "none" or image.shape[1:] != (height, width):
            if self.data.resizing == "none":
                notes[f"of another size than {height} × {width}, to which they are brought"] += 1
            image = resize(image, [height, width], antialias=True)
        if self.data.white != WHITE:
            image = image.to(torch.float32).mul(self.data.white / WHITE).round().to(torch.uint8)
        return image, notes

    # -- arrays -------------------------------------------------------------------------------------------------------

    def _arrays(self, samples: Any) -> tuple[Any, list[tuple[int, str]]]:
        finite = np.ones(0, bool)
        if not isinstance(samples, dict | tuple | Tensor):
            samples = np.asarray(samples)
            if samples.dtype.kind in "OUS":
                raise UserError(f"The run reads {KINDS[self.kind]}, but got values of type {samples.dtype}.")
            finite = _finite(samples)
            samples = samples if finite.all() else samples[finite]
        stored = all_inputs(samples, "The input")
        known, found = self.data.input_kinds or {}, kinds_in(stored) or {}
        if known.keys() != found.keys():
            raise UserError(f"The run reads {', '.join(known)}, but got {', '.join(found)}.")
        for (dtype, shape), (given, size) in zip(known.values(), found.values(), strict=True):
            if _family(dtype) != _family(given) or (size != shape and _family(dtype) != "int"):
                raise UserError(
                    f"The run reads {KINDS[self.kind]} of type {dtype} and shape {tuple(shape)} a sample, but got type {given} "
                    f"and shape {tuple(size)}."
                )
        if self.kind == "images" and len(stored) and int(stored.max()) > self.data.white:
            raise UserError(
                f"The run's images hold values from 0 to {self.data.white}, but got {int(stored.max())}. Scale them, or give "
                "image files, which are scaled."
            )
        if self.kind == "ids":
            self._refuse_unknown_ids(stored)
        dtypes = iter([getattr(torch, dtype) for dtype, _ in known.values()])
        stored = map_tensors(lambda each: each.to(next(dtypes)), stored)
        return stored, [(int(place), "it holds NaN or infinity") for place in np.flatnonzero(~finite)]

    def _refuse_unknown_ids(self, ids: Tensor) -> None:
        size = self.data.num_ids or getattr(self.data, "vocab_size", None)
        if size and ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < size:
            odd = int(ids.max()) if int(ids.max()) >= size else int(ids.min())
            raise UserError(
                f"The run's net knows {size:,} token ids, 0 to {size - 1}, but got {odd}. Make the ids as those of training were "
                "made."
            )


def without_training_data(config: Any, class_names: Sequence[str] | None) -> None:
    """Change the configuration of a data set, and of the data that it is made of, so that to make it reads no training data.

    Args:
        config: with ``class_path`` and ``init_args``; a dict, or jsonargparse's namespace.
        class_names: those of the checkpoint, which stand for names that would be read.

    >>> config = {"class_path": "HFDataModule", "init_args": {"class_names": None, "noise": {"class_path": "PairFlipNoise"}}}
    >>> without_training_data(config, ["cat", "dog"])
    >>> config["init_args"]
    {'class_names': ['cat', 'dog'], 'noise': None}
    """
    while hasattr(config, "get") and config.get("init_args") is not None:
        arguments = config["init_args"]
        if "noise" in arguments:
            arguments["noise"] = None
        if "class_names" in arguments and arguments["class_names"] is None and class_names is not None:
            arguments["class_names"] = list(class_names)
        config = arguments.get("data")


def _family(dtype: str) -> str:
    """Return which types count as one: signed integers, floats.

    >>> _family("int16"), _family("float64"), _family("uint8")
    ('int', 'float', 'uint8')
    """
    return dtype if dtype.startswith("u") else dtype.rstrip("0123456789")


def _finite(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which samples hold neither NaN nor infinity, shape ``(N,)``."""
    if array.dtype.kind != "f":
        return np.ones(len(array), bool)
    found: NDArray[np.bool_] = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    return found
