"""What is set for training on a CPU."""

import os
import resource
import sys

import pytest
import torch

from ldmi_lightning import cpu_speed

PAGES = 2**26 // resource.getpagesize()


def faults_of_a_step() -> int:
    """Take and free 64 MiB; return how many pages the kernel had to clear for that."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_a_step_finds_the_memory_that_the_last_one_freed() -> None:
    cpu_speed.prepare_process()
    assert sorted(faults_of_a_step() for _ in range(9))[4] < PAGES / 10  # a first one or two let the heap grow


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to be found")
def test_nobody_searches_for_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    cpu_speed.prepare_process()
    assert "PYTORCH_NVML_BASED_CUDA_CHECK" not in os.environ
