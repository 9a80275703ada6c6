"""README and the pages in docs/: what they show is run from top to bottom, as a reader would, and what they name exists."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ldmi_lightning.commands import COMMANDS, main, parse_fit

REPO = Path(__file__).parents[1]
GENERATED = {"errors.md"}  # by its own test
PAGES = {
    path.name: path.read_text()
    for path in [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md"))]
    if path.name not in GENERATED
}
# How many runs each page leaves behind where all that can be run in seconds is run.
RUNS = {"README.md": 1, "CONTRIBUTING.md": 0, "command-line.md": 0, "data.md": 1, "methods.md": 3, "noise.md": 0}
RUNS |= {"audit.md": 0, "crowds.md": 0, "when-it-helps.md": 0, "export.md": 1, "report.md": 0}
RUNS |= {"features.md": 0, "own-data.md": 0, "python.md": 4, "runs.md": 0, "scale.md": 0, "wandb.md": 0}
RUNS |= {"start.md": 0, "concepts.md": 0, "index.md": 0, "changelog.md": 0}
UNNAMED = {"README.md", "index.md", "changelog.md"}  # pages that README need not name
QUICK = ["--model.warmup.epochs", "1", "--model.robust.epochs", "1", "--trainer.enable_progress_bar", "false"]
QUICK += ["--trainer.logger", "false"]


def blocks(page: str) -> list[tuple[str, str]]:
    """Return language and code of each block of a page."""
    return re.findall(r"^```(\w+)\n(.*?)^```", PAGES[page], flags=re.DOTALL | re.MULTILINE)


def commands(page: str) -> Iterator[list[str]]:
    """Yield the words after ``ldmi`` of each command that a page shows."""
    for language, code in blocks(page):
        for line in code.replace("\\\n", " ").splitlines() if language == "console" else []:
            words = shlex.split(line.replace(" … ", " "), comments=True)
            while words and "=" in words[0]:
                del words[0]
            if words[:1] == ["ldmi"]:
                yield words[1:]


@pytest.fixture
def in_readers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder beside the configurations, as that of a reader who has cloned the repository."""
    (tmp_path / "configs").symlink_to(REPO / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def write_files(page: str, folder: Path) -> None:
    """Write the blocks that begin with a file's name."""
    for _, code in blocks(page):
        if file := re.match(r"# (\w+\.(?:py|yaml))\n", code):
            (folder / file[1]).write_text(code)


def is_run(words: Sequence[str]) -> bool:
    """Whether a command works in seconds, on the reader's own code or stages."""
    return any(re.match(r"my_\w+\.|polish\.yaml", word) for word in words)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != "scikit-learn.md"]
)  # test_estimator_in_sklearn.py runs that one
def test_the_python_blocks_and_the_commands_for_ones_own_code_run(page: str, in_readers_folder: Path) -> None:
    write_files(page, in_readers_folder)
    names: dict[str, object] = {"__name__": "page"}
    for language, code in blocks(page):
        if language == "python" and not re.match(r"# \w+\.py\n", code):
            exec(compile(code, page, "exec"), names)
    for words in commands(page):
        if is_run(words):
            assert main([*words, *(QUICK if words[0] == "fit" else [])]) == 0, words
    assert len(list(in_readers_folder.glob("runs/*"))) == RUNS[page]


def test_the_commands_are_known_with_all_their_options_and_files(in_readers_folder: Path) -> None:
    for page in PAGES:
        write_files(page, in_readers_folder)
    for words in sorted({tuple(words) for page in PAGES for words in commands(page)}):
        assert words[0] in COMMANDS or words[0] in ("COMMAND", "--help"), words
        for config in filter(lambda word: word.startswith("configs/"), words):
            assert (REPO / config).is_file(), words
        # A run's own configuration is not there, timm need not be, and what is run is parsed there.
        if words[0] == "fit" and not is_run(words) and not any(re.match(r"RUN/config|timm\.", word) for word in words):
            assert parse_fit(list(words))["model"], words
    for file in in_readers_folder.glob("*.yaml"):
        if file.name == "grid.yaml":
            assert main(["benchmark", "grid.yaml", "--dry_run"]) == 0
        else:
            assert parse_fit(["fit", "--config", file.name])["model"], file.name


def anchor(heading: str) -> str:
    """Return the name by which a heading is linked to.

    >>> anchor("Your own data")
    'your-own-data'
    """
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", [*PAGES, "results/README.md"])
def test_what_a_page_links_to_exists(page: str) -> None:
    path = REPO / page if (REPO / page).is_file() and "/" not in page else REPO / "docs" / page
    prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith("http"):
            continue
        file, _, heading = target.partition("#")
        linked = (path.parent / file) if file else path
        assert linked.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), flags=re.MULTILINE)
            assert heading in map(anchor, headings), target


def test_readme_is_short_and_names_every_page() -> None:
    lines = PAGES["README.md"].splitlines()
    assert len(lines) <= 220
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []
    assert [page for page in RUNS if page not in UNNAMED and page not in PAGES["README.md"]] == []


def test_a_page_says_what_it_answers_in_its_first_line() -> None:
    for page in RUNS.keys() - {"README.md", "CONTRIBUTING.md"}:
        title, blank, answers = PAGES[page].splitlines()[:3]
        assert (title[:2], blank, answers[-1]) == ("# ", "", "."), page


def test_the_configs_that_the_commands_name_exist_and_the_options_are_known() -> None:
    from ldmi_lightning.commands.lightning import LDMICLI

    for page in PAGES:
        for language, code in blocks(page):
            for line in code.splitlines() if language == "console" else []:
                for config in re.findall(r"configs/\w+\.yaml", line):
                    assert (REPO / config).is_file(), line
    assert LDMICLI.subcommands().keys() >= {"fit", "validate", "test", "predict"}
