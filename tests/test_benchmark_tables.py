"""Tables and figures of `ldmi benchmark`, from written results."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grids import (
    REPO,
    TINY,
    cells_of,
    finish,
    made,
    results_of,
    table_rows,
    table_rows_of,
)
from PIL import Image

from ldmi_lightning.benchmarking import published
from ldmi_lightning.benchmarking.cells import Cell
from ldmi_lightning.benchmarking.figure import draw
from ldmi_lightning.benchmarking.grid import ParseFit
from ldmi_lightning.benchmarking.summary import Spread, is_dominant, summarise
from ldmi_lightning.benchmarking.tables import comma_separated, markdown
from ldmi_lightning.commands import main
from ldmi_lightning.commands.configuration import parse_fit as parse

pytestmark = pytest.mark.usefixtures("in_own_folder")


@pytest.fixture(scope="module")
def parse_fit() -> ParseFit:
    return parse


@pytest.fixture(scope="module")
def config(parse_fit: ParseFit) -> dict[str, Any]:
    """The configuration of a run on digits."""
    return parse_fit(["fit", "--config", str(REPO / "configs/quickstart.yaml")])


# -- tables and figures -----------------------------------------------------------------------------------------------


def test_rows_give_mean_and_deviation_over_the_seeds_that_are_there(config: dict[str, Any]) -> None:
    cells = made(config, ["ce", "dmi", "dmi-refine"], rates=[0.3, 0.6], seeds=[1, 2, 3])
    base = {"ce": 0.5, "dmi": 0.7, "dmi-refine": 0.9}
    finished = [cell for cell in cells if (cell.method, cell.seed) != ("dmi", 3)]
    rows = summarise(cells, {cell.name: results_of(cell, base[cell.method] + cell.seed / 100) for cell in finished})
    assert [(row.rate, row.method, len(row.seeds), row.dominant) for row in rows] == [
        (rate, method, n, rate < 0.5)
        for rate in (0.3, 0.6)
        for method, n in {"warm-up": 3, "ce": 3, "dmi": 2, "dmi-refine": 3}.items()
    ]
    ce, dmi, refined = rows[1:4]
    assert ce.figures["test_acc"] == pytest.approx(Spread(0.52, 0.01))
    assert dmi.figures["test_acc"] == pytest.approx(Spread(0.715, np.std([0.71, 0.72], ddof=1)))
    assert (refined.stage, refined.loss, refined.selected_by) == ("refine", "ForwardLoss", "val/nll")
    assert refined.figures["transition_error"] == Spread(0.125, 0.0)


def test_a_table_of_written_results(parse_fit: ParseFit) -> None:
    for cell in (cells := cells_of(parse_fit, seeds=[1, 2])):
        finish(cell, Path("out"), 0.9 + cell.seed / 100)
    assert main(["benchmark", "grid.yaml", "--output", "out"]) == 0
    assert table_rows(Path("out/table.md"))[1:] == [
        [
            "0.6\\*",
            "warm-up",
            "2",
            "50.00 ± 0.00",
            "49.00 ± 0.00",
            "40.00 ± 0.00",
            "39.00 ± 0.00",
            "val/acc",
            "7, 7",
            "–",
            "–",
            "–",
            "–",
        ],
        [
            "0.6\\*",
            "ce",
            "2",
            "91.50 ± 0.71",
            "90.50 ± 0.71",
            "81.50 ± 0.71",
            "80.50 ± 0.71",
            "val/acc",
            "7, 7",
            "–",
            "–",
            "–",
            "–",
        ],
        [
            "0.6\\*",
            "dmi",
            "2",
            "91.50 ± 0.71",
            "90.50 ± 0.71",
            "81.50 ± 0.71",
            "80.50 ± 0.71",
            "val/log_dmi",
            "7, 7",
            "–",
            "–",
            "–",
            "–",
        ],
    ]
    (_, _, last) = csv.DictReader(io.StringIO(Path("out/table.csv").read_text()))
    assert (last["method"], last["n"], last["seeds"], last["diagonally_dominant"]) == ("dmi", "2", "1 2", "False")
    assert (last["test_acc_mean"], last["test_acc_std"], last["best_epochs"]) == ("0.915000", "0.007071", "7 7")
    assert "cells: 4 done, 0 missing, 0 failed; computing time 0.0 h" in Path("out/table.md").read_text()
    assert len(cells) == 4


def choosing(cell: Cell, chosen: str) -> dict[str, Any]:
    """Return results of three stages of 50, 79 and 80 % plus a point for each seed, and what a run chose of them."""
    found = results_of(cell, 0.8 + cell.seed / 100)
    return {**found, "chosen": chosen, "choice": []}


def test_tables_say_which_stage_is_kept_and_what_that_costs(config: dict[str, Any]) -> None:
    cells = made(config, ["dmi", "dmi-refine"], rates=[0.6], seeds=[1, 2, 3])
    chosen = {1: "robust", 2: "refine", 3: "refine"}
    results = {
        cell.name: choosing(cell, chosen[cell.seed] if cell.method == "dmi-refine" else "warmup") for cell in cells
    }
    rows = summarise(cells, results)
    _, dmi, refined = table_rows_of(markdown([], cells, rows, results, {}))[1:]
    assert dmi[3] == "82.00 ± 1.00", "a method's figures are those of its last stage, whichever is kept"
    # The warm-up has 50 %, DMI 81, 82 and 83: regrets of 31, 32 and 33 points.
    assert dmi[9:11] == ["warmup 50.00 ± 0.00", "32.00 / 32.00"]
    # Of 80 and 81, 82, 83 %: the first seed keeps the one a point below its best.
    assert refined[9:11] == ["refine 2, robust 1: 81.67 ± 1.53", "0.33 / 0.33"]
    table = markdown([], cells, rows, results, {})
    assert "Mean regret of the choice, 6 runs: 16.17 points of accuracy, 16.17 of balanced accuracy." in table
    warm, dmi_row, refined_row = csv.DictReader(io.StringIO(comma_separated(rows)))
    assert (warm["chosen_stages"], warm["chosen_acc_mean"], warm["regret_mean"]) == ("", "", "")
    assert (dmi_row["chosen_stages"], dmi_row["regret_mean"]) == ("warmup warmup warmup", "0.320000")
    assert refined_row["chosen_stages"] == "robust refine refine"
    expected = {"chosen_acc_mean": "0.816667", "chosen_acc_std": "0.015275", "chosen_balanced_acc_mean": "0.806667"}
    expected |= {"chosen_balanced_acc_std": "0.015275", "regret_mean": "0.003333", "balanced_regret_mean": "0.003333"}
    assert {key: refined_row[key] for key in expected} == expected


def test_results_from_before_the_choice_stand_beside_new_ones(config: dict[str, Any]) -> None:
    cells = made(config, ["dmi"], rates=[0.6], seeds=[1, 2])
    results = {cell.name: results_of(cell, 0.9) for cell in cells}
    assert table_rows_of(markdown([], cells, summarise(cells, results), results, {}))[2][9:11] == ["–", "–"]
    results[cells[1].name] |= {"chosen": "robust", "choice": []}
    rows = summarise(cells, results)
    assert table_rows_of(markdown([], cells, rows, results, {}))[2][9:11] == ["robust 1: 90.00", "0.00 / 0.00"]
    assert list(csv.DictReader(io.StringIO(comma_separated(rows))))[-1]["chosen_stages"] == "- robust"


def test_stages_may_have_any_names_and_be_any_number(config: dict[str, Any]) -> None:
    cells = made(config, ["own"], rates=[0.6], seeds=[1])
    name, found = cells[0].name, choosing(cells[0], "student")
    model = cells[0].config["model"]["init_args"]
    model["more_stages"] = {"teacher": model["warmup"], "student": model["robust"], "polish": model["robust"]}
    model["warmup"] = model["robust"] = None
    one, other = found["stages"]["warmup"], found["stages"]["robust"]
    last = {**other, "test_acc": 0.7}
    found["stages"] = {
        **dict.fromkeys(["warmup", "robust", "refine"]),
        "teacher": one,
        "student": other,
        "polish": last,
    }
    rows = summarise(cells, {name: found})
    assert [(row.method, row.stage) for row in rows] == [("warm-up", "teacher"), ("own", "polish")]
    last_row = table_rows_of(markdown([], cells, rows, {name: found}, {}))[-1]
    assert (last_row[3], last_row[9]) == ("70.00", "student 81.00")


def test_the_paper_s_numbers_belong_to_a_warm_up_and_one_stage_more(parse_fit: ParseFit) -> None:
    config = parse_fit(["fit", "--config", str(REPO / "configs/cifar10.yaml")])
    cells = made(config, ["dmi", "dmi-refine"], rates=[0.6], seeds=[1])
    rows = summarise(cells, {cell.name: results_of(cell, 0.9) for cell in cells})
    assert [row.paper for row in rows] == [None, 89, None]


def test_different_warm_ups_have_a_row_each(config: dict[str, Any]) -> None:
    cells = made(config, ["dmi", "longer"], rates=[0.6], seeds=[1])
    cells[1].config["model"]["init_args"]["warmup"]["epochs"] = 99
    rows = summarise(cells, {cell.name: results_of(cell, 0.9) for cell in cells})
    assert [row.method for row in rows] == ["warm-up of dmi", "warm-up of longer", "dmi", "longer"]


def test_the_paper_s_numbers_stand_beside_ours(parse_fit: ParseFit) -> None:
    wanted = {
        ("cifar10", 0.6, "CELoss"): 64.5,
        ("cifar10", 0.6, "DMILoss"): 89,
        ("cifar10", 0.2, "LCCNLoss"): 91,
        ("cifar10", 0.25, "DMILoss"): None,
        ("fashion_mnist", 0.9, "DMILoss"): 98,
        ("fashion_mnist", 0.9, "CELoss"): 10,
        ("fashion_mnist", 0.3, "CELoss"): None,
        ("fashion_mnist", 0.9, "GCELoss"): None,
        ("dogs_vs_cats", 0.3, "GCELoss"): 81,
        ("clothing1m", None, "ForwardLoss"): 70.83,
        ("mr", 0.6, "DMILoss"): None,
    }
    for (name, rate, loss), number in wanted.items():
        config = parse_fit(["fit", "--config", str(REPO / f"configs/{name}.yaml")])
        assert published.accuracy(config, rate, loss) == number, (name, rate, loss)
    other = parse_fit(["fit", "--config", str(REPO / "configs/cifar10.yaml"), "--data.noise.flips", "{9: 1}"])
    assert published.find(other) is None


PAPERS = ["ce", "fw", "gce", "lccn", "dmi", "dmi-refine"]
LATER = ["sce", "elr", "volminnet", "co-teaching", "dividemix"]


@pytest.mark.parametrize("methods", [["dmi"], PAPERS, PAPERS + LATER], ids=len)
def test_the_figure_shows_each_method_and_where_t_is_not_dominant(methods: list[str], config: dict[str, Any]) -> None:
    cells = made(config, methods, rates=[0.3, 0.6], seeds=[1, 2])
    results = {cell.name: results_of(cell, 0.9 - methods.index(cell.method) / 20 + cell.seed / 100) for cell in cells}
    png = draw(summarise(cells, results), cells, results)
    assert png is not None
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    colours = {tuple(int(part) for part in colour) for colour in picture.reshape(-1, 3)}
    expected = {"ce": (31, 119, 180), "fw": (255, 127, 14), "gce": (44, 160, 44), "lccn": (148, 103, 189)}
    expected |= {"dmi": (214, 39, 40), "dmi-refine": (140, 86, 75), "sce": (227, 119, 194), "elr": (23, 190, 207)}
    expected |= {"volminnet": (188, 189, 34), "dividemix": (0, 0, 128)}
    found = {name for name, colour in expected.items() if colour in colours}
    assert found == set(methods) - {"co-teaching"}, "which is black, as letters are"
    grey = (picture == 230).all(axis=2)
    assert 0.05 < grey.mean() < 0.5


def test_dominance_is_known_where_there_is_a_transition_matrix() -> None:
    def dominant(rate: float | None, **noise: Any) -> bool | None:
        return is_dominant({"data": {"init_args": {"noise": noise}}}, rate, 10)

    assert dominant(0.45, class_path="PairFlipNoise", init_args={"rate": 0.1}) is True
    assert dominant(0.5, class_path="ldmi_lightning.noise.PairFlipNoise", init_args={"rate": 0.1}) is False
    assert dominant(None, class_path="HumanNoise", init_args={"file": "not here", "kind": "worse"}) is None
    assert is_dominant({"data": {}}, None, 10) is None


def test_what_has_no_rate_is_drawn_pattern_by_pattern(parse_fit: ParseFit) -> None:
    data = {"digits": {"config": TINY["data"]["digits"]["config"]}}
    for cell in cells_of(parse_fit, data=data):
        finish(cell, Path("out"), 0.9)
    assert main(["benchmark", "grid.yaml", "--output", "out"]) == 0
    assert {path.name for path in Path("out").iterdir()} == {
        "cells",
        "table.md",
        "table.csv",
        "figure.png",
        "comparison.md",
    }
    picture = np.asarray(Image.open("out/figure.png").convert("RGB"))
    assert (picture == (31, 119, 180)).all(axis=2).any()  # cross-entropy's blue
    assert table_rows(Path("out/table.md"))[2][:4] == ["–", "ce", "1", "90.00"]
