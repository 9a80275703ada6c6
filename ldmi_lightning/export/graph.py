"""A run's model as one graph: inputs as they are stored, preprocessing, nets, and the probabilities of the classes."""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ldmi_lightning.datamodules.encoding.encode import Encoding
from ldmi_lightning.datamodules.known_inputs import Kinds
from ldmi_lightning.datamodules.tokenizer import TrimmedTokens
from ldmi_lightning.errors import UserError
from ldmi_lightning.method import Method

OUTPUT = "probabilities"
SAMPLES, TOKENS = 3, 7
"""So many samples, and token ids of each, a graph is traced with: of 0 or 1 the tracer would make a case of its own."""


class Graph(nn.Module):
    """What is exported: several tensors in, probabilities out.

    Args:
        transform: turns stored inputs into the nets'.
        nets: one, or two.
        method: makes probabilities of them.
        names: where each tensor stands in the stored inputs, such as ``["x"]`` or ``["x.image", "x.row"]``.

    Shape:
        each input ``(N, ...)``; output ``(N, C)``, float32.

    >>> Graph(nn.Flatten(), [nn.Linear(4, 2)], Method(), ["x"])(torch.zeros(3, 2, 2)).shape
    torch.Size([3, 2])
    """

    def __init__(self, transform: nn.Module, nets: Sequence[nn.Module], method: Method, names: Sequence[str]) -> None:
        super().__init__()
        self.transform, self.nets = exportable(transform), nn.ModuleList(nets)
        self.method, self.names = method, list(names)
        self.eval()

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the probabilities."""
        x = nested(dict(zip(self.names, tensors, strict=True)))
        return self.method.probabilities(list(self.nets), self.transform(x)).float()

    @property
    def rounds(self) -> bool:
        """Whether features are rounded to 16 bits on the way."""
        return any(isinstance(part, WholeBatch) and part.dtype == torch.float16 for part in self.transform.modules())


class WholeBatch(nn.Module):
    """A frozen encoder that sees the whole batch, whereas :class:`Encoding` cuts it, and no graph can.

    Args:
        encoding: whose features these are.

    >>> WholeBatch(Encoding(nn.Conv2d(3, 5, 1), torch.float16))(torch.zeros(2, 3, 4, 4)).shape
    torch.Size([2, 5])
    """

    def __init__(self, encoding: Encoding) -> None:
        super().__init__()
        self.encoder, self.dtype = encoding.encoder, encoding.dtype

    def forward(self, x: Any) -> Tensor:
        """Return features, shape ``(B, D)``; of maps ``(B, D, H, W)`` the mean over each."""
        given = self.encoder(x)
        features: Tensor = given.mean((2, 3)) if given.ndim == 4 else given
        return features.float().to(self.dtype)


def exportable(transform: nn.Module) -> nn.Module:
    """Return a transform that does the same, of parts that a graph can hold.

    :class:`TrimmedTokens` only leaves out columns of padding, which the attention mask leaves out of account, too.

    >>> exportable(nn.Sequential(TrimmedTokens()))
    Sequential(
      (0): Identity()
    )
    """
    if isinstance(transform, Encoding):
        return WholeBatch(transform)
    if isinstance(transform, TrimmedTokens):
        return nn.Identity()
    if isinstance(transform, nn.Sequential):
        return nn.Sequential(*map(exportable, transform))
    return transform


def nested(tensors: Mapping[str, Any]) -> Any:
    """Return tensors as inputs are stored: one, or a tuple or dict of them, which may hold others.

    >>> nested({"x": 1}), nested({"x.ids": 1, "x.pair.0": 2, "x.pair.1": 3})
    (1, {'ids': 1, 'pair': (2, 3)})
    """
    if list(tensors) == ["x"]:
        return tensors["x"]
    parts: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        head, _, rest = name.removeprefix("x.").partition(".")
        parts.setdefault(head, {})[f"x.{rest}" if rest else "x"] = tensor
    found = {head: nested(part) for head, part in parts.items()}
    return tuple(found.values()) if all(head.isdigit() for head in found) else found


class Input(NamedTuple):
    """An input of a graph.

    Attributes:
        name: as it is called there.
        place: where it stands in the stored inputs.
        dtype: ``"uint8"`` of images, ``"int64"`` of token ids, ``"float32"`` of numbers.
        shape: of a sample; -1 for a length that is not fixed.
    """

    name: str
    place: str
    dtype: str
    shape: list[int]


def inputs_of(kinds: Kinds, free: bool = False) -> list[Input]:
    """Return the inputs of a graph for samples that are stored in such a way.

    Args:
        kinds: type and shape of each tensor of a sample.
        free: whether samples may have any number of token ids, as texts do.

    >>> inputs_of({"x": ["uint8", [3, 8, 8]]})
    [Input(name='inputs', place='x', dtype='uint8', shape=[3, 8, 8])]
    >>> [(each.name, each.shape) for each in inputs_of({"x.ids": ["int16", [20]], "x.row": ["float32", [5]]}, free=True)]
    [('ids', [-1]), ('row', [5])]
    """
    found = []
    for place, (dtype, shape) in kinds.items():
        name = place.removeprefix("x.").replace(".", "_") if place != "x" else "inputs"
        is_ids = dtype.startswith("int")
        wide = "int64" if is_ids else "uint8" if dtype == "uint8" else "float32"
        size = [-1] if is_ids and free else list(shape)
        found.append(Input(f"input_{name}" if name.isdigit() else name, place, wide, size))
    return found


def example_of(inputs: Sequence[Input]) -> tuple[Tensor, ...]:
    """Return tensors to trace a graph with: zeros, and for token ids ones, which are valid as ids and as a mask.

    >>> [each.shape for each in example_of(inputs_of({"x": ["int16", [20]]}, free=True))]
    [torch.Size([3, 7])]
    """
    made = []
    for each in inputs:
        shape = [SAMPLES, *(TOKENS if size < 0 else size for size in each.shape)]
        make = torch.ones if each.dtype == "int64" else torch.zeros
        made.append(make(shape, dtype=getattr(torch, each.dtype)))
    return tuple(made)


def traced(graph: Graph, inputs: Sequence[Input]) -> Any:
    """Return a graph's ONNX program, of any number of samples.

    Raises:
        UserError: the net does what no graph can hold.
    """
    try:
        return _traced(graph, inputs, example_of(inputs))
    except Exception as error:  # there is no end to what a tracer raises on a net
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = (said[0] if said else type(error).__name__).rstrip(".:")[:300]
        raise UserError(
            f"{type(graph.nets[0]).__name__} cannot be exported as a graph: {reason}. A net whose steps depend on its inputs' "
            "values cannot; write the step with torch.where, or use ldmi_lightning.load(RUN) in Python instead."
        ) from error


def _traced(graph: Graph, inputs: Sequence[Input], example: tuple[Tensor, ...]) -> Any:
    batch = torch.export.Dim("batch")
    free = [
        {0: batch, **{1 + at: torch.export.Dim.DYNAMIC for at, size in enumerate(each.shape) if size < 0}}
        for each in inputs
    ]
    with _quiet(), torch.no_grad():
        program = torch.export.export(graph, example, dynamic_shapes=(tuple(free),), strict=False)
        return torch.onnx.export(
            program,
            dynamic_shapes=(tuple(free),),
            input_names=[each.name for each in inputs],
            output_names=[OUTPUT],
            dynamo=True,
            verbose=False,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the exporter says of itself, and the code that it prints where a net cannot be traced."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
