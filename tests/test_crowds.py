"""Votes of several people: files of them, and what they come to, against closed forms and a loop over the equations."""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ldmi_lightning.crowds import agreement, dawid_skene, majority_vote, votes_array
from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import CrowdLabels, HumanNoise

pytestmark = pytest.mark.usefixtures("in_own_folder")

HUMAN = Path(__file__).parents[2] / "shared/data/cifar_n/CIFAR-10_human.pt"
CLEAN = np.array([0, 1, 2, 1])
INDEX = np.array([7, 3, 12, 0])
LONG = "item,annotator,label\n7,bo,0\n7,al,0\n3,al,1\n12,cy,2\n12,bo,2\n12,al,0\n0,cy,1\n"
VOTES = [[0, 0, -1], [1, -1, -1], [0, 2, 2], [-1, -1, 1]]


def crowd(accuracies: list[float], items: int, num_classes: int, seed: int = 0) -> tuple[NDArray[np.int64], ...]:
    """Draw true classes and votes of people who are right so often, and else name any other class."""
    random = np.random.default_rng(seed)
    true = random.integers(num_classes, size=items)
    wrong = (true[:, None] + random.integers(1, num_classes, (items, len(accuracies)))) % num_classes
    return true, np.where(random.random(wrong.shape) < accuracies, true[:, None], wrong)


# -- the majority -----------------------------------------------------------------------------------------------------


def test_a_majority_is_what_counting_by_hand_gives() -> None:
    found = majority_vote(np.array([[0, 2, 2], [1, -1, 1], [-1, -1, 0]]), 3)
    assert found.labels.tolist() == [2, 1, 0]
    np.testing.assert_allclose(found.posterior, [[1 / 3, 0, 2 / 3], [0, 1, 0], [1, 0, 0]])
    assert found.transition is None
    assert found.ties == 0


def test_ties_are_decided_by_lot_the_same_one_each_time_and_evenly() -> None:
    three = np.tile([2, 0, 1], (3000, 1))
    found = majority_vote(three, 4)
    assert found.ties == 3000
    assert np.abs(np.bincount(found.labels, minlength=4) / 3000 - [1 / 3, 1 / 3, 1 / 3, 0]).max() < 0.03
    np.testing.assert_array_equal(majority_vote(three[:, ::-1], 4).labels, found.labels)
    np.testing.assert_array_equal(majority_vote(three[:100], 4).labels, found.labels[:100])


@pytest.mark.parametrize("aggregate", [majority_vote, dawid_skene])
def test_an_item_without_a_vote_is_refused(aggregate: object) -> None:
    with pytest.raises(UserError, match=r"1 of 2 items have no vote, first item 1"):
        aggregate(np.array([[0, 1], [-1, -1]]), 2)  # type: ignore[operator]


def test_agreement_is_the_share_of_pairs_that_agree() -> None:
    true, votes = crowd([0.8, 0.7, 0.6], 30, 4)
    votes[::4, 1] = -1
    pairs = [
        one == other
        for row in votes.tolist()
        for place, one in enumerate(row)
        for other in row[place + 1 :]
        if -1 not in (one, other)
    ]
    assert agreement(votes) == pytest.approx(sum(pairs) / len(pairs))
    assert np.isnan(agreement(true[:, None]))


# -- Dawid and Skene --------------------------------------------------------------------------------------------------


def by_definition(votes: NDArray[np.int64], num_classes: int) -> Iterator[tuple[NDArray[np.float64], ...]]:
    """Yield posterior and T after each step of Dawid and Skene's equations 2.3 to 2.5, vote by vote."""
    posterior = majority_vote(votes, num_classes).posterior.copy()
    while True:
        counts = np.zeros((votes.shape[1], num_classes, num_classes))
        for item, row in enumerate(votes.tolist()):
            for annotator, vote in enumerate(row):
                if vote >= 0:
                    counts[annotator, :, vote] += posterior[item]
        counts = counts.clip(min=1e-10)
        transition, shares = counts / counts.sum(axis=2, keepdims=True), posterior.mean(axis=0)
        yield posterior.copy(), transition
        for item, row in enumerate(votes.tolist()):
            likelihood = shares.copy()
            for annotator, vote in enumerate(row):
                likelihood *= transition[annotator, :, vote] if vote >= 0 else 1
            posterior[item] = likelihood / likelihood.sum()


