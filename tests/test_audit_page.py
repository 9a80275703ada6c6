"""The page of an audit: one file that needs nothing else, whatever users call their classes and write in their texts."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audits import rows_of
from PIL import Image

from ldmi_lightning.audit import audit
from ldmi_lightning.audit.audit import Audit, corrected
from ldmi_lightning.audit.summary import summary
from ldmi_lightning.audit.worst import LETTERS, worst
from ldmi_lightning.originals import Original
from ldmi_lightning.pages.audit_page import audit_page, flips, pairs

ATTACK = "<script>alert('x')</script>"
MOST = 3 * 2**20
"""How many bytes a page may have."""


class Parsed(HTMLParser):
    """What a browser would make of a page: its elements, what it would load, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for each, attributes in self.elements if each == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


def flipped(samples: int = 400, classes: int = 3, rate: float = 0.2, outputs: Any = "true") -> tuple[Audit, Any]:
    """Return the audit of labels of which a share is that of the next class, and the true labels."""
    rng = np.random.RandomState(0)
    true = np.arange(samples) % classes
    probs = np.full((samples, classes), 0.05 / (classes - 1))
    probs[np.arange(samples), true] = 0.95
    given = np.where(rng.rand(samples) < rate, (true + 1) % classes, true)
    return audit(probs, given, outputs=outputs), true


def page_of(
    found: Audit, names: Sequence[str], originals: Sequence[Original | None] = (), head: Any = None, **known: Any
) -> str:
    rows, labels = rows_of(found, names, originals, **known), corrected(found)
    return audit_page(summary(found, rows, labels, threshold=0.5, head=head or {}), worst(found, rows, labels))


def test_all_that_users_wrote_is_shown_as_text(tmp_path: Path) -> None:
    found, _ = flipped()
    texts = [Original("text", f"{number} {ATTACK} & \"more\" <img src=x onerror='alert(1)'>") for number in range(400)]
    head = {"advice": f"Relabel {ATTACK}.", "command": f"ldmi audit {ATTACK}", "runs": [ATTACK], "truth": {ATTACK: 1.0}}
    page = Parsed(page_of(found, [ATTACK, "</select>", '" onfocus="alert(1)'], texts, head))
    assert len(page.all("script")) == 1  # the page's own
    assert page.all("img") == []
    assert {name for _, attributes in page.elements for name in attributes if name.startswith("on")} == set()
    assert len(page.all("select")) == 1
    first = worst_index(page)
    assert f"{first} {ATTACK} & \"more\" <img src=x onerror='alert(1)'>" in page.text
    for shown in (f"Relabel {ATTACK}.", f"ldmi audit {ATTACK}", f"</select> → {ATTACK}"):
        assert shown in page.text
    files = [Original("file", tmp_path / f"{number}{ATTACK.replace('/', '')}.png") for number in range(400)]
    page = Parsed(page_of(found, ["a", "b", "c"], files))
    assert len(page.all("script")) == 1
    assert ".png" in page.text


def worst_index(page: Parsed) -> int:
    matched = re.search(r"1\. index (\d+)", page.text)
    assert matched
    return int(matched[1])


def test_nothing_is_loaded_from_elsewhere() -> None:
    found, _ = flipped()
    rng = np.random.RandomState(0)
    pictures = [Original("image", rng.randint(256, size=(28, 28)).astype(np.uint8)) for _ in range(400)]
    source = page_of(found, ["a", "b", "c"], pictures)
    page = Parsed(source)
    assert len(page.all("img")) == 200
    loads = ("src", "href", "xlink:href", "srcset", "action", "data", "poster")
    found_there = [
        value for _, attributes in page.elements for name, value in attributes.items() if name in loads and value
    ]
    assert all(value.startswith(("data:", "#")) for value in found_there)
    assert "@import" not in source
    assert not re.search(r"url\((?!#)", source)
    (policy,) = [each["content"] for each in page.all("meta") if "http-equiv" in each]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_worst_come_first_and_all_are_there_without_script() -> None:
    found, true = flipped()
    page = Parsed(page_of(found, ["cat", "dog", "cow"], true=true))
    items = [attributes for attributes in page.all("li") if "data-pair" in attributes]
    assert len(items) == 200
    assert not any("hidden" in attributes for attributes in items)
    assert "hidden" in next(each for each in page.all("div") if each.get("id") == "filter")
    assert items[0]["data-pair"] == f"{found.given[found.order[0]]}-{found.suggested[found.order[0]]}"
    assert worst_index(page) == found.order[0]
    options = [each["value"] for each in page.all("option")]
    assert options[0] == ""
    assert set(options[1:]) == {each["data-pair"] for each in items}


