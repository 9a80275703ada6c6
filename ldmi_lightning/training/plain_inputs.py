"""What ``predict`` takes for a batch: a labelled one, or inputs alone."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ldmi_lightning.batch import Batch, as_batch
from ldmi_lightning.inputs import num_samples, tensors_in


def inputs_of(batch: Any) -> tuple[Any, Tensor]:
    """Return the inputs in a batch, and the position of each sample in its split, shape ``(B,)``; -1 where it is unknown.

    A tensor and a dict are inputs. A pair is ``(x, y)`` where its second part is a row of integers: labels, which nobody
    needs here. Any other tuple or list is inputs of several tensors; one of a single tensor, as PyTorch's ``TensorDataset``
    makes it, is that tensor.

    >>> x, y = torch.zeros(2, 3), torch.tensor([0, 1])
    >>> [type(inputs_of(batch)[0]).__name__ for batch in (x, [x], {"a": x}, [x, y], (x, x))]
    ['Tensor', 'Tensor', 'dict', 'Tensor', 'tuple']
    """
    if isinstance(batch, Batch) or _has_labels(batch):
        taken = as_batch(batch)
        return taken.x, taken.index
    x = batch[0] if isinstance(batch, tuple | list) and len(batch) == 1 else batch
    if not isinstance(x, Tensor | Mapping | tuple | list):
        as_batch(batch)  # says what a batch is
    device = next((tensor.device for _, tensor in tensors_in(x)), None)
    return x, torch.full((num_samples(x),), -1, device=device)


def _has_labels(batch: Any) -> bool:
    if not (isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[1], Tensor)):
        return False
    y = batch[1]
    return y.ndim == 1 and not (y.is_floating_point() or y.is_complex())
