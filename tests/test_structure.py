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

# What each room imports of the others; `cli` alone sees all.
MAY_IMPORT = {
    "batch": {"errors"},
    "benchmark_command": {"benchmarking", "errors"},
    "benchmarking": {"checkpoints", "errors", "noise", "run_folder", "trainer_rules", "transition"},
    "callbacks": {"batch", "errors", "joint", "module", "pictures", "ranks", "run_folder", "stage_cache"},
    "checkpoints": {"errors"},
    "cpu_speed": set(),
    "datamodules": {"batch", "errors", "noise", "seeding"},
    "errors": set(),
    "joint": {"ranks"},
    "lean_steps": {"trainer_rules"},
    "loggers": set(),
    "losses": {"errors", "joint", "ranks", "seeding", "transition"},
    "metrics": {"joint"},
    "models": set(),
    "module": {
        *("batch", "callbacks", "checkpoints", "cpu_speed", "errors", "joint", "lean_steps", "losses", "metrics"),
        *("predictions", "ranks", "resume", "seeding", "stages", "trainer_rules"),
    },
    "noise": {"errors", "seeding", "transition"},
    "noise_command": {"datamodules", "errors", "noise_summary", "parsing", "pictures"},
    "noise_summary": {"datamodules", "noise", "transition"},
    "parsing": {"errors", "stages"},
    "pictures": {"joint"},
    "predictions": {"batch", "losses", "ranks", "trainer_rules"},
    "ranks": set(),
    "resume": {"checkpoints", "errors", "module", "predictions", "seeding", "stages", "trainer_rules"},
    "results": {"batch", "callbacks", "datamodules", "losses", "module", "stages"},
    "run_folder": {"errors", "seeding"},
    "seeding": set(),
    "stage_cache": {"checkpoints", "datamodules", "errors", "stages", "trainer_rules"},
    "stages": {"errors", "losses"},
    "trainer_rules": {"errors", "losses"},
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


def imports(path: Path, own: str) -> set[str]:
    """Return the dotted names that a file imports, whole, with relative imports resolved."""
    package = own if path.name == "__init__.py" else own.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" if base == "ldmi_lightning" else base for alias in node.names}
    return names


@pytest.mark.parametrize(("path", "own"), sources().items(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_follow_the_arrows(path: Path, own: str) -> None:
    here = room(own)
    used = {room(name) for name in imports(path, own) if name.startswith("ldmi_lightning")} - {here, ""}
    if here in ("", "cli"):
        return
    assert used <= MAY_IMPORT[here] | {"__version__"}, f"{own} imports {sorted(used - MAY_IMPORT[here])}"


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
    for path in sources():  # the tree as it stands, committed or not
        (copy / path.relative_to(REPO)).parent.mkdir(parents=True, exist_ok=True)
        (copy / path.relative_to(REPO)).write_bytes(path.read_bytes())
    (copy / "pyproject.toml").write_bytes((REPO / "pyproject.toml").read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(copy)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {"ldmi_lightning/py.typed"}
    for path, own in sources().items():
        name = own.replace(".", "/")
        expected.add(f"{name}/__init__.py" if path.name == "__init__.py" else f"{name}.py")
    assert held == expected
