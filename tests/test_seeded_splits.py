"""Splits that a seed draws: whose shares they hold, which classes are in them, and which shares are impossible."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmi_lightning.datamodules.splits import fill_splits, seeded_split
from ldmi_lightning.errors import UserError

pytestmark = pytest.mark.usefixtures("hub_of_its_own")


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=80),
    st.floats(0.05, 0.45),
    st.floats(0.05, 0.45),
    st.integers(0, 9),
)
def test_seeded_split_deals_every_sample_out_once(labels: list[int], val: float, test: float, seed: int) -> None:
    parts = seeded_split(np.array(labels), {"val": val, "test": test}, seed)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(labels)))
    assert [len(parts[name]) for name in ("val", "test")] == [round(share * len(labels)) for share in (val, test)]


def test_seeded_split_holds_each_classes_share() -> None:
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    parts = seeded_split(labels, {"val": 0.1, "test": 0.2})
    for name, share in (("val", 0.1), ("test", 0.2), ("train", 0.7)):
        assert np.abs(np.bincount(labels[parts[name]]) - share * np.array([700, 200, 100])).max() <= 1


def drawn(labels: np.ndarray, shares: dict[str, float], seed: int) -> dict[str, np.ndarray]:
    """Return the draw before anything is exchanged: by class, each spread evenly, shuffled."""
    order = np.random.RandomState(seed).permutation(len(labels))
    by_class = [order[labels[order] == label] for label in range(labels.max() + 1)]
    places = np.concatenate([(np.arange(len(part)) + 0.5) / max(len(part), 1) for part in by_class])
    order = np.concatenate(by_class)[np.argsort(places, kind="stable")]
    ends = np.cumsum([round(share * len(labels)) for share in shares.values()])
    *parts, rest = np.split(order, ends)
    return dict(zip(shares, parts, strict=True)) | {"train": np.sort(rest)}


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0.05, 0.45), st.integers(0, 9))
def test_rare_classes_are_in_train_and_then_in_validation_and_nothing_else_is_changed(
    given_labels: list[int], share: float, seed: int
) -> None:
    labels, shares = np.array(given_labels), {"val": share, "test": share}
    before, after = drawn(labels, shares, seed), seeded_split(labels, shares, seed)
    counts = {name: np.bincount(labels[part], minlength=5) for name, part in after.items()}
    total = np.bincount(labels, minlength=5)
    if len(after["train"]) >= (total > 0).sum():
        assert (counts["train"][total > 0] > 0).all()
    if len(after["val"]) >= (total > 1).sum() and len(after["train"]) >= (total > 0).sum() + (total > 1).sum():
        assert (counts["val"][total > 1] > 0).all()
    held = {name: np.bincount(labels[part], minlength=5) for name, part in before.items()}
    if (held["train"][total > 0] > 0).all() and (held["val"][total > 1] > 0).all():
        assert {name: part.tolist() for name, part in after.items()} == {
            name: part.tolist() for name, part in before.items()
        }


def test_draw_of_large_classes_is_that_of_before() -> None:
    labels, shares = np.random.RandomState(0).permutation(np.arange(25_000) % 2), {"val": 0.18, "test": 0.1}
    for name, part in seeded_split(labels, shares).items():
        assert np.array_equal(part, drawn(labels, shares, 0)[name])


def test_seeded_split_is_drawn_by_its_seed() -> None:
    first, again, other = (seeded_split(np.zeros(100, int), {"val": 0.2}, seed)["val"].tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(first) != list(range(20))


def test_fill_splits_leaves_what_is_there_alone() -> None:
    zeros = np.zeros(10, int)
    parts = fill_splits({"train": zeros, "val": zeros, "test": zeros}, {"val": 0.5, "test": 0.5})
    assert {name: part.tolist() for name, part in parts.items()} == {
        "train": list(range(10)),
        "val": list(range(10, 20)),
        "test": list(range(20, 30)),
    }


@pytest.mark.parametrize(
    ("val", "test", "said"),
    [
        (0.0, 0.1, "--data.val_share 0 and --data.test_share 0.1: shares must lie between"),
        (0.1, 1.5, "shares must lie between"),
        (0.5, 0.5, "below 1 in sum"),
        (0.04, 0.1, "of 10 samples leaves the val split without any"),
        (0.48, 0.48, "leaves the train split without any"),
    ],
)
def test_impossible_shares_are_named(val: float, test: float, said: str) -> None:
    with pytest.raises(UserError, match=said):
        fill_splits({"train": np.zeros(10, int)}, {"val": val, "test": test})


def test_share_of_a_split_that_is_there_does_not_matter() -> None:
    zeros = np.zeros(10, int)
    assert len(fill_splits({"train": zeros, "test": zeros}, {"val": 0.1, "test": 7.0})["test"]) == 10
