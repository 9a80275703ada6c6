"""A grid, its folder, and what is finished of it: runs are carried out, and the tables written after each."""

import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldmi_lightning import files
from ldmi_lightning.benchmarking.cells import Cell
from ldmi_lightning.benchmarking.chosen import chosen_of
from ldmi_lightning.benchmarking.comparison import comparison
from ldmi_lightning.benchmarking.figure import draw
from ldmi_lightning.benchmarking.grid import Grid
from ldmi_lightning.benchmarking.progress import Progress
from ldmi_lightning.benchmarking.runner import Ended, Runner
from ldmi_lightning.benchmarking.summary import Spread, stages_of, summarise
from ldmi_lightning.benchmarking.tables import comma_separated, markdown, percent
from ldmi_lightning.benchmarking.tries import TUNED, Try, tuned_cells
from ldmi_lightning.benchmarking.tries import markdown as settings_tried
from ldmi_lightning.engines.work import DEVICE
from ldmi_lightning.errors import UserError
from ldmi_lightning.runs.folder import LOG

TABLE, NUMBERS, FIGURE, COMPARISON = "table.md", "table.csv", "figure.png", "comparison.md"


class Benchmark:
    """A grid, its folder, and what is finished of it.

    Args:
        grid: the grid.
        cells: its cells, without those of the settings that it tries.
        tries: the settings that it tries.
        output: its folder.
    """

    def __init__(self, grid: Grid, cells: Sequence[Cell], tries: Sequence[Try], output: Path) -> None:
        self.grid = grid
        self.plain = list(cells)
        self.tries = list(tries)
        self.output = output
        self.results: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        self._look_up([*self.plain, *(each.cell for each in self.tries)])
        self._look_up(self.tuned)

    def _look_up(self, cells: Sequence[Cell]) -> None:
        self.results |= {cell.name: found for cell in cells if (found := cell.results(self.output)) is not None}

    @property
    def tuned(self) -> list[Cell]:
        """The cells whose setting has been chosen by now among those tried."""
        return tuned_cells(self.plain, self.tries, self.results)

    @property
    def cells(self) -> list[Cell]:
        """All cells that are known by now."""
        return [*self.plain, *(each.cell for each in self.tries), *self.tuned]

    def list_cells(self) -> int:
        """Print the cells."""
        cells = self.cells
        for cell in cells:
            print(f"{'finished' if cell.name in self.results else 'to do':8}  {cell.name}")
        finished = sum(cell.name in self.results for cell in cells)
        print(f"{len(cells)} cells, {finished} of them finished, in {self.output}{self._unknown()}")
        return 0

    def _unknown(self) -> str:
        """Say how many cells wait for a choice between settings."""
        of_tries = sum(cell.method in self.grid.tries for cell in self.plain)
        waiting = of_tries - len(self.tuned)
        return f"; {waiting} more follow once all settings of their methods have been tried" if waiting else ""

    def carry_out(self, chosen: Sequence[Cell] | None, runner: Runner) -> int:
        """Carry out the cells that are not finished, and write the tables after each; return the exit code.

        Args:
            chosen: cells; ``None`` for all, those included whose setting is chosen on the way.
            runner: carries them out.
        """
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.output} cannot be made: {error.strerror}. Choose another folder with --output."
            ) from error
        while True:
            cells = self.cells if chosen is None else list(chosen)
            to_do = [cell for cell in cells if cell.name not in self.results and cell.name not in self.failed]
            done = sum(cell.name in self.results for cell in cells)
            print(
                f"{len(cells)} cells, {done} finished, {len(to_do)} to do{self._unknown()}. Folder: {self.output}",
                flush=True,
            )
            self._carry_out(to_do, Progress(len(cells), len(cells) - len(to_do)), runner)
            self._look_up(self.tuned)
            known = self.cells if chosen is None else cells
            if all(cell.name in self.results or cell.name in self.failed for cell in known):
                break
        self.write_tables()
        cells = self.cells
        finished = sum(cell.name in self.results for cell in cells)
        compared = f", {COMPARISON}" if (self.output / COMPARISON).is_file() else ""
        print(f"{self.output / TABLE}, {NUMBERS}, {FIGURE}{compared}: {finished} of {len(cells)} cells.")
        return 1 if self.failed else 0

    def _carry_out(self, to_do: Sequence[Cell], progress: Progress, runner: Runner) -> None:
        self.write_tables()
        progress.show()
        with contextlib.closing(runner.run(to_do, _say_what_it_waits_for)) as ends:
            for ended in ends:
                if ended.again:
                    progress.again(ended.cell, ended.fault)
                    continue
                self._note(ended)
                self.write_tables()
                progress.end(ended.cell, self._outcome(ended), failed=ended.results is None)
        progress.clear()

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
        last, stage = stages_of(ended.results)[-1]
        said = f"{percent(Spread(stage['test_acc'], None))} % ({stage['selected_by']}, epoch {stage['best_epoch']})"
        kept = chosen_of(ended.results)
        if kept is None or kept.stage == last:
            return said
        return f"{said}; {kept.stage} is kept, {percent(Spread(kept.test_acc, None))} %"

    def write_tables(self) -> None:
        """Write the tables and the figure."""
        tuned, cells = self.tuned, self.cells
        shown = [*self.plain, *tuned]
        known = {cell.name: self.results[cell.name] for cell in cells if cell.name in self.results}
        rows = summarise(shown, known)
        table = markdown(self._head(), cells, rows, known, self.failed)
        files.write(
            self.output / TABLE, (table + "".join(f"{line}\n" for line in settings_tried(self.tries, known))).encode()
        )
        files.write(self.output / NUMBERS, comma_separated(rows).encode())
        if compared := comparison(shown, known):
            files.write(self.output / COMPARISON, compared.encode())
        if picture := draw([row for row in rows if not row.method.endswith(TUNED)], cells, known):
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
