"""The cells of a grid: their order, their configurations, and the keys that they are known by."""

import dataclasses
import itertools
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from grids import FLIPS, REPO, TINY, cells_of, finish

from ldmi_lightning.benchmarking import published
from ldmi_lightning.benchmarking.bench import Benchmark
from ldmi_lightning.benchmarking.cells import Cell, content_key
from ldmi_lightning.benchmarking.grid import ParseFit, expand, read_grid
from ldmi_lightning.benchmarking.runner import Runner
from ldmi_lightning.benchmarking.tries import tries_of
from ldmi_lightning.commands.configuration import parse_fit as parse
from ldmi_lightning.commands.configuration import parse_stage
from ldmi_lightning.engines.local import LocalEngine, LocalTask
from ldmi_lightning.engines.work import Work

pytestmark = pytest.mark.usefixtures("in_own_folder")

GRIDS = sorted((REPO / "configs/grids").glob("*.yaml"))


@pytest.fixture(scope="module")
def parse_fit() -> ParseFit:
    return parse


@cache
def shipped(name: str) -> list[Cell]:
    """Return the cells of a shipped grid, which takes seconds and is asked for twice."""
    return expand(read_grid(REPO / "configs/grids" / f"{name}.yaml"), parse)


def test_cells_come_in_the_order_in_which_they_share_warm_ups(parse_fit: ParseFit) -> None:
    cells = cells_of(parse_fit, rates=[0.3, 0.6], seeds=[1, 2])
    assert [(cell.seed, cell.rate, cell.method) for cell in cells[:5]] == [
        *((1, 0.3, "ce"), (1, 0.3, "dmi"), (1, 0.6, "ce"), (1, 0.6, "dmi"), (2, 0.3, "ce"))
    ]
    shared = [len(set(one.prefixes) & set(other.prefixes)) for one, other in itertools.pairwise(cells)]
    assert shared == [1, 0, 1, 0, 1, 0, 1], "the warm-up of one noise, rate and seed, and nothing else"
    for cell in cells:
        noise = cell.config["data"]["init_args"]["noise"]["init_args"]
        flips = {str(source): target for source, target in FLIPS.items()}
        assert noise == {"rate": cell.rate, "flips": flips, "seed": cell.seed, "exact": False}
        assert cell.config["seed_everything"] == cell.seed
    assert len({cell.key for cell in cells}) == len({cell.name for cell in cells}) == 8


class Copying(LocalEngine):
    """Carries out cells by processes that bring, in two seconds, what runs would leave, and note when they were at work."""

    def submit(self, work: Work, /) -> LocalTask:
        code = (
            "import shutil, sys, time; begun = time.time(); time.sleep(2); "
            "shutil.copytree(*sys.argv[1:3], dirs_exist_ok=True); "
            "open('times', 'a').write(f'{sys.argv[3]} {begun} {time.time()}\\n')"
        )
        output = work.folder.parents[1]
        made = output / "made" / work.folder.relative_to(output)
        name = work.folder.name.rpartition("-")[0]
        return LocalTask(subprocess.Popen([sys.executable, "-c", code, str(made), str(work.folder), name]))


def test_cells_that_share_stages_wait_for_the_first_alone(parse_fit: ParseFit, tmp_path: Path) -> None:
    refining = {name: str(REPO / f"configs/methods/{name}.yaml") for name in ("ce", "dmi", "gce", "dmi-refine")}
    cells = cells_of(parse_fit, methods=refining)
    for cell in cells:
        finish(cell, tmp_path / "made", 0.9)
    ended = [each.cell.method for each in Runner(tmp_path, Copying(3), 3, {}).run([*cells, cells[0]], lambda: None)]
    assert sorted(ended) == sorted(["ce", "dmi", "gce", "dmi-refine", "ce"])
    rows = [line.split() for line in Path("times").read_text().splitlines()]
    times = {name.split("-r0.6-")[1]: (float(begun), float(over)) for name, begun, over in rows}
    assert len(rows) == 4, "the same configuration once more is not carried out"
    assert times["dmi-seed1"][0] > times["ce-seed1"][1], "after the warm-up"
    assert times["gce-seed1"][0] < times["dmi-seed1"][1], "beside each other"
    assert times["dmi-refine-seed1"][0] > times["dmi-seed1"][1], "after the stage that it refines"


def test_an_option_of_a_stage_that_a_method_lacks_is_left_out(parse_fit: ParseFit) -> None:
    methods = {name: str(REPO / f"configs/methods/{name}.yaml") for name in ("dmi", "dmi-refine")}
    without, refined = (cell.config["model"]["init_args"] for cell in cells_of(parse_fit, methods=methods))
    assert without["refine"] is None
    assert refined["refine"]["epochs"] == 2