def test_dawid_skene_is_a_loop_over_the_equations() -> None:
    _, votes = crowd([0.9, 0.8, 0.6, 0.4], 60, 3)
    votes[::3, 1] = -1
    found = dawid_skene(votes, 3)
    assert found.transition is not None
    steps = list(islice(by_definition(votes, 3), 100))
    ended = int(np.argmin([np.abs(found.posterior - posterior).max() for posterior, _ in steps]))
    assert 5 < ended < 99
    np.testing.assert_allclose(found.posterior, steps[ended][0], atol=1e-6)
    np.testing.assert_allclose(found.transition, steps[ended][1], atol=1e-6)
    np.testing.assert_allclose(found.posterior.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(found.transition.sum(axis=2), 1, rtol=1e-12)


def test_dawid_skene_finds_each_persons_t_and_beats_the_majority() -> None:
    accuracies = [0.95, 0.6, 0.5, 0.4, 0.4]
    true, votes = crowd(accuracies, 800, 4)
    found, majority = dawid_skene(votes, 4), majority_vote(votes, 4)
    assert found.transition is not None
    expected = [np.eye(4) * right + (1 - np.eye(4)) * (1 - right) / 3 for right in accuracies]
    np.testing.assert_allclose(found.transition, expected, atol=0.12)
    assert (found.labels == true).mean() > (majority.labels == true).mean() + 0.05
    np.testing.assert_array_equal(found.labels, found.posterior.argmax(axis=1))


def test_what_no_vote_tells_of_is_even() -> None:
    votes = np.array([[0, 0, -1], [1, 1, -1]] * 5)
    found = dawid_skene(votes, 3)  # nobody names class 2, and the third gives no vote
    assert found.transition is not None
    assert np.isfinite(found.transition).all()
    np.testing.assert_allclose(found.transition[2], 1 / 3)
    np.testing.assert_allclose(found.transition[:, 2], 1 / 3)
    assert found.posterior[:, 2].max() < 1e-6


# -- files ------------------------------------------------------------------------------------------------------------


def labels(noise: CrowdLabels, num_classes: int = 3) -> list[int]:
    return noise(CLEAN, num_classes, index=INDEX).tolist()


@pytest.mark.parametrize(
    "content",
    [
        LONG,
        "\ufeff" + LONG.replace("\n", "\r\n") + "\r\n",
        LONG.replace(",", ";"),
        "label,note,item,annotator\n0,x,7,bo\n0,,7.0,al\n1,,3,al\n2,,12,cy\ncap,,12,bo\n0.0,,12,al\nbus,,0,cy\n",
    ],
)
def test_a_csv_file_holds_one_vote_a_line(content: str) -> None:
    Path("votes.csv").write_text(content)
    noise = CrowdLabels("votes.csv")
    noise.class_names = ["art", "bus", "cap"]
    assert labels(noise) == [0, 1, 2, 1]
    assert list(noise.annotators) == ["al", "bo", "cy"]
    assert noise.votes(INDEX).tolist() == VOTES  # type: ignore[union-attr]
    assert noise.votes(np.array([99])).tolist() == [[-1, -1, -1]]  # type: ignore[union-attr]
    np.testing.assert_allclose(noise.posterior(INDEX[2:3]), [[1 / 3, 0, 2 / 3]])
    assert np.isnan(noise.posterior(np.array([99]))).all()


def test_annotators_that_are_numbers_stand_in_the_order_of_numbers() -> None:
    Path("votes.csv").write_text("item,annotator,label\n" + "".join(f"0,{name},1\n" for name in (10, 9, 1)))
    noise = CrowdLabels("votes.csv")
    noise(np.array([1]), 2, index=np.array([0]))
    assert list(noise.annotators) == ["1", "9", "10"]


def refused(content: str, **arguments: str) -> str:
    """Write votes that must be refused, and return the one line that says why."""
    Path("votes.csv").write_text(content)
    with pytest.raises(UserError) as raised:
        labels(CrowdLabels("votes.csv", **arguments))  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
    assert "votes.csv" in str(raised.value) or "aggregate" in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (LONG + "12,bo,1\n", r"lines 6 and 9 are two votes of 'bo' on the item '12' \(1 such pairs"),
        (LONG + "12,dee,dog\n", r"line 9 has the label 'dog', which is no class: labels are 0 to 2\."),
        (LONG + "12,dee,3\n", r"line 9 has the label '3', which is no class"),
        (LONG + "12,dee,-1\n", r"line 9 has the label '-1', which is no class"),
        (LONG + "12,dee,NaN\n", r"line 9 has the label 'NaN', which is none: leave the line out"),
        (LONG + "12,dee,\n", "line 9 has no label"),
        (LONG + ",dee,1\n", "line 9 has no item"),
        (LONG + "12, ,1\n", "line 9 has no annotator"),
        (LONG + "a.png,dee,1\n", r"line 9 has the item 'a.png', which is no whole number, and .* have no names"),
        (LONG + "-4,dee,1\n", r"line 9 has the item '-4', which is no whole number"),
        (
            LONG.replace("3,al,1\n", ""),
            "no vote on 1 of 4 samples, the first of which is original index 3; its 3 items",
        ),
        ("item,annotator,label\n", "has no votes"),
        ("", "names no column item"),
        ("item,label\n1,2\n", "names no column annotator, but 'item,label'"),
        ("item,annotator,label\n1,2\n", "line 2 has 2 cells"),
    ],
)
def test_votes_that_do_not_fit_are_refused_with_the_place(content: str, named: str) -> None:
    assert re.search(named, refused(content))


def test_options_and_kinds_of_files_that_are_none_are_refused() -> None:
    assert "majority, dawid_skene" in refused(LONG, aggregate="mean")
    Path("votes.txt").write_text(LONG)
    for path, named in (("votes.txt", "must be a .csv, .npy, .npz or .pt file"), ("none.csv", "is no file")):
        with pytest.raises(UserError, match=named):
            CrowdLabels(path)


