"""Sums and gathers over the ranks of a distributed run; each is the identity in a single process."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized()


def leave() -> None:
    """Leave the group of ranks: a process that ends with its threads still at work is now and then ended by SIGABRT."""
    if is_distributed():
        dist.destroy_process_group()


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * dist.get_world_size()


def sum_over_ranks(local: Tensor) -> Tensor:
    """Sum a tensor over all ranks, with a gradient that survives DDP's averaging.

    Every rank computes the same loss from the sum, and DDP averages the ranks' gradients, so the backward pass
    multiplies by the number of ranks: the averaged gradient is then that of one process with the global batch.
    """
    if not is_distributed():
        return local
    total: Tensor = _SumOverRanks.apply(local)
    return total


def gather_over_ranks(local: Tensor) -> Tensor:
    """Concatenate the ranks' tensors along the first dimension, which may differ in length between ranks."""
    if not is_distributed():
        return local
    if local.device.type == "cpu" and dist.get_backend() == "nccl":
        return gather_over_ranks(local.cuda()).cpu()  # NCCL knows no tensors on the CPU
    length = torch.tensor([len(local)], device=local.device)
    lengths = [torch.zeros_like(length) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, length)
    longest = max(int(other) for other in lengths)
    padded = local.new_zeros(longest, *local.shape[1:])
    padded[: len(local)] = local
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(other)] for part, other in zip(parts, lengths, strict=True)])
