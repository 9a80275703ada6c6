"""What is set for training on a CPU."""

import os
import resource
import subprocess
import sys

import pytest
import torch

from ldmi_lightning import cpu_speed

PAGES = 2**26 // resource.getpagesize()


STEPS = """
import resource, torch
from ldmi_lightning.cpu_speed import prepare_process

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MiB, which are freed again
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

prepare_process()
print(sorted([faults() for _ in range(40)][20:])[10])  # the first ones, up to nine of them, let the heap grow
"""
"""Prints how many pages the kernel has to clear for a step, in a process whose heap no other test has left its mark on."""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_a_step_finds_the_memory_that_the_last_one_freed() -> None:
    printed = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True).stdout
    assert int(printed) < PAGES / 10


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to be found")
def test_nobody_searches_for_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    cpu_speed.prepare_process()
    assert "PYTORCH_NVML_BASED_CUDA_CHECK" not in os.environ