def test_data_may_keep_its_labels_and_noise_may_have_no_rate(parse_fit: ParseFit) -> None:
    config = TINY["data"]["digits"]["config"]
    matrix = np.eye(10).tolist()
    own = {"class_path": "ldmi_lightning.noise.MatrixNoise", "init_args": {"matrix": matrix}}
    clean = {"class_path": "NoNoise"}
    data = {"given": {"config": config}, "noisy": {"config": config, "noise": {"own": own, "clean": clean}}}
    cells = cells_of(parse_fit, data=data, methods={"dmi": TINY["methods"]["dmi"]}, rates=[0.3, 0.6])
    assert [cell.name for cell in cells] == [
        "given-labels-as-given-dmi-seed1",
        "noisy-own-dmi-seed1",
        "noisy-clean-dmi-seed1",
    ]
    assert cells[1].config["data"]["init_args"]["noise"]["init_args"]["matrix"] == matrix


def test_the_key_holds_what_changes_a_result_and_nothing_else(parse_fit: ParseFit) -> None:
    plain, same = (
        parse_fit(["fit", "--config", str(REPO / "configs/fashion_mnist.yaml"), *flags])
        for flags in (
            [],
            [
                *("--data.root", "/data", "--trainer.devices", "2", "--trainer.logger", "CSVLogger"),
                *("--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", "there"),
            ],
        )
    )
    assert content_key(plain) == content_key(same)
    for flag, value in {
        "--model.warmup.epochs": "3",
        "--model.robust.loss.memory": "0",
        "--model.robust": "null",
        "--data.noise.rate": "0.7",
        "--data.batch_size": "64",
        "--trainer.precision": "bf16-mixed",
        "--seed_everything": "2",
    }.items():
        other = parse_fit(["fit", "--config", str(REPO / "configs/fashion_mnist.yaml"), flag, value])
        assert content_key(other) != content_key(plain), flag


def test_a_configuration_that_was_edited_makes_another_cell(parse_fit: ParseFit, tmp_path: Path) -> None:
    (cell, _) = cells_of(parse_fit)
    finish(cell, tmp_path, 0.9)
    assert cell.results(tmp_path) is not None
    other = dataclasses.replace(cell, config=cell.config | {"seed_everything": 7})
    shutil.move(cell.folder(tmp_path), other.folder(tmp_path))
    assert other.results(tmp_path) is None, "whatever its folder is called"


# One of its kind stands for all, which take long to read.
QUICK = [path for path in GRIDS if path.stem == "methods-mr"]


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=[] if path in QUICK else pytest.mark.slow) for path in GRIDS],
)
def test_every_shipped_grid_is_understood(path: Path) -> None:
    cells = shipped(path.stem)
    assert cells
    for cell in cells:
        assert cell.config["seed_everything"] == cell.seed
        noise = cell.config["data"]["init_args"]["noise"]
        of_people = noise["class_path"].endswith(("HumanNoise", "CrowdLabels"))
        assert of_people or noise["init_args"]["seed"] == cell.seed
        assert cell.config["trainer"]["logger"]["class_path"].endswith("CSVLogger")
        if path.stem != "quickstart":
            others = (
                "mr",
                "choice",
                "features-mr",
                "features-cifar10n",
                "methods-mr",
                "methods-cifar10n",
                "crowd-cifar10n",
            )
            assert published.find(cell.config) or path.stem in others or cell.noise == "symmetric"


PUBLISHED = sorted(path.parent.name for path in (REPO / "docs/results").glob("*/cells"))
OF_TRIES = re.compile(r"-(try-\d+|tuned)-")


@pytest.mark.parametrize(
    "grid", [PUBLISHED[-1], *(pytest.param(grid, marks=pytest.mark.slow) for grid in PUBLISHED[:-1])]
)
def test_published_cells_are_those_of_their_grid_whatever_options_came_later(grid: str) -> None:
    cells = shipped(grid)
    published_cells = REPO / "docs/results" / grid
    known = {cell.folder(published_cells).name for cell in cells}
    names = {path.name for path in (published_cells / "cells").iterdir()}
    assert {name for name in names if not OF_TRIES.search(name)} <= known
    assert any(cell.results(published_cells) for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.stem for path in GRIDS if "tries" in yaml.safe_load(path.read_text())])
def test_every_setting_that_a_shipped_grid_tries_is_understood_and_found_where_it_is_published(name: str) -> None:
    grid = read_grid(REPO / f"configs/grids/{name}.yaml")
    cells = expand(grid, parse)
    tries = tries_of(grid, cells, parse_stage)
    assert len(tries) == 6 * len(grid.methods)
    bench = Benchmark(grid, cells, tries, REPO / "docs/results" / name)
    if (REPO / "docs/results" / name / "table.md").is_file():
        assert all(cell.name in bench.results for cell in bench.cells)
        assert len(bench.tuned) == len(bench.plain)
