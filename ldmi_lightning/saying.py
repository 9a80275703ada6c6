"""Saying in one line what was done to what the user gave."""

from lightning_fabric.utilities.rank_zero import rank_zero_only


@rank_zero_only
def say(line: str) -> None:
    """Print a line, on one process alone."""
    print(line, flush=True)
