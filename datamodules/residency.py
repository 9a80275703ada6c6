"""Whether inputs are held in memory or read batch by batch: decided in one place, by the memory that is free."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

SHARE = 0.5
"""Inputs that would take more than this share of the free memory are streamed."""
PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def reason_to_stream(needed: int, what: str, device: torch.device, processes: int = 1) -> str | None:
    """Say why inputs do not fit into memory; ``None`` where they do, or nobody knows how much there is.

    Args:
        needed: bytes that they take.
        what: what they are, in words that begin a sentence.
        device: where they would be held. An accelerator's memory counts beside the machine's.
        processes: how many of them would hold all inputs, each for itself.

    >>> reason_to_stream(1, "One image", torch.device("cpu"))
    """
    found = free_memory()
    rooms = [] if found is None else [(found // processes, "memory")]
    if device.type == "cuda":
        rooms.append((torch.cuda.mem_get_info(device)[0], "memory of the GPU"))
    for room, where in sorted(rooms):
        if needed > SHARE * room:
            share = f" for each of {processes} processes" if processes > 1 and where == "memory" else ""
            return (
                f"{what} would take {needed / 1e9:,.1f} GB, more than half of the {room / 1e9:,.1f} GB of {where} that are "
                f"free{share}"
            )
    return None


def free_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Return how many bytes may still be taken: the least of what the machine and its control groups leave.

    What is held for files alone counts as free, since it is given back when it is needed.

    Args:
        proc: where Linux tells of memory and processes.
        cgroups: where it tells of control groups, by which containers and batch systems limit memory.

    Returns:
        ``None`` where the system does not tell.
    """
    try:
        lines = (line.split() for line in (proc / "meminfo").read_text().splitlines())
        machine = next(int(line[1]) * 1024 for line in lines if line[0] == "MemAvailable:")
    except (OSError, StopIteration):
        names = getattr(os, "sysconf_names", {})  # without /proc, as on macOS: all memory; on Windows nobody knows
        known = "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else None
    return max(0, min([machine, *_left_by_groups(proc, cgroups)]))


def _left_by_groups(proc: Path, cgroups: Path) -> Iterator[int]:
    """Yield what each control group of this process leaves, up to the topmost, in either version of the interface."""
    try:
        lines = [line.split(":", 2) for line in (proc / "self" / "cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in lines:
        if controllers == "":
            top, names = cgroups, ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            top, names = cgroups / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        folder = top / path.lstrip("/")
        for each in (folder, *folder.parents):
            yield from _left_by_group(each, *names)
            if each == top:
                break


def _left_by_group(folder: Path, limit: str, usage: str, prefix: str) -> Iterator[int]:
    try:
        most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # there is no such group here, or its limit is "max"
        return
    files = sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
    yield most - used + files
