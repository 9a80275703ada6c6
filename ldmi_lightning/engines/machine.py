"""What a run is given of the machine: threads or a GPU."""

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def environment(trainer: Mapping[str, Any], slot: int | None) -> dict[str, str]:
    """Return the environment of a run: one thread for a run on a CPU, a GPU of its own for each of several runs.

    Args:
        trainer: the run's configuration of the Trainer.
        slot: which of several runs at a time it is; ``None`` for one run at a time, which may have all GPUs.
    """
    own = dict(os.environ)
    gpus = _gpus(trainer)
    if not gpus:
        own.setdefault("OMP_NUM_THREADS", "1")
    elif slot is not None and trainer.get("devices", "auto") == "auto":
        visible = own.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        own["CUDA_VISIBLE_DEVICES"] = visible.split(",")[slot % gpus]
    return own


def device_name(trainer: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """Say in words what a run is carried out on."""
    if _gpus(trainer):
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        try:
            listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()
        except (OSError, subprocess.SubprocessError):
            listed = []
        return ", ".join(dict.fromkeys(line.strip() for line in listed)) or "a GPU"
    threads = environment["OMP_NUM_THREADS"]
    return f"{_processor()}, {threads} {'thread' if threads == '1' else 'threads'}"


def _gpus(trainer: Mapping[str, Any]) -> int:
    return 0 if trainer.get("accelerator") == "cpu" else torch.cuda.device_count()


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", listed.read_text()) if listed.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()
