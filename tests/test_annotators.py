"""Annotators by likelihood: beside a plain loop, on votes of known people, in an audit; and what is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ldmi_lightning.commands import main
from ldmi_lightning.crowds.annotators import Annotators, cast_votes, estimate_annotators, no_outputs, without_own
from ldmi_lightning.crowds.reliability import association, reliabilities, upper_tail
from ldmi_lightning.crowds.shrinkage import SHARPNESS, STRENGTHS, fit_priors, shrunk
from ldmi_lightning.errors import UserError

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
SPAMMERS = 5


def people(
    random: np.random.RandomState, num_classes: int, number: int, right_on: tuple[float, float] = (0.6, 0.95)
) -> Floats:
    """Return T of people who mistake the same classes for each other, each as often as he does, shape ``(A, C, C)``."""
    errors = random.gamma(1.0, size=(num_classes, num_classes)) * (1 - np.eye(num_classes))
    errors /= errors.sum(axis=1, keepdims=True)
    right = random.uniform(*right_on, number)[:, None, None]
    return np.asarray(right * np.eye(num_classes) + (1 - right) * errors)


def votes_of(random: np.random.RandomState, y: Labels, transitions: Floats, per_item: int) -> Labels:
    """Return votes of as many annotators on each item, drawn by T."""
    votes = np.full((len(y), len(transitions)), -1)
    for item, k in enumerate(y.tolist()):
        for a in random.permutation(len(transitions))[:per_item].tolist():
            votes[item, a] = random.choice(len(transitions[a]), p=transitions[a, k])
    return votes


def outputs_for(random: np.random.RandomState, y: Labels, num_classes: int, scale: float = 2.2) -> Floats:
    """Return exact posteriors of Gaussian clouds, of which some four in five are right."""
    x = random.randn(len(y), num_classes) + scale * np.eye(num_classes)[y]
    q = np.exp(scale * x)
    return np.asarray(q / q.sum(axis=1, keepdims=True))


def crowd(
    seed: int, num_classes: int = 4, items: int = 1700, right_on: tuple[float, float] = (0.6, 0.95)
) -> tuple[Labels, Floats, Labels, Floats]:
    """Return true classes, T of 20 annotators of whom the first 5 answer at random, their votes, 3 an item, and outputs."""
    random = np.random.RandomState(seed)
    y = random.randint(num_classes, size=items)
    transitions = people(random, num_classes, 20, right_on)
    transitions[:SPAMMERS] = 1 / num_classes
    return y, transitions, votes_of(random, y, transitions, 3), outputs_for(random, y, num_classes)


def errors(found: Floats, transitions: Floats) -> Floats:
    """Return the mean L1 distance of the rows of each honest annotator's T."""
    return np.asarray(np.abs(found - transitions).sum(axis=2).mean(axis=1)[SPAMMERS:])


# -- the estimate -----------------------------------------------------------------------------------------------------


def test_one_step_is_that_of_a_loop_over_items_and_people() -> None:
    random = np.random.RandomState(0)
    num_classes, y = 3, random.randint(3, size=40)
    votes = votes_of(random, y, people(random, num_classes, 4), 2)
    votes[0] = -1
    q = outputs_for(random, y, num_classes)
    found = estimate_annotators(q, votes, temperatures=[1.0], steps=1)
    start = np.zeros((4, num_classes, num_classes))
    for i, a in np.argwhere(votes >= 0):
        for k in range(num_classes):
            start[a, k, votes[i, a]] += q[i, k]
    transitions = shrunk(start, fit_priors(start))
    total = 0.0
    for i in range(40):
        joint = [
            q[i, k] * np.prod([t[k, v] for t, v in zip(transitions, votes[i], strict=True) if v >= 0]) for k in range(3)
        ]
        np.testing.assert_allclose(found.posterior[i], np.array(joint) / sum(joint))
        total += np.log(sum(joint)) if i else 0.0
    np.testing.assert_allclose(found.transitions, transitions)
    assert found.log_likelihood == pytest.approx(total)
    others = without_own(found, cast_votes(votes))
    for n, (i, a) in enumerate(np.argwhere(votes >= 0)):
        rest = [b for b in range(4) if votes[i, b] >= 0 and b != a]
        expected = q[i] * np.prod([transitions[b, :, votes[i, b]] for b in rest], axis=0)
        np.testing.assert_allclose(others[n], expected / expected.sum())