def test_numbers_where_classes_are_called_by_other_ones_are_refused_unless_they_can_only_be_names() -> None:
    Path("votes.csv").write_text("item,annotator,label\n0,al,7\n1,al,1\n")
    noise = CrowdLabels("votes.csv")
    noise.class_names = ["1", "2", "7"]
    assert noise(np.zeros(2, np.int64), 3, index=np.arange(2)).tolist() == [2, 0]
    Path("votes.csv").write_text("item,annotator,label\n0,al,2\n1,al,1\n")
    noise = CrowdLabels("votes.csv")
    noise.class_names = ["1", "2", "7"]
    with pytest.raises(UserError, match="unclear whether 1 is the second class"):
        noise(np.zeros(2, np.int64), 3, index=np.arange(2))


def test_arrays_are_votes_of_original_indices() -> None:
    votes = np.full((20, 3), -1, np.int16)
    votes[INDEX] = VOTES
    np.save("votes.npy", votes)
    np.savez("votes.npz", votes=votes, annotators=["al", "bo", "cy"])
    for given, names in (("votes.npy", ["0", "1", "2"]), ("votes.npz", ["al", "bo", "cy"]), (votes, ["0", "1", "2"])):
        noise = CrowdLabels(given)
        assert labels(noise) == [0, 1, 2, 1]
        assert list(noise.annotators) == names
        assert noise.votes(INDEX).tolist() == VOTES  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ([1, 2], r"shape \(N, A\).* but is int64 of shape \(2,\)"),
        ([[0.5]], "float64"),
        ([[1], [1, 2]], "object"),
        ([[0, -2]], "has -2 in row 0, column 1"),
        ([[-1, -1]], "has no votes"),
        (np.empty((0, 3), np.int64), "has no votes"),
    ],
)
def test_arrays_that_are_no_votes_are_refused(given: object, named: str) -> None:
    with pytest.raises(UserError, match=named):
        votes_array(given, what="votes")


def test_files_of_arrays_that_are_none_are_refused() -> None:
    np.save("objects.npy", np.array([{}]), allow_pickle=True)
    np.savez("other.npz", labels=[[1]])
    np.save("high.npy", [[0, 1], [3, 0]])
    Path("cut.npz").write_bytes(Path("other.npz").read_bytes()[:40])
    Path("cut.npy").write_bytes(Path("high.npy").read_bytes()[:90])
    for path, named in (
        ("objects.npy", "more than numbers"),
        ("cut.npz", "cut short"),
        ("cut.npy", "cut short"),
        ("other.npz", "holds labels, but no array called votes"),
    ):
        with pytest.raises(UserError, match=named):
            CrowdLabels(path)
    with pytest.raises(UserError, match=r"the vote 3 of annotator 0 on item 1, but with 3 classes"):
        CrowdLabels("high.npy")(np.zeros(2, np.int64), 3, index=np.arange(2))
    with pytest.raises(UserError, match="2 columns, but annotators are 1 names"):
        votes_array([[0, 1]], ["al", "al"], what="votes")


def test_what_the_votes_are_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    noise = CrowdLabels(np.array([[0, 1], [1, 1], [2, 0]]))
    for _ in range(2):
        noise(np.zeros(2, np.int64), 3, index=np.arange(2))
    assert capsys.readouterr().out == "votes: 6 votes of 2 annotators on 3 items, 2 ties are decided by lot.\n"
    assert noise.facts()["votes"] == {
        "aggregate": "majority",
        "annotators": 2,
        "items": 3,
        "votes": 6,
        "agreement": pytest.approx(1 / 3),
        "ties": 2,
    }
    assert noise.unused(np.arange(2)) == (
        "votes: the data has no sample of 1 of 3 items, first '2': their votes count in the aggregate alone."
    )
    assert noise.unused(np.arange(9)) is None


# -- CIFAR-10N --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not HUMAN.is_file(), reason="CIFAR-10N is not there")
def test_three_people_of_cifar_10n() -> None:
    noise, index = CrowdLabels(str(HUMAN)), np.arange(50_000)
    given = HumanNoise(str(HUMAN), "rand2").written
    clean = np.asarray(given.clean, np.int64)
    found = noise(clean, 10, index=index)
    assert list(noise.annotators) == ["random_label1", "random_label2", "random_label3"]
    votes = noise.votes(index)
    assert votes is not None
    np.testing.assert_array_equal(votes[:, 1], given.label)
    aggregate = HumanNoise(str(HUMAN), "aggre")(clean, 10, index=index)
    assert noise.aggregated is not None
    clear = (np.sort(noise.posterior(index), axis=1)[:, -1] > 0.5) & (aggregate >= 0)
    np.testing.assert_array_equal(found[clear], aggregate[clear])  # the authors' majority, but for ties
    assert (~clear).sum() == noise.aggregated.ties
    assert (found != clean).mean() == pytest.approx(0.09, abs=0.002)
    with pytest.raises(UserError, match="another data set"):
        noise(np.roll(clean, 1), 10, index=index)
