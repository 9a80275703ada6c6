"""The rules of the schedule, without Lightning: which stage follows, when one is over, and how long the whole lasts."""

from collections.abc import Mapping, Sequence


def following(stages: Sequence[str], running: str) -> str | None:
    """Return the stage that follows the running one; ``None`` after the last.

    >>> following(["warmup", "robust"], "warmup"), following(["warmup", "robust"], "robust")
    ('robust', None)
    """
    return next(iter(stages[stages.index(running) + 1 :]), None)


def is_over(epochs: int, at_most: int, best_epoch: int | None, patience: int | None) -> bool:
    """Whether a stage ends after so many epochs.

    Args:
        epochs: those run.
        at_most: those that it may run.
        best_epoch: its best one, from 1; ``None`` before the first validation.
        patience: epochs to wait for a better one; ``None`` for any number.

    >>> is_over(3, 3, 1, None), is_over(3, 9, 1, 2), is_over(3, 9, None, 2)
    (True, True, False)
    """
    waited = epochs - best_epoch if best_epoch is not None else 0
    return epochs >= at_most or (patience is not None and waited >= patience)


def total_epochs(at_most: Mapping[str, int], running: str, first_epoch: int, epochs: int, over: bool) -> int:
    """Return how many epochs the whole has at most, as things stand now.

    Args:
        at_most: the epochs of each stage, in order.
        running: the running stage.
        first_epoch: the epoch of the whole, from 0, in which it began.
        epochs: those that it has run.
        over: whether it has ended; it then has no more, however many it might have had.

    >>> total_epochs({"warmup": 5, "robust": 3}, "warmup", first_epoch=0, epochs=2, over=False)
    8
    >>> total_epochs({"warmup": 5, "robust": 3}, "warmup", first_epoch=0, epochs=2, over=True)
    5
    """
    names = list(at_most)
    own = epochs if over else max(at_most[running], epochs)
    return first_epoch + own + sum(at_most[name] for name in names[names.index(running) + 1 :])
