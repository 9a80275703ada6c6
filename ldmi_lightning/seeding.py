"""Where seeds come from: one base seed, from which every stream of randomness is derived."""

import os

import numpy as np

NOT_SEEDED = (
    "No seed_everything was called: order and dropout are those of seed 0, and torch.manual_seed changes the initial weights "
    "alone. Call pytorch_lightning.seed_everything(SEED) for others."
)


def is_seeded() -> bool:
    """Whether ``seed_everything`` was called."""
    return "PL_GLOBAL_SEED" in os.environ


def base_seed() -> int:
    """Return the seed that ``seed_everything`` was called with (Lightning keeps it in the environment), else 0.

    It is the same on all ranks, and the same in the process that resumes a run.
    """
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def derived_seed(*key: int) -> int:
    """Mix non-negative integers, such as ``(seed, epoch, rank)``, into one 63-bit seed.

    Neighbouring keys give unrelated seeds, and the order of the key counts:

    >>> derived_seed(1, 2) == derived_seed(1, 2)
    True
    >>> derived_seed(1, 2) == derived_seed(2, 1)
    False
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
