"""Four labels, clean and noisy, and an object that leaves a trace where it is unpickled: shared by the tests of label files."""

from pathlib import Path
from typing import Any

import numpy as np

CLEAN = np.array([1, 0, 2, 2])
NOISY = [2, 0, 1, 2]


class Hostile:
    """Leaves a trace where it is unpickled by someone who runs what a pickle holds."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)
