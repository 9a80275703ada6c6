"""The paragraph that says what to do: leave the labels, correct some, or train with L_DMI."""

import re

import numpy as np
import pytest
from audit_data import class_dependent, known, noisy_posteriors, symmetric

from ldmi_lightning.audit import advice, audit
from ldmi_lightning.audit.advice import information, uneven
from ldmi_lightning.errors import UserError

NAMES = ["ant", "bee", "cat", "dog", "eel"]


def said(
    transition: np.ndarray, outputs: str, held_out: bool | None = None, seed: int = 0, distance: float = 4.0
) -> str:
    data = known(transition, size=5000, seed=seed, distance=distance)
    probs = data.probs if outputs == "true" else noisy_posteriors(data)
    found = audit(probs, data.given, outputs=outputs)  # type: ignore[arg-type]
    return advice(found, NAMES[: len(transition)], held_out=held_out)


@pytest.mark.parametrize("distance", [2.0, 3.0, 5.0])
def test_clean_labels_may_stay_however_hard_they_are_to_predict(distance: float) -> None:
    text = said(np.eye(5), "true", distance=distance)
    assert "Leave them as they are" in text
    assert "L_DMI" not in text


def test_clean_labels_may_stay_by_a_model_of_the_given_labels_that_did_not_see_them_and_agrees() -> None:
    text = said(np.eye(5), "given", held_out=True, distance=5.0)
    assert text.startswith("By decisions alone, about ")
    assert "Leave them as they are" in text


def test_outputs_of_training_labels_leave_nothing_as_it_is() -> None:
    assert "Leave" not in said(np.eye(5), "given", distance=5.0)
    assert "only if the model never saw these labels" in said(np.eye(5), "given", distance=5.0)
    assert "audit held-out ones" in said(np.eye(5), "true", held_out=False)
    # Memorised: the outputs are the given labels, of which 40 % are wrong.
    data = known(symmetric(5, 0.4), size=2000, seed=1)
    memorised = audit(np.eye(5)[data.given], data.given, outputs="given")
    assert "Leave" not in advice(memorised, NAMES)


@pytest.mark.parametrize("held_out", [True, False, None])
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3, 0.6, 0.8])
@pytest.mark.parametrize("kind", [symmetric, class_dependent])
@pytest.mark.parametrize("outputs", ["true", "given"])
def test_wrong_labels_are_never_left(outputs: str, kind: object, rate: float, held_out: bool | None) -> None:
    assert "Leave" not in said(kind(5, rate), outputs, held_out)  # type: ignore[operator]


def test_sure_outputs_of_a_model_that_learned_the_errors_are_not_trusted() -> None:
    """Cross-entropy under 60 % flips decides for the wrong label; its decisions differ from 40 % of the class all the same."""
    data = known(class_dependent(5, 0.6), size=5000, seed=3, distance=5.0)
    sure = noisy_posteriors(data) ** 50
    found = audit(sure / sure.sum(axis=1, keepdims=True), data.given, outputs="given")
    assert "Leave" not in advice(found, NAMES, held_out=True)


def test_few_errors_are_relabelled_by_hand() -> None:
    text = said(symmetric(5, 0.06), "true")
    assert re.search(
        r"Relabel: look at the 2\d\d most doubtful labels, of which 9\d\.\d % are expected to be wrong", text
    )


@pytest.mark.parametrize("distance", [1.5, 2.0, 2.5])
@pytest.mark.parametrize("held_out", [True, None])
def test_hard_samples_are_not_called_wrong_by_a_model_of_the_given_labels(
    distance: float, held_out: bool | None
) -> None:
    """All labels are right, but the classes overlap: such outputs cannot tell, and the advice says so, with what to look at."""
    text = said(np.eye(5), "given", held_out, distance=distance)
    assert "Relabel" not in text
    unsure = re.search(r"the ([\d,]+) most doubtful labels may be right", text)
    assert "hard samples whose labels are right may be" in text
    if unsure is None:
        assert "whether the samples are hard or the labels wrong" in text
        return
    assert "hard samples look like wrong labels" in text
    few = int(unsure[1].replace(",", "")) <= 100
    looked = (
        "all of them before any is changed" if few else "100 of them first, and at the others only if most of these are"
    )
    assert f"look at {looked}" in text


@pytest.mark.parametrize("rate", [0.06, 0.3])
def test_wrong_labels_by_a_model_of_the_given_labels_are_looked_at_before_they_are_changed(rate: float) -> None:
    text = said(symmetric(5, rate), "given", True)
    assert "look at 100 of them first, and at the others only if most of these are wrong" in text
    assert "audit its outputs" in text
    assert "Leave" not in text


def test_symmetric_and_class_dependent_errors_are_told_apart() -> None:
    even, one_way = said(symmetric(5, 0.4), "true"), said(class_dependent(5, 0.3), "true")
    assert "The errors are about symmetric" in even
    assert "T is dominant" in even
    assert "loses 0 %" in even
    assert "The errors are class-dependent: 3 of 20 pairs of classes hold 80 % of them" in one_way
    assert re.search(r"first \w+ → \w+ \(\d\d\.\d % of \w+\)", one_way)


@pytest.mark.parametrize("outputs", ["true", "given"])
def test_what_cross_entropy_loses_is_the_share_of_the_classes_that_lose_most_of_their_labels(outputs: str) -> None:
    text = said(class_dependent(4, 0.6), outputs)
    assert "T is not dominant: of 2 of 4 classes" in text
    share = float(re.search(r"decides up to (\d+\.\d) % of the samples wrongly", text)[1])  # type: ignore[index]
    assert share == pytest.approx(50, abs=3)
    assert "Train with L_DMI" in text


def test_each_sentence_has_its_number() -> None:
    for text in (said(class_dependent(5, 0.6), "true"), said(symmetric(5, 0.3), "given"), said(np.eye(5), "true")):
        sentences = re.split(r"(?<=\.) (?=[A-Z])", text)
        assert all(re.search(r"\d", each) for each in sentences), text
        assert "\n" not in text


def test_errors_that_fall_by_chance_on_few_of_many_cells_are_not_class_dependent() -> None:
    priors, random = np.full(50, 0.02), np.random.RandomState(0)
    counts = np.array([random.multinomial(100, row) for row in symmetric(50, 0.4)])
    share, chance = uneven(counts / 100, priors, 5000)
    assert share > 0.25
    assert share == pytest.approx(chance, abs=0.05)
    share, chance = uneven(class_dependent(50, 0.4), priors, 5000)
    assert share > 0.95 > chance + 0.25 * (1 - chance)


def test_information_falls_with_noise_to_nothing() -> None:
    shares = [information(symmetric(4, rate), np.full(4, 0.25)) for rate in (0, 0.2, 0.5, 0.75)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1
    assert shares[-1] == pytest.approx(0, abs=1e-12)


def test_names_of_other_classes_are_refused() -> None:
    with pytest.raises(UserError, match="There are 2 classes, but 3 names"):
        advice(audit(np.eye(2), np.array([0, 1])), NAMES[:3])