def test_the_filter_counts_each_pair_of_classes() -> None:
    found, _ = flipped()
    rows = rows_of(found, ["a", "b", "c"])
    shown = worst(found, rows, corrected(found))
    offered = pairs(shown, rows.class_names)
    assert sum(number for *_, number in offered) == 200
    for value, said, number in offered:
        given, suggested = map(int, value.split("-"))
        assert said == f"{rows.class_names[given]} → {rows.class_names[suggested]}"
        assert number == sum(each.given == given and each.suggested == suggested for each in shown)


def test_the_most_frequent_errors_are_counted_from_t_and_the_shares_of_the_classes() -> None:
    part = {"value": [[0.75, 0.25], [0.5, 0.5]], "low": [[0.7, 0.2], [0.4, 0.4]], "high": [[0.8, 0.3], [0.6, 0.6]]}
    shares = [{"share_of_true_labels": {"value": 0.9}}, {"share_of_true_labels": {"value": 0.1}}]
    found = flips({"counted": 1000, "wrong_by_class": shares, "transition": part}, ["cat", "dog"])
    assert [(each["true"], each["given"], round(each["number"]), each["low"]) for each in found] == [
        *(("cat", "dog", 225, 0.2), ("dog", "cat", 50, 0.4)),
    ]
    shares[1]["share_of_true_labels"]["value"] = 0.0  # of which nothing can be mistaken
    assert len(flips({"counted": 1000, "wrong_by_class": shares, "transition": part}, ["cat", "dog"])) == 1


@pytest.mark.parametrize("classes", [2, 20, 100])
def test_few_and_many_classes_have_a_page(classes: int) -> None:
    found, _ = flipped(samples=max(4 * classes, 100), classes=classes)
    names = [f"kind ${number}" for number in range(classes)]
    source = page_of(found, names)
    page = Parsed(source)
    assert len(source.encode()) < MOST
    (drawing,) = page.all("svg")
    assert drawing["role"] == "img"
    assert all(name in page.text for name in names)


def test_large_pictures_leave_the_page_small(tmp_path: Path) -> None:
    found, _ = flipped()
    rng = np.random.RandomState(0)
    Image.fromarray(rng.randint(256, size=(64, 64, 3)).astype(np.uint8)).save(tmp_path / "noise.png")
    source = page_of(found, ["a", "b", "c"], [Original("file", tmp_path / "noise.png")] * 400)
    assert source.count("data:image/png") >= 200
    assert len(source.encode()) < MOST


def test_a_long_text_is_shown_in_part_and_says_so() -> None:
    found, _ = flipped()
    page = Parsed(page_of(found, ["a", "b", "c"], [Original("text", "word " * 1000)] * 400))
    assert "word … (5,000 characters)" in page.text.replace("  ", " ")
    assert page.text.count("word") < 200 * LETTERS


def test_what_is_not_known_is_a_dash() -> None:
    found, _ = flipped()
    rows = rows_of(found, ["a", "b", "c"])
    content = summary(found, rows, corrected(found), threshold=0.5, head={})
    content["wrong"] = dict.fromkeys(("value", "low", "high"))
    text = Parsed(audit_page(content, [])).text
    assert "labels that are wrong, estimated – –" in text
    assert "None" not in text
    assert "nan" not in text.lower()


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (0, "400 labels of 3 classes."),
        (100, "figures are of the 300 that the model was not trained on"),
        (400, "The model was trained on these labels"),
    ],
)
def test_what_was_seen_in_training_is_said(seen: int, said: str) -> None:
    found, _ = flipped()
    text = Parsed(page_of(found, ["a", "b", "c"], seen=np.arange(400) < seen)).text
    assert said in text
    assert ("in training" in text) == (seen > 0)


@pytest.mark.parametrize("outputs", ["true", "given"])
def test_whose_probabilities_they_are_is_said(outputs: str) -> None:
    found, _ = flipped(outputs=outputs)
    assert ("made from its decisions alone" in page_of(found, ["a", "b", "c"])) == (outputs == "given")


def test_notes_of_the_command_stand_before_the_figures() -> None:
    found, _ = flipped(outputs="given")
    text = Parsed(page_of(found, ["a", "b", "c"], head={"notes": ["Mind <this>."], "seed": 3})).text
    assert text.index("Mind <this>.") < text.index("How many")
    assert text.count("Mind <this>.") == 1
    assert "made from its decisions alone" not in text  # the command's notes say what is to be said
    assert "seed 3" in text