def test_who_gave_many_votes_has_a_t_of_his_own_and_who_gave_few_that_of_all() -> None:
    many = 1e5 * np.array([[0.6, 0.4], [0.3, 0.7]])
    typical = np.array([[0.9, 0.1], [0.2, 0.8]])
    counts = np.stack([*[300 * typical] * 8, many, 2 * np.array([[1.0, 0.0], [0.0, 1.0]])])
    priors = fit_priors(counts, np.array([1.0] * 8 + [0.0, 1.0]))
    found = shrunk(counts, priors)
    np.testing.assert_allclose(found[8], many / 1e5, atol=0.005)
    np.testing.assert_allclose(found[9], typical, atol=0.04)
    assert priors.weights.shape == (10, len(SHARPNESS) * len(STRENGTHS) + 4)


def test_outputs_that_are_too_sure_are_made_softer() -> None:
    _, _, votes, probs = crowd(3, items=400)
    sharp = probs**3 / (probs**3).sum(axis=1, keepdims=True)
    assert estimate_annotators(sharp, votes, steps=1).temperature in (2.5, 4.0)
    assert estimate_annotators(probs**0.5, votes, steps=1).temperature in (0.35, 0.5, 0.7)


# -- spammers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "num_classes"),
    [(0, 4), *(pytest.param(seed, c, marks=pytest.mark.slow) for c in (4, 6, 10) for seed in range(1, 9))],
)
def test_exactly_the_five_who_answer_at_random_are_named(seed: int, num_classes: int) -> None:
    _, transitions, votes, probs = crowd(seed, num_classes)
    assert (votes >= 0).sum(axis=0).min() >= 200
    found = estimate_annotators(probs, votes)
    judged = reliabilities(found, votes)
    assert [each.kind for each in judged] == ["spammer"] * SPAMMERS + ["informative"] * 15
    # On ten classes 200 votes are 20 a row.
    assert errors(found.transitions, transitions).mean() < {4: 0.1, 6: 0.1, 10: 0.125}[num_classes]
    right = np.array([transition.diagonal().mean() for transition in transitions])
    held = [each.accuracy[1] <= share <= each.accuracy[2] for each, share in zip(judged, right, strict=True)]
    assert sum(held) >= 15, "95 % intervals, of shares on other items"


def test_without_a_net_too() -> None:
    y, transitions, votes, _ = crowd(2)
    found = estimate_annotators(no_outputs(len(y), 4), votes)
    assert [each.kind for each in reliabilities(found, votes)] == ["spammer"] * SPAMMERS + ["informative"] * 15
    assert errors(found.transitions, transitions).mean() < 0.13
    assert found.temperature is None
    majority = (np.eye(5)[votes][:, :, :4].sum(axis=1) + 1e-9).argmax(axis=1)
    assert (found.posterior.argmax(axis=1) == y).mean() > (majority == y).mean() + 0.03


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 9))])
def test_t_of_each_with_two_hundred_votes_is_within_a_tenth_where_people_are_alike(seed: int) -> None:
    _, transitions, votes, probs = crowd(seed, right_on=(0.77, 0.83))
    assert (votes >= 0).sum(axis=0).min() >= 200
    assert errors(estimate_annotators(probs, votes).transitions, transitions).max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("with_net", [True, False])
def test_t_of_each_with_two_hundred_votes_a_class_is_within_a_tenth(with_net: bool) -> None:
    y, transitions, votes, probs = crowd(1, 10, items=15_000)
    found = estimate_annotators(probs if with_net else no_outputs(len(y), 10), votes)
    assert errors(found.transitions, transitions).max() < (0.12 if with_net else 0.17)
    assert errors(found.transitions, transitions).mean() < (0.06 if with_net else 0.1)


def test_constant_answers_are_a_spammers_and_permuted_ones_are_not() -> None:
    random = np.random.RandomState(0)
    y = random.randint(4, size=800)
    transitions = people(random, 4, 8)
    transitions[0], transitions[1] = np.eye(4)[[2, 2, 2, 2]], 0.9 * np.eye(4)[[1, 2, 3, 0]] + 0.025
    votes = votes_of(random, y, transitions, 3)
    votes[:, 7] = np.where(np.arange(800) < 4, votes[:, 7], -1)
    judged = reliabilities(estimate_annotators(outputs_for(random, y, 4), votes, temperatures=[1.0]), votes)
    assert [each.kind for each in judged] == ["spammer", "contrary", *["informative"] * 5, "too few votes"]
    assert judged[0].score < 0.05 < 0.5 < judged[1].score
    assert judged[1].accuracy[2] < 0.3


