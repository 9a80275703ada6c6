"""What a stranger installs: both distributions built and checked, the wheel in an empty environment, the quickstart from there.

The distributions are left in ``dist/``, so that a release publishes those that were tried.
"""

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
DIST = REPO / "dist"

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(3600)]


def test_the_wheel_runs_the_quickstart_in_an_empty_environment(tmp_path: Path) -> None:
    shutil.rmtree(DIST, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(DIST), str(REPO)], check=True)
    built = sorted(DIST.iterdir())
    assert [path.suffix for path in built] == [".whl", ".gz"]
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, built)], check=True)

    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    install = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(REPO / "constraints.txt")]
    subprocess.run([*install, str(built[0])], check=True)
    shutil.copy(REPO / "configs" / "quickstart.yaml", tmp_path)
    command = [str(python), "-m", "ldmi_lightning", "fit", "--config", "quickstart.yaml"]
    subprocess.run([*command, "--trainer.enable_progress_bar", "false"], cwd=tmp_path, check=True)
    (results,) = tmp_path.glob("runs/*/results.json")
    found = json.loads(results.read_text())
    assert found["chosen"] == "robust"
    assert found["stages"]["robust"]["test_acc"] > 0.9
