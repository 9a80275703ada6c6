"""What a data set says of its inputs: how they are stored, what people see of them, and how new ones are read."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
from torch import nn

from ldmi_lightning.inputs import in_memory, tensors_in
from ldmi_lightning.originals import Original, Originals

from .loaders import Split
from .shown import WHITE, originals_of
from .streamed import Streamed

Kinds = dict[str, list[Any]]
"""For each tensor of a sample where it stands, such as ``"x"`` or ``"x.row"``, and its type and shape."""


class KnownInputs(pl.LightningDataModule):
    """A data set whose checkpoints say what its inputs are like, so that new ones are read in the same way.

    A subclass sets what differs from the defaults.
    """

    white: ClassVar[int] = WHITE
    """The value of white, where images are stored as uint8."""
    resizing: ClassVar[Literal["none", "decoded", "drafted"]] = "none"
    """How images are brought to one size: they have one; after they were decoded; or from a JPEG that is decoded at a fraction of
    its size, as :class:`~ldmi_lightning.datamodules.image_files.ImageFiles` does."""
    text_columns: Sequence[str] = ()
    """Names of the columns of texts, where the inputs are texts."""
    image_column: str | None = None
    """Name of the column of images, where there is one."""
    label_column: str = "label"
    """Name of the column of labels."""
    encoding: str = "utf-8"
    """How characters are stored in CSV files."""
    input_kinds: Kinds | None = None
    """What the stored inputs are like; known after ``setup``, or from a checkpoint."""
    num_ids: int | None = None
    """How many token ids the run's net knows, where it was told so and inputs are such."""
    splits: dict[str, Split]

    def eval_transform(self) -> nn.Module:
        """Return what turns a stored batch into the model's inputs."""
        return nn.Identity()

    def new_transform(self) -> nn.Module:
        """Return what turns inputs of samples that are new, stored as those of training are, into the model's inputs."""
        return self.eval_transform()

    def new_from(self) -> "KnownInputs":
        """Return the data set that says how new samples are read."""
        return self

    def original(self, index: int) -> Original | None:
        """Return what the sample of an original index was, where the stored inputs do not show it: its text or its file."""
        return None

    def originals(self, split: str) -> Originals:
        """Return what a split's samples were before they became numbers, each read when asked for; known after ``setup``."""
        return originals_of(self.splits[split], self.original, self.white)

    def state_dict(self) -> dict[str, Any]:
        """Return what the inputs are like."""
        known = kinds_in(self.splits["train"].x) if "train" in self.splits else self.input_kinds
        return {} if known is None else {"inputs": known}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Learn what the inputs are like."""
        self.input_kinds = state_dict.get("inputs", self.input_kinds)


def kinds_in(x: Any) -> Kinds | None:
    """Return type and shape of each tensor of a sample; ``None`` for inputs that are neither tensors nor images.

    >>> import torch
    >>> kinds_in({"image": torch.zeros(9, 1, 8, 8, dtype=torch.uint8), "row": torch.zeros(9, 5)})
    {'x.image': ['uint8', [1, 8, 8]], 'x.row': ['float32', [5]]}
    """
    if isinstance(x, Streamed):
        return x.kinds()
    if not in_memory(x):
        return None
    return {name: [str(each.dtype).removeprefix("torch."), list(each.shape[1:])] for name, each in tensors_in(x)}


def kind_of(data: KnownInputs) -> str:
    """Name what the inputs of a data set are: ``"texts"``, ``"images"``, ``"numbers"``, ``"ids"`` or ``"several"``."""
    if data.text_columns:
        return "texts"
    known: Mapping[str, Any] = data.input_kinds or {}
    if list(known) != ["x"]:
        return "several"
    dtype, shape = known["x"]
    if dtype == "uint8" and len(shape) == 3 and shape[0] in (1, 3):
        return "images"
    return "ids" if "int" in dtype else "numbers"
