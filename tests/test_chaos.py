"""`make chaos`: a fault that it makes leaves no trace, and it says so."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks/chaos.py"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
def test_a_killed_fit_is_tried_and_neither_lost_nor_unequal_nor_hung() -> None:
    words = ["--faults", "1", "--command", "workers", "--fault", "SIGKILL of main"]
    run = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.endswith("\ntried 1, lost 0, unequal 0, hung 0\n")
    assert "SIGKILL of main process" in run.stdout
