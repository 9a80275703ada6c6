"""How far a grid has come: one line that is written anew on a terminal, a line for each cell elsewhere."""

import sys
import time

from ldmi_lightning.benchmarking.cells import Cell

WIDTH = 30


class Progress:
    """Tells of the cells that end.

    Args:
        total: number of cells of the grid.
        finished: number of those that were finished before.
    """

    def __init__(self, total: int, finished: int) -> None:
        self.total = total
        self.begun_with = self.finished = finished
        self.failed = 0
        self.begun = time.monotonic()
        self.rewrites = sys.stdout.isatty()

    def end(self, cell: Cell, said: str, failed: bool) -> None:
        """Tell of a cell that has ended."""
        self.failed += failed
        self.finished += not failed
        ended = self.finished + self.failed
        left = "" if ended == self.total else f"; {duration(self._seconds_left())} left"
        if self.rewrites and not failed:
            self.show(left)
        else:
            self.clear()
            print(f"[{ended}/{self.total}] {cell}: {said}{left}", flush=True)

    def again(self, cell: Cell, fault: str) -> None:
        """Tell of a cell whose worker has died, and which is given out again."""
        self.clear()
        print(f"{cell}: {fault}; it is given out again, and goes on from its last whole epoch.", flush=True)

    def show(self, left: str = "") -> None:
        """Write the line of a terminal."""
        if self.rewrites:
            full = WIDTH * (self.finished + self.failed) // self.total
            bar = "█" * full + "░" * (WIDTH - full)
            failed = f", {self.failed} failed" if self.failed else ""
            print(f"\r\x1b[K{bar} {self.finished} of {self.total} cells{failed}{left}", end="", flush=True)

    def clear(self) -> None:
        """Make room on a terminal for a line that stays."""
        if self.rewrites:
            print("\r\x1b[K", end="")

    def _seconds_left(self) -> float:
        ended = self.finished + self.failed
        return (time.monotonic() - self.begun) / (ended - self.begun_with) * (self.total - ended)


def duration(seconds: float) -> str:
    """Write a time in words.

    >>> duration(40), duration(150), duration(9000)
    ('40 s', '2 min', '2 h 30 min')
    """
    minutes = int(seconds) // 60
    if not minutes:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
