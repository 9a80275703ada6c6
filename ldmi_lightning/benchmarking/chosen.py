"""What grids say of the choice between stages: which one a run keeps to predict, and what that costs against its best."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Chosen(NamedTuple):
    """The stage that a run keeps to predict, by held-out noisy labels alone.

    Attributes:
        stage: its name.
        test_acc: its accuracy on clean test labels, a share.
        test_balanced_acc: its balanced accuracy.
        regret: accuracy of the run's best stage, by those labels, minus that of this one.
        balanced_regret: the same of balanced accuracy.
    """

    stage: str
    test_acc: float
    test_balanced_acc: float
    regret: float
    balanced_regret: float


def chosen_of(found: Mapping[str, Any]) -> Chosen | None:
    """Return the choice of a run, given its ``results.json``; ``None`` where it says nothing of one, or was not tested.

    >>> stages = {"warmup": {"test_acc": 0.75, "test_balanced_acc": 0.5}, "robust": {"test_acc": 0.5, "test_balanced_acc": 0.5}}
    >>> chosen_of({"stages": stages, "chosen": "robust"})
    Chosen(stage='robust', test_acc=0.5, test_balanced_acc=0.5, regret=0.25, balanced_regret=0.0)
    """
    stages = [stage for stage in found["stages"].values() if stage is not None]
    own = found["stages"].get(found.get("chosen"))
    if own is None or own["test_acc"] is None:
        return None
    regret, balanced = (
        max(stage[key] for stage in stages if stage[key] is not None) - own[key]
        for key in ("test_acc", "test_balanced_acc")
    )
    return Chosen(found["chosen"], own["test_acc"], own["test_balanced_acc"], regret, balanced)


def tally(chosen: Sequence[Chosen | None]) -> str:
    """Name the stages that runs keep, with counts where they are not all the same.

    >>> one, other = Chosen("robust", 0.5, 0.5, 0.0, 0.0), Chosen("warmup", 0.5, 0.5, 0.0, 0.0)
    >>> tally([one, one]), tally([one, other, one]), tally([one, None])
    ('robust', 'robust 2, warmup 1', 'robust 1')
    """
    counts = Counter(each.stage for each in chosen if each is not None)
    if list(counts.values()) == [len(chosen)]:
        return next(iter(counts))
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def mean_regrets(chosen: Sequence[Chosen | None]) -> tuple[float, float] | None:
    """Return the mean regret over runs, of accuracy and of balanced accuracy; ``None`` where no choice is known."""
    known = [each for each in chosen if each is not None]
    if not known:
        return None
    return statistics.fmean(each.regret for each in known), statistics.fmean(each.balanced_regret for each in known)
