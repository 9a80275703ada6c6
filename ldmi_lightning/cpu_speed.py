"""Two settings of the process that make training on a CPU faster, and change nothing else."""

import ctypes
import os
import sys

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's malloc.h."""


def prepare_process() -> None:
    """Make the settings; where they do not apply, nothing happens."""
    _keep_freed_memory()
    _search_for_gpus_once()


def _keep_freed_memory() -> None:
    """Let glibc keep for the next step what one has freed.

    By itself it gives large blocks back, and the kernel clears every page of them anew in each step
    (``benchmarks/cpu_memory.py``).
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _search_for_gpus_once() -> None:
    """Where there is no GPU, spare the optimizer a search for NVIDIA's library in each step, which Lightning asks for."""
    if not torch.cuda.is_available():
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