def test_chance_alone_is_held_for_information_as_seldom_as_is_said() -> None:
    random = np.random.RandomState(0)
    said = outputs_for(random, random.randint(5, size=60), 5, 1.0)
    votes = np.eye(5)[random.choice(5, size=(400, 60), p=[0.5, 0.2, 0.1, 0.1, 0.1])]
    tied = [association(said, each) for each in votes]
    assert np.mean([value / degrees for value, degrees in tied]) == pytest.approx(1, abs=0.05)
    assert np.mean([upper_tail(*each) < 0.05 for each in tied]) < 0.08
    assert np.mean([upper_tail(*each) < 0.001 for each in tied]) < 0.01


def test_nobody_without_votes_is_named() -> None:
    found = Annotators(np.full((1, 2, 2), 0.5), np.full((3, 2), 0.5), np.eye(2), np.ones(1), None, 0.0)
    (nobody,) = reliabilities(found, np.full((3, 1), -1))
    assert (nobody.votes, nobody.kind, np.isnan(nobody.accuracy).all()) == (0, "too few votes", True)


# -- ldmi audit -------------------------------------------------------------------------------------------------------


def test_an_audit_tells_of_each_annotator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _, _, votes, probs = crowd(0, items=800)
    np.save("P.npy", probs)
    Path("L.csv").write_text("\n".join(["label", *map(str, votes.max(axis=1)), ""]))
    names = [f"<b>{a}, esq." if a == 3 else f"no {a}" for a in range(20)]
    lines = [f'{i},"{names[a]}",{votes[i, a]}' for i, a in np.argwhere(votes >= 0)]
    Path("V.csv").write_text("\n".join(["item,annotator,label", *lines, ""]))
    command = ["audit", "--probabilities", "P.npy", "--labels", "L.csv", "--outputs", "true", "--votes", "V.csv"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "Of 20 annotators, 5 are spammers, whose votes say nothing of the class: <b>3, esq., no 0, no 1" in printed
    folder = tmp_path / "audits/P"
    with (folder / "annotators.csv").open(newline="") as file:
        rows = {row["annotator"]: row for row in csv.DictReader(file)}
    told = json.loads((folder / "summary.json").read_text())["annotators"]
    assert sorted(told["spammers"]) == sorted(names[:5])
    for each in told["people"]:
        row = rows[each["annotator"]]
        assert row["kind"] == each["kind"]
        assert int(row["votes"]) == each["votes"] == (votes[:, names.index(each["annotator"])] >= 0).sum()
        assert float(row["accuracy_low"]) == each["accuracy"]["low"] < each["accuracy"]["value"]
        matrix = np.array([[float(row[f"P({vote}|{true})"]) for vote in range(4)] for true in range(4)])
        np.testing.assert_allclose(matrix, each["transition"], rtol=1e-5)
        np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-4)
    page = (folder / "audit.html").read_text()
    assert "<h2>Annotators</h2>" in page
    assert "&lt;b&gt;3, esq." in page
    assert "<b>3" not in page


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("item,annotator,label\n7,al,0\n", "has no vote on any of the 4 rows: its items are 7 to 7"),
        (
            "item,annotator,label\na.png,al,0\n",
            "line 2 has the item 'a.png': items of an audit are the original indices",
        ),
        ("item,annotator,label\n0,al,9\n", "line 2 has the label '9'"),
    ],
)
def test_votes_that_do_not_fit_are_refused_in_one_line(
    written: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("P.npy", np.eye(2)[[0, 1, 0, 1]])
    Path("L.csv").write_text("label\n0\n1\n0\n1\n")
    Path("V.csv").write_text(written)
    assert main(["audit", "--probabilities", "P.npy", "--labels", "L.csv", "--votes", "V.csv"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_what_is_no_estimate_is_refused() -> None:
    votes, probs = np.array([[0, 1], [1, -1]]), np.eye(2)
    with pytest.raises(UserError, match=r"shape \(N, A\), but got \(2, 2\) and \(1, 2\)"):
        estimate_annotators(probs, votes[:1])
    with pytest.raises(UserError, match="all are -1, which is none"):
        estimate_annotators(probs, np.full((2, 2), -1))
    with pytest.raises(UserError, match=r"votes must lie in 0..1, but go up to 2"):
        estimate_annotators(probs, votes + 1)
    with pytest.raises(UserError, match=r"row 1 is \[nan, 1.0\]"):
        estimate_annotators(np.array([[1.0, 0.0], [np.nan, 1.0]]), votes)
