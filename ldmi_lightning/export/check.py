"""Whether an exported graph gives the model's own probabilities: on the validation set, or where it is gone on random inputs."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldmi_lightning.datamodules.known_inputs import KnownInputs, kind_of
from ldmi_lightning.datamodules.streamed import Streamed
from ldmi_lightning.errors import UserError
from ldmi_lightning.export.graph import Input, nested
from ldmi_lightning.inputs import num_samples, take, tensors_in

MOST = 1024
"""So many samples are compared at most: they stand evenly in the validation set."""
BATCH = 64
TOKENS = 16
"""Of random texts, where their number is free."""
TOLERANCE, TOLERANCE_16 = 1e-3, 1e-2
"""More than so much is no rounding: the graph computes something else. The latter where features are kept in 16 bits."""


class Samples(NamedTuple):
    """Samples to compare on.

    Attributes:
        tensors: of each of them, as it is stored, by where it stands in the inputs.
        of: what they are, in words.
    """

    tensors: dict[str, Tensor]
    of: str


def samples_of(data: KnownInputs, inputs: Sequence[Input]) -> Samples:
    """Return samples of a run's validation set; random ones where its data is not there any more.

    Args:
        data: has not been set up.
        inputs: of the graph.
    """
    try:
        data.setup("validate")
        x = data.splits["val"].x
        every = len(x) if isinstance(x, Streamed) else num_samples(x)
        where = spread(every, MOST)
        some = x.stored(where.tolist()) if isinstance(x, Streamed) else take(x, where)
    except (UserError, OSError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        return Samples(random_samples(data, inputs), f"random inputs, since the validation set is not there ({reason})")
    tensors = dict(tensors_in(some))
    of = f"{len(where):,} samples of the validation set" + ("" if len(where) == every else f" of {every:,}")
    return Samples(tensors, of)


def spread(n: int, most: int) -> Tensor:
    """Return at most so many positions among n, evenly.

    >>> spread(5, 3).tolist(), spread(2, 3).tolist()
    ([0, 2, 4], [0, 1])
    """
    return torch.linspace(0, n - 1, min(n, most)).round().to(torch.int64)


def random_samples(data: KnownInputs, inputs: Sequence[Input], n: int = BATCH) -> dict[str, Tensor]:
    """Return inputs of the run's types and shapes: any pixels, any token ids but padding, normal numbers; from a fixed seed."""
    random = torch.Generator().manual_seed(0)
    largest = data.white if kind_of(data) == "images" else 255
    tensors = {}
    for each in inputs:
        size = [n, *(TOKENS if length < 0 else length for length in each.shape)]
        if each.dtype == "uint8":
            tensors[each.place] = torch.randint(largest + 1, size, generator=random).to(torch.uint8)
        elif each.dtype == "int64":
            plain = each.name not in ("attention_mask", "token_type_ids")
            ids = torch.randint(1, getattr(data, "vocab_size", 2), size, generator=random)
            tensors[each.place] = ids if plain else torch.full(size, int(each.name == "attention_mask"))
        else:
            tensors[each.place] = torch.randn(size, generator=random)
    return tensors


def greatest_difference(
    path: Path,
    samples: Samples,
    inputs: Sequence[Input],
    probabilities: Callable[[Any], Tensor],
    tolerance: float = TOLERANCE,
) -> float:
    """Return the greatest difference between the probabilities of a graph and of the model, over batches of 1, 2 and 64.

    Args:
        path: of the graph.
        samples: to compare on.
        inputs: of the graph.
        probabilities: the model's, of stored inputs.
        tolerance: what is taken for rounding.

    Raises:
        UserError: it is more than rounding.
    """
    runtime: Any = importlib.import_module("onnxruntime")  # here, since it is an extra
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    greatest = 0.0
    for part in batches(samples.tensors):
        fed = {each.name: as_fed(part[each.place], each) for each in inputs}
        found: NDArray[np.float32] = session.run(None, fed)[0]
        wanted = probabilities(nested(part)).cpu().numpy()
        greatest = max(greatest, float(np.abs(found - wanted).max()))
    if not greatest <= tolerance:
        raise UserError(
            f"The exported graph gives other probabilities than the model, by up to {greatest:.3g} on {samples.of}: the net "
            "takes steps by len() or by values, which a graph cannot follow. Write them with shapes (x.shape[0]) and "
            "torch.where, or use ldmi_lightning.load(RUN) in Python instead."
        )
    return greatest


def batches(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield samples in batches of 1, of 2 and then of 64: a graph must take any number.

    >>> [len(part["x"]) for part in batches({"x": torch.zeros(70)})]
    [1, 2, 64, 3]
    """
    begin, n = 0, len(next(iter(tensors.values())))
    for size in (1, 2, *[BATCH] * n):
        if begin >= n:
            return
        yield {name: tensor[begin : begin + size] for name, tensor in tensors.items()}
        begin += size


def as_fed(tensor: Tensor, wanted: Input) -> NDArray[Any]:
    """Return a tensor as the graph takes it."""
    fed: NDArray[Any] = tensor.cpu().numpy().astype(wanted.dtype)
    return fed
