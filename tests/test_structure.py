"""Who may import whom, and that the wheel holds what the tree holds."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
ROOMS = {
    "ldmi_lightning": REPO / "ldmi_lightning",
    "ldmi_lightning.datamodules": REPO / "datamodules",
    "ldmi_lightning.models": REPO / "models",
}

# What each room imports of the others. Only `commands` and the two ways in, `__init__` and `__main__`, see all.
MAY_IMPORT = {
    "audit": {"crowds", "csv_file", "errors", "files", "likelihood", "naming", "originals", "pages"},
    "batch": {"errors"},
    "benchmarking": {"csv_file", "engines", "errors", "files", "noise", "runs", "transition"},
    "callbacks": {"batch", "joint", "naming", "pictures", "ranks"},
    "checkpoints": {"errors", "file_kinds", "pickled"},
    "condensed": set(),
    "cpu_speed": set(),
    "crowds": {"csv_file", "errors", "file_kinds", "label_table", "likelihood"},
    "csv_file": {"errors", "file_kinds"},
    "datamodules": {
        *("batch", "cpu_speed", "csv_file", "errors", "file_kinds", "files", "inputs", "label_table", "models"),
        *("noise", "originals", "ranks", "saying", "seeding"),
    },
    "decisions": {"errors"},
    "engines": {"checkpoints", "errors", "files", "processes", "runs"},
    "errors": set(),
    "estimator": {"audit", "datamodules", "errors", "likelihood", "losses", "method", "methods", "training"},
    "export": {"datamodules", "errors", "files", "inputs", "method"},
    "file_kinds": set(),
    "files": set(),
    "inputs": {"errors"},
    "joint": {"ranks"},
    "label_table": {"csv_file", "errors"},
    "likelihood": {"errors"},
    "losses": {"batch", "errors", "joint", "likelihood", "method", "naming", "ranks", "seeding", "transition"},
    "method": {"batch", "joint"},
    "methods": {"audit", "batch", "crowds", "errors", "joint", "losses", "method", "ranks", "transition"},
    "metrics": {"joint"},
    "models": {"errors", "naming", "saying"},
    "naming": set(),
    "noise": {"crowds", "errors", "file_kinds", "label_table", "pickled", "saying", "seeding", "transition"},
    "originals": set(),
    "pages": {"condensed", "runs"},
    "pickled": set(),
    "pictures": {"condensed", "files", "joint"},
    "predictor": {"commands", "datamodules", "errors", "losses", "training"},
    "processes": set(),
    "ranks": set(),
    "runs": {"checkpoints", "errors", "files", "seeding"},
    "schedulers": {"errors"},
    "saying": set(),
    "seeding": set(),
    "training": {
        *("batch", "checkpoints", "cpu_speed", "decisions", "errors", "files", "inputs", "joint", "method", "ranks"),
        *("naming", "runs", "schedulers", "seeding"),
    },
    "transition": {"errors", "joint"},
}


def sources() -> dict[Path, str]:
    """Return each source file with the dotted name that it is installed under."""
    found = {}
    for package, folder in ROOMS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[path] = ".".join([package, *(part for part in parts if part != "__init__")])
    return found


def room(name: str) -> str:
    """Return the room of a dotted name within the package; empty for the package itself."""
    return [*name.split("."), ""][1]


def imports(path: Path, own: str, whole: bool = False) -> set[str]:
    """Return the dotted names that a file imports, with relative imports resolved; ``whole`` with what is imported of each."""
    package = own if path.name == "__init__.py" else own.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" if whole or base == "ldmi_lightning" else base for alias in node.names}
    return names


@pytest.mark.parametrize(("path", "own"), sources().items(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_follow_the_arrows(path: Path, own: str) -> None:
    here = room(own)
    used = {room(name) for name in imports(path, own) if name.startswith("ldmi_lightning")} - {here, ""}
    if here in ("", "__main__", "commands"):
        return
    assert used <= MAY_IMPORT[here] | {"__version__"}, f"{own} imports {sorted(used - MAY_IMPORT[here])}"


def file_arrows() -> dict[str, set[str]]:
    """Return which file imports which, imports within functions and for types alone counted."""
    files = set(sources().values())
    arrows: dict[str, set[str]] = {}
    for path, own in sources().items():
        found = imports(path, own, whole=True)
        arrows[own] = {next((part for part in (name, name.rpartition(".")[0]) if part in files), "") for name in found}
        arrows[own] -= {"", own}
    return arrows


def test_no_file_stands_in_a_circle() -> None:
    arrows = file_arrows()
    # The package's own __init__ imports for types alone what its __getattr__ imports when it is asked for.
    arrows["ldmi_lightning"] = set()
    while leaves := [name for name, targets in arrows.items() if not targets & arrows.keys()]:
        for name in leaves:
            del arrows[name]
    assert {name: sorted(targets & arrows.keys()) for name, targets in arrows.items()} == {}


LONGEST = 300


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(REPO)))
def test_a_long_file_says_why_in_its_first_line(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= LONGEST or "long" in lines[0], f"{path.name} has {len(lines)} lines"


def test_no_arrow_is_stale() -> None:
    used: dict[str, set[str]] = {}
    for path, own in sources().items():
        names = {room(name) for name in imports(path, own) if name.startswith("ldmi_lightning")}
        used.setdefault(room(own), set()).update(names)
    assert {(here, there) for here, allowed in MAY_IMPORT.items() for there in allowed - used[here]} == set()


def test_models_know_torch_alone() -> None:
    for path, own in sources().items():
        if room(own) == "models":
            outside = {name.split(".")[0] for name in imports(path, own)} - {"ldmi_lightning"}
            assert outside - sys.stdlib_module_names <= {"torch", "torchvision"}, own


def test_the_wheel_holds_every_source_file_and_nothing_else(tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    subprocess.run(["git", "clone", "--quiet", str(REPO), str(copy)], check=True)
    templates = sorted((REPO / "ldmi_lightning" / "pages" / "templates").iterdir())
    for path in [*sources(), *templates]:  # the tree as it stands, committed or not
        (copy / path.relative_to(REPO)).parent.mkdir(parents=True, exist_ok=True)
        (copy / path.relative_to(REPO)).write_bytes(path.read_bytes())
    (copy / "pyproject.toml").write_bytes((REPO / "pyproject.toml").read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(copy)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {"ldmi_lightning/py.typed", *(f"ldmi_lightning/pages/templates/{path.name}" for path in templates)}
    for path, own in sources().items():
        name = own.replace(".", "/")
        expected.add(f"{name}/__init__.py" if path.name == "__init__.py" else f"{name}.py")
    assert held == expected
