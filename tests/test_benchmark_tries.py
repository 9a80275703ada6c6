"""Settings that `ldmi benchmark` tries for each method, and the comparison of methods."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from grids import LDMI, REPO, TINY, finish, results_of, table_rows, write_grid

from ldmi_lightning.benchmarking.bench import Benchmark
from ldmi_lightning.benchmarking.cells import Cell
from ldmi_lightning.benchmarking.comparison import comparison
from ldmi_lightning.benchmarking.grid import Grid, expand, read_grid
from ldmi_lightning.benchmarking.runner import Runner
from ldmi_lightning.benchmarking.tries import Try, chosen_try, tries_of, tuned_cells
from ldmi_lightning.commands.configuration import parse_fit as parse
from ldmi_lightning.commands.configuration import parse_stage
from ldmi_lightning.engines.local import LocalEngine
from ldmi_lightning.errors import UserError

pytestmark = pytest.mark.usefixtures("in_own_folder")

TRIES = {"ce": {"model.warmup.epochs": [1, 3]}, "dmi": {"model.robust.loss.memory": [0.5, 0.8]}}


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Grid, list[Cell], list[Try]]:
    """The cells and tries of two methods at two rates with two seeds."""
    path = write_grid(str(tmp_path_factory.mktemp("grid") / "grid.yaml"), rates=[0.4, 0.6], seeds=[1, 2], tries=TRIES)
    read = read_grid(path)
    cells = expand(read, parse)
    return read, cells, tries_of(read, cells, parse_stage)


def scored(cell: Cell, accuracy: float, score: float | None, mode: str) -> dict[str, Any]:
    found = results_of(cell, accuracy)
    found["stages"]["robust"] |= {"best_score": score, "mode": mode}
    return found | {"epoch_times": {"warmup": {"cpu_time_s": 1.0}, "robust": {"cpu_time_s": 1.5}}}


def test_each_setting_is_one_run_at_the_first_rate_and_seed(grid: tuple[Grid, list[Cell], list[Try]]) -> None:
    _, _, tries = grid
    assert [(each.cell.name, str(each)) for each in tries] == [
        ("digits-pairs-r0.4-ce-try-1-seed1", "epochs 1"),
        ("digits-pairs-r0.4-ce-try-2-seed1", "epochs 3"),
        ("digits-pairs-r0.4-dmi-try-1-seed1", "memory 0.5"),
        ("digits-pairs-r0.4-dmi-try-2-seed1", "memory 0.8"),
    ]
    warmups = [each.cell.config["model"]["init_args"]["warmup"]["epochs"] for each in tries]
    assert warmups == [1, 3, 2, 2], "a setting wins over the options of all cells"


@pytest.mark.parametrize(("mode", "best"), [("max", 1), ("min", 0)])
def test_the_methods_own_rule_takes_a_setting(grid: tuple[Grid, list[Cell], list[Try]], mode: str, best: int) -> None:
    tries = [each for each in grid[2] if each.method == "dmi"]
    # the one with the worse test accuracy has the better score of noisy labels
    scores = [(0.9 - 0.2 * (place == best), float(place)) for place in (0, 1)]
    results = {each.cell.name: scored(each.cell, *score, mode) for each, score in zip(tries, scores, strict=True)}
    assert chosen_try(tries, results) is tries[best]
    never = {each.cell.name: scored(each.cell, 0.9, None, mode) for each in tries[:1]}
    assert chosen_try(tries, results | never) is tries[1], "what no epoch was selected for is never taken"
    assert chosen_try(tries, {tries[0].cell.name: results[tries[0].cell.name]}) is None, "one is still to be tried"


def test_tuned_cells_have_the_setting_and_the_labels_of_the_others(grid: tuple[Grid, list[Cell], list[Try]]) -> None:
    _, cells, tries = grid
    results = {each.cell.name: scored(each.cell, 0.9, place, "max") for place, each in enumerate(tries)}
    tuned = tuned_cells(cells, tries, results)
    assert [cell.method for cell in tuned] == [f"{cell.method}, tuned" for cell in cells]
    for cell, own in zip(cells, tuned, strict=True):
        assert own.config["data"] == cell.config["data"]
        assert own.config["seed_everything"] == cell.seed
        stages = own.config["model"]["init_args"]
        assert stages["warmup"]["epochs"] == (3 if cell.method == "ce" else 2)
        assert cell.method == "ce" or stages["robust"]["loss"]["init_args"]["memory"] == 0.8
    at_the_tries = [cell for cell in tuned if (cell.rate, cell.seed) == (0.4, 1)]
    assert [cell.key for cell in at_the_tries] == [tries[1].cell.key, tries[3].cell.key]


def test_a_run_counts_for_every_cell_of_its_configuration(
    grid: tuple[Grid, list[Cell], list[Try]], tmp_path: Path
) -> None:
    _, cells, tries = grid
    results = {each.cell.name: scored(each.cell, 0.9, place, "max") for place, each in enumerate(tries)}
    same = next(cell for cell in tuned_cells(cells, tries, results) if cell.key == tries[3].cell.key)
    finish(tries[3].cell, tmp_path, 0.75)
    found = same.results(tmp_path)
    assert found is not None
    assert found["stages"]["robust"]["test_acc"] == 0.75
    assert tries[2].cell.results(tmp_path) is None


def test_methods_are_compared_on_the_same_labels(grid: tuple[Grid, list[Cell], list[Try]]) -> None:
    _, cells, tries = grid
    results = {each.cell.name: scored(each.cell, 0.9, place, "max") for place, each in enumerate(tries)}
    tuned = tuned_cells(cells, tries, results)
    for cell in [*cells, *tuned]:
        ahead = 0.02 * cell.seed if "dmi" in cell.method else 0.0  # 2 and 4 points
        results[cell.name] = scored(cell, 0.5 + cell.seed / 10 + ahead, 1.0, "max")
    text = comparison([*cells, *tuned], results)
    assert text is not None
    Path("comparison.md").write_text(text)
    rows = table_rows(Path("comparison.md"))
    heads = ["method", "n", "accuracy", "against ce", "rank", "tuned", "against ce, tuned", "rank", "kept", "CPU s"]
    assert rows[0] == heads
    assert rows[1] == ["ce", "2", "65.00 ± 7.07", "", "2", "65.00 ± 7.07", "", "2", "–", "1.5"]
    both = ["68.00 ± 8.49", "+3.00 ± 1.00", "1"]
    assert rows[2] == ["dmi", "2", *both, *both, "–", "1.5"]
    assert rows[-2:] == [
        ["ce", "2.0", "3.00", "3.00", "2.0", "3.00", "3.00"],
        ["dmi", "1.0", "0.00", "0.00", "1.0", "0.00", "0.00"],
    ]
    assert comparison([cell for cell in cells if cell.method == "ce"], results) is None


def test_a_grid_is_finished_by_what_its_tries_have_chosen(
    grid: tuple[Grid, list[Cell], list[Try]], capsys: pytest.CaptureFixture[str]
) -> None:
    read, cells, tries = grid
    for cell in cells:
        finish(cell, Path("out"), 0.9)
    Benchmark(read, cells, tries, Path("out")).list_cells()
    said = capsys.readouterr().out
    assert (
        "12 cells, 8 of them finished, in out; 8 more follow once all settings of their methods have been tried" in said
    )
    results = {each.cell.name: scored(each.cell, 0.9, place, "max") for place, each in enumerate(tries)}
    for cell in [*(each.cell for each in tries), *tuned_cells(cells, tries, results)]:
        finish(cell, Path("out"), 0.9)
        (file,) = cell.folder(Path("out")).glob("*/results.json")
        file.write_text(json.dumps(results.get(cell.name) or results_of(cell, 0.9)))
    bench = Benchmark(read, cells, tries, Path("out"))
    assert bench.carry_out(None, Runner(Path("out"), LocalEngine(1), 1, {})) == 0
    said = capsys.readouterr().out
    assert "20 cells, 20 finished, 0 to do. Folder: out" in said
    assert "comparison.md: 20 of 20 cells." in said
    rows = table_rows(Path("out/table.md"))
    shown = [row[1] for row in rows if row[0].startswith("0.4")]
    assert shown == ["warm-up of ce, dmi, dmi, tuned", "warm-up of ce, tuned", "ce", "dmi", "ce, tuned", "dmi, tuned"]
    assert rows[-4:] == [
        ["digits", "ce", "epochs 1", "val/acc", "0.0000", ""],
        ["digits", "ce", "epochs 3", "val/acc", "1.0000", "taken"],
        ["digits", "dmi", "memory 0.5", "val/log_dmi", "2.0000", ""],
        ["digits", "dmi", "memory 0.8", "val/log_dmi", "3.0000", "taken"],
    ]


@pytest.mark.parametrize(
    ("tries", "said"),
    [
        ({"gce": {"model.robust.loss.q": [0.5]}}, "tries has no key gce. Did you mean ce?"),
        (
            {"ce": {"data.batch_size": [8]}},
            "tries.ce: data.batch_size is no option of a stage, such as model.robust.loss.q.",
        ),
        ({"ce": {"model.warmup.epochs": 3}}, "model.warmup.epochs of tries.ce must be a list of values, but got 3."),
        ({"ce": [3]}, "ce of tries must be a mapping, but got [3]."),
    ],
)
def test_a_wrong_try_is_refused_in_one_line(tries: Any, said: str) -> None:
    with pytest.raises(UserError) as refused:
        read_grid(write_grid(tries=tries))
    assert said in str(refused.value)


def test_a_setting_that_a_run_refuses_names_its_method() -> None:
    read = read_grid(write_grid(methods={"ce": TINY["methods"]["ce"]}, tries={"ce": {"model.robust.loss.q": [0.5]}}))
    with pytest.raises(UserError, match=r"grid\.yaml: tries, digits, ce: .*robust\.loss.*'q'"):
        tries_of(read, expand(read, parse), parse_stage)


def test_a_stage_that_a_method_lacks_cannot_be_set() -> None:
    read = read_grid(write_grid(methods={"ce": TINY["methods"]["ce"]}, tries={"ce": {"model.refine.epochs": [3]}}))
    with pytest.raises(
        UserError, match=r"tries, digits, ce: --model\.refine\.epochs: the method has no stage refine\."
    ):
        tries_of(read, expand(read, parse), parse_stage)


@pytest.mark.parametrize(
    "words",
    [
        ["--model.robust.loss.q=0.5", "--model.robust.epochs=3"],
        ["--model.robust.optimizer={class_path: torch.optim.AdamW, init_args: {lr: 0.0003}}"],
        ["--model.robust.scheduler=null", "--model.robust.loss.truncation=0.4"],
        ["--model.robust.loss=ForwardLoss", "--model.robust.loss.transition=held_out"],
    ],
)
def test_a_stage_alone_is_read_as_the_whole_configuration_is(words: list[str]) -> None:
    files = [
        "fit",
        "--config",
        str(REPO / "configs/quickstart.yaml"),
        "--config",
        str(REPO / "configs/methods/gce.yaml"),
    ]
    before, after = (parse([*files, *more])["model"]["init_args"]["robust"] for more in ([], words))
    assert before != after
    assert parse_stage("robust", before, words) == after


@pytest.mark.slow
def test_tries_are_run_and_the_tuned_cells_after_them() -> None:
    path = write_grid(tries={"dmi": TRIES["dmi"]})
    done = subprocess.run(
        [*LDMI, "benchmark", str(path), "--output", "out"], capture_output=True, text=True, check=True
    )
    assert "table.md, table.csv, figure.png, comparison.md: 5 of 5 cells." in done.stdout
    assert len(list(Path("out/cells").iterdir())) == 4, "the tuned cell was tried"
