"""The pages as a headless Chromium shows them: it asks for nothing, complains of nothing, and nothing sticks out."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser, browser

from ldmi_lightning.pages.report import report_page
from ldmi_lightning.runs.left import Left

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium, such as `apt-get install chromium`"),
]

INK = "getComputedStyle(document.body).color"
PAPER = "getComputedStyle(document.body).backgroundColor"
DRAWN = "getComputedStyle(document.querySelector('svg text')).fill"
WIDEST = "document.documentElement.scrollWidth"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as made:
        yield made


def a_run(name: str, classes: int) -> Left:
    matrix = 0.8 * np.eye(classes) + 0.2 / classes
    stage = {
        **{"loss": "DMILoss", "epochs": 3, "best_epoch": 2, "selected_by": "val/log_dmi", "test_acc": 0.8},
        **{
            "confusion": np.rint(100 * matrix).tolist(),
            "joint": (matrix / classes).tolist(),
            "transition": matrix.tolist(),
        },
    }
    results = {
        "class_names": ["<script>alert(1)</script>", *(f"class {place}" for place in range(1, classes))],
        "stages": {"robust": stage},
        "chosen": "robust",
    }
    curves = [
        {"epoch": epoch, "stage": "robust", "val/acc": 0.5 + 0.1 * epoch, "train/loss": 3.0} for epoch in range(3)
    ]
    return Left(Path(name), results, {}, "seed_everything: 1\n" + "long: " + "x" * 500, curves)


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("runs", [1, 3])
def test_a_report_is_legible_everywhere(chromium: Browser, tmp_path: Path, classes: int, runs: int) -> None:
    page = tmp_path / "report.html"
    page.write_text(report_page([a_run(f"run-{'x' * 40}-{place}", classes) for place in range(runs)], "ldmi report"))
    for width in (1280, 360):
        for dark in (False, True):
            seen = chromium.look(page, width, dark, ask=(INK, PAPER, DRAWN, WIDEST))
            assert (seen.requests, seen.complaints) == ([], [])
            ink, paper, drawn, widest = seen.answers
            assert contrast(ink, paper) >= 7
            assert drawn == ink, "words in figures have the colour of the page's"
            assert widest == width, "tables scroll within their own box"
            assert (sum(channels(paper)) < 3 * 128) == dark


def test_what_stands_aside_can_be_reached_by_keys(chromium: Browser, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(report_page([a_run("run", 10)], "ldmi report"))
    reach = "[...document.querySelectorAll('.scroll, pre, summary')].every(each => each.tabIndex === 0)"
    assert chromium.look(page, 360, ask=(reach,)).answers == [True]


def test_a_browser_that_is_asked_says_what_a_page_asks_for(chromium: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text('<img src="https://example.invalid/a.png"><script>undefined.x</script>')
    seen = chromium.look(page)
    assert seen.requests == ["https://example.invalid/a.png"]
    assert len(seen.complaints) >= 1


def channels(colour: str) -> list[int]:
    return [int(each) for each in colour.removeprefix("rgb(").removesuffix(")").split(",")]


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG 2 counts it.

    Black on white has 21.
    """

    def luminance(colour: str) -> float:
        linear = [
            c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in channels(colour))
        ]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
