"""docs/results/README.md says of each column of the tables beside it what it means."""

import itertools
import re
from pathlib import Path

from ldmi_lightning.benchmarking.tables import HEADS

RESULTS = Path(__file__).parents[1] / "docs" / "results"
SECTION = re.findall(r"## How to read the tables\n(.*?)\n## ", (RESULTS / "README.md").read_text(), flags=re.DOTALL)[0]
DESCRIBED = {
    name for line in SECTION.splitlines() for name in re.findall(r"`([^`]+)`", line.split("|")[1 if "|" in line else 0])
}


def heads(path: Path) -> set[str]:
    """Return the heads of all tables of a page: the lines over a line of dashes."""
    lines = path.read_text().splitlines()
    over = [line for line, under in itertools.pairwise(lines) if under.startswith("|---")]
    return {word.strip() for line in over for word in line.strip("|").split("|")}


def test_each_column_of_a_table_is_described() -> None:
    assert set(HEADS) - DESCRIBED == set()


def test_each_column_of_a_comparison_is_described() -> None:
    pages = list(RESULTS.glob("*/comparison.md"))
    assert len(pages) >= 3
    for page in pages:
        found = {re.sub(r"^against \S+?(, tuned)?$", r"against …\1", head.strip()) for head in heads(page)}
        plain = {re.sub(r"^(mean rank|behind the best|at most), tuned$", r"\1", head) for head in found}
        assert plain - DESCRIBED == set(), page
