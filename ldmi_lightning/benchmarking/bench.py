"""A grid, its folder, and what is finished of it: runs are carried out, and the tables written after each."""

import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path

from ldmi_lightning import files
from ldmi_lightning.benchmarking.cells import DEVICE, Cell
from ldmi_lightning.benchmarking.chosen import chosen_of
from ldmi_lightning.benchmarking.figure import draw
from ldmi_lightning.benchmarking.grid import Grid, groups
from ldmi_lightning.benchmarking.progress import Progress
from ldmi_lightning.benchmarking.runner import Ended, Runner
from ldmi_lightning.benchmarking.summary import Spread, summarise
from ldmi_lightning.benchmarking.tables import comma_separated, markdown, percent
from ldmi_lightning.errors import UserError
from ldmi_lightning.runs.folder import LOG

TABLE, NUMBERS, FIGURE = "table.md", "table.csv", "figure.png"


class Benchmark:
    """A grid, its folder, and what is finished of it."""

    def __init__(self, grid: Grid, cells: Sequence[Cell], output: Path) -> None:
        self.grid = grid
        self.cells = cells
        self.output = output
        self.results = {cell.name: found for cell in cells if (found := cell.results(output)) is not None}
        self.failed: dict[str, str] = {}

    def list_cells(self) -> int:
        """Print the cells."""
        for cell in self.cells:
            print(f"{'finished' if cell.name in self.results else 'to do':8}  {cell.name}")
        print(f"{len(self.cells)} cells, {len(self.results)} of them finished, in {self.output}")
        return 0

    def carry_out(self, chosen: Sequence[Cell], runner: Runner) -> int:
        """Carry out the cells that are not finished, and write the tables after each; return the exit code."""
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.output} cannot be made: {error.strerror}. Choose another folder with --output."
            ) from error
        to_do = [cell for cell in chosen if cell.name not in self.results]
        print(
            f"{len(self.cells)} cells, {len(self.results)} finished, {len(to_do)} to do. Folder: {self.output}",
            flush=True,
        )
        progress = Progress(len(chosen), len(chosen) - len(to_do))
        self.write_tables()
        progress.show()
        with contextlib.closing(runner.run(list(groups(to_do)), _say_what_it_waits_for)) as ends:
            for ended in ends:
                self._note(ended)
                self.write_tables()
                progress.end(ended.cell, self._outcome(ended), failed=ended.results is None)
        progress.clear()
        print(f"{self.output / TABLE}, {NUMBERS}, {FIGURE}: {len(self.results)} of {len(self.cells)} cells.")
        return 1 if self.failed else 0

    def _note(self, ended: Ended) -> None:
        if ended.results is None:
            self.failed[ended.cell.name] = ended.fault
        else:
            self.results[ended.cell.name] = ended.results

    def _outcome(self, ended: Ended) -> str:
        """Say how a cell has ended."""
        if ended.results is None:
            folder = ended.cell.folder(self.output)
            return f"FAILED: {ended.fault} ({folder / LOG}; to begin it anew, delete its folder)"
        stages = {name: stage for name, stage in ended.results["stages"].items() if stage is not None}
        last, stage = list(stages.items())[-1]
        said = f"{percent(Spread(stage['test_acc'], None))} % ({stage['selected_by']}, epoch {stage['best_epoch']})"
        kept = chosen_of(ended.results)
        if kept is None or kept.stage == last:
            return said
        return f"{said}; {kept.stage} is kept, {percent(Spread(kept.test_acc, None))} %"

    def write_tables(self) -> None:
        """Write the tables and the figure."""
        rows = summarise(self.cells, self.results)
        table = markdown(self._head(), self.cells, rows, self.results, self.failed)
        files.write(self.output / TABLE, table.encode())
        files.write(self.output / NUMBERS, comma_separated(rows).encode())
        if picture := draw(rows, self.cells, self.results):
            files.write(self.output / FIGURE, picture)

    def _head(self) -> list[str]:
        options = ", ".join(f"{key} {value}" for key, value in self.grid.options.items())
        devices = dict.fromkeys(
            device.read_text().strip()
            for cell in self.cells
            if cell.name in self.results and (device := cell.folder(self.output) / DEVICE).is_file()
        )
        return [
            f"# {self.grid.path.stem}",
            "",
            f"- command: `{shlex.join(['ldmi', 'benchmark', str(self.grid.path)])}`",
            *([f"- options of all cells: {options}"] if options else []),
            *([f"- device: {'; '.join(devices)}"] if devices else []),
        ]


def _say_what_it_waits_for() -> None:
    print("Another `ldmi benchmark` has the other cells at work: this one waits for them.", flush=True)
