"""The page of an audit as Chromium shows it: nothing is asked for, nothing goes wrong, and the filter works."""

from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, browser

from ldmi_lightning.audit import audit
from ldmi_lightning.audit.rows import Rows
from ldmi_lightning.audit.written import PAGE, write_audit
from ldmi_lightning.originals import Original

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium, such as `apt-get install chromium`"),
]

ATTACK = "<script>document.title = 'taken'</script>"
LEFT = "document.querySelectorAll('#suspects > li:not([hidden])').length"
PICK = (
    "(() => { const pair = document.getElementById('pair'); pair.focus(); pair.selectedIndex = 1;"
    " pair.dispatchEvent(new Event('change')); return pair.value; })()"
)


@pytest.mark.parametrize("classes", [2, 100])
def test_the_page_of_an_audit(classes: int, tmp_path: Path) -> None:
    samples = 6 * classes + 300
    rng = np.random.RandomState(0)
    true = np.arange(samples) % classes
    probs = np.full((samples, classes), 0.05 / (classes - 1))
    probs[np.arange(samples), true] = 0.95
    given = np.where(rng.rand(samples) < 0.3, (true + 1) % classes, true)
    found = audit(probs, given)
    pixels = rng.randint(256, size=(28, 28)).astype(np.uint8)
    originals = [Original("image", pixels) if place % 2 else Original("text", ATTACK) for place in range(samples)]
    names = [f"{ATTACK} {number}" for number in range(classes)]
    rows = Rows(np.arange(samples), np.full(samples, "train"), np.zeros(samples, bool), names, originals)
    write_audit(tmp_path / "audit", found, rows, threshold=0.5, head={"advice": ATTACK})
    with browser() as chromium:
        for width in (1280, 360):
            for dark in (False, True):
                asked = (LEFT, PICK, LEFT, "document.getElementById('shown').textContent", "document.title")
                seen = chromium.look(tmp_path / "audit" / PAGE, width, dark, asked)
                assert seen.requests == []
                assert seen.complaints == []
                assert seen.size[0] == width  # nothing stands out at the side
                all_of_them, pair, left, said, title = seen.answers
                first = found.order[:200]
                alike = sum(f"{given[each]}-{found.suggested[each]}" == pair for each in first)
                assert (all_of_them, left, said) == (200, alike, f"{alike} of 200 shown")
                assert title == "Which labels are wrong?"
