"""``ldmi audit --config FILE --folds N``: each label judged by a run that never saw it, and one run on everything."""

import argparse
import contextlib
import hashlib
import json
import shlex
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from jsonargparse import Namespace

from ldmi_lightning.audit import audit
from ldmi_lightning.benchmarking.cells import Cell, content_key, data_within
from ldmi_lightning.benchmarking.progress import Progress
from ldmi_lightning.benchmarking.runner import Runner
from ldmi_lightning.commands.audit_result import Told, finish
from ldmi_lightning.commands.audit_rows import check_whole, joined, rows_of
from ldmi_lightning.commands.audit_votes import with_votes
from ldmi_lightning.commands.benchmark_run import stopped_by_sigterm
from ldmi_lightning.commands.configuration import as_plain, fill_in_seed, in_order, make_parser, parse, repeatable
from ldmi_lightning.commands.engine_options import engine_of, jobs_of
from ldmi_lightning.commands.options import FOLDS
from ldmi_lightning.commands.output import refuse_existing, show
from ldmi_lightning.commands.parsing import one_line
from ldmi_lightning.commands.quiet import quieten
from ldmi_lightning.datamodules import NoisyDataModule
from ldmi_lightning.datamodules.fold_splits import FOLD, dealt_out
from ldmi_lightning.datamodules.folds import Fold
from ldmi_lightning.errors import UserError
from ldmi_lightning.runs.folder import LOG
from ldmi_lightning.runs.outputs import Outputs, read

RESULT = "audit"
"""The folder of the result, beside that of the runs."""
EVERYTHING = "all-rows"
STAGES = "stages"
"""Where the runs share finished stages: none has another's, so that nothing of it is kept."""


def run(options: argparse.Namespace, of_fit: Sequence[str], command: Sequence[str]) -> int:
    """Carry out the folds, and audit all labels; return the exit code."""
    quieten()
    parser = make_parser("fit")
    parsed = parse(parser, in_order(["fit", *of_fit]))
    fill_in_seed(parsed)
    config = repeatable(as_plain(parser, parsed))
    if config["fold"] is not None:
        raise UserError(
            f"The configuration is that of one fold (fold: {config['fold']}): leave this key out, since `ldmi audit` carries "
            "out all of them."
        )
    folds, group = options.folds or FOLDS, options.group or config["group"]
    cells = cells_of({**config, "group": None}, folds, group)
    output = Path(options.output or Path("audits") / name_of(config, folds, group))
    refuse_existing(output / RESULT)
    data = make_data(parser, parsed)
    dealt_out(data, Fold(1, folds, config["seed_everything"], group))  # refused now, and not by each run
    with stopped_by_sigterm():
        try:
            with engine_of(options, output) as engine:
                carry_out(cells, output, Runner(output, engine, jobs_of(options), {}))
        except KeyboardInterrupt as stop:
            print("\nStopped. The same command resumes from here.", flush=True)
            return 128 + int(stop.args[0] if stop.args else signal.SIGINT)
    conclude(
        cells, output, data, options, Told(command, "folds", about(config, folds, group), [], then(of_fit, output))
    )
    return 0


def make_data(parser: Any, parsed: Namespace) -> NoisyDataModule:
    """Return the data, set up without a fold, as the runs will have it."""
    pl.seed_everything(parsed.seed_everything)
    try:
        data = parser.instantiate_classes(Namespace(data=parsed.data)).data
    except ValueError as error:
        raise UserError(one_line(str(error))) from error
    if not isinstance(data, NoisyDataModule):
        raise UserError(
            f"An audit needs a NoisyDataModule, which tells its rows apart, but got {type(data).__name__}. Take "
            "--probabilities P.npy, the outputs of a model that has not seen the labels."
        )
    data.prepare_data()
    data.setup("fit")
    return data


# -- runs -------------------------------------------------------------------------------------------------------------


def cells_of(config: Mapping[str, Any], folds: int, group: str | None) -> list[Cell]:
    """Return the runs of the folds, and the one on everything."""
    data = short_name(data_within(config) or config["data"], "DataModule")
    noise = short_name(noise_in(config), "Noise")
    seed = config["seed_everything"]
    of_folds = [
        Cell(
            data,
            noise,
            None,
            f"fold {number} of {folds}",
            seed,
            {**config, "fold": f"{number}/{folds}", "group": group},
        )
        for number in range(1, folds + 1)
    ]
    return [*of_folds, Cell(data, noise, None, EVERYTHING, seed, {**config, "group": None})]


def noise_in(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the configuration of the noise, empty where there is none."""
    parts = [config["data"], data_within(config) or {}]
    found = [(part.get("init_args") or {}).get("noise") for part in parts]
    return next((each for each in found if each), {})


def short_name(part: Mapping[str, Any], kind: str) -> str:
    """Return what a class is called in the name of a folder.

    >>> short_name({"class_path": "ldmi_lightning.datamodules.MRDataModule"}, "DataModule"), short_name({}, "Noise")
    ('MR', 'No')
    """
    return str(part.get("class_path", f"No{kind}")).rpartition(".")[2].removesuffix(kind)


def name_of(config: Mapping[str, Any], folds: int, group: str | None) -> str:
    """Return the name of an audit's folder: the same for the same question, another for another."""
    key = hashlib.sha256(json.dumps([content_key(config), folds, group]).encode()).hexdigest()
    data = short_name(data_within(config) or config["data"], "DataModule")
    return f"{data}-{short_name(noise_in(config), 'Noise')}-{config['seed_everything']}-{key[:8]}"


def carry_out(cells: Sequence[Cell], output: Path, runner: Runner) -> None:
    """Carry out the runs that are not finished; the first that fails ends the audit."""
    finished = [cell for cell in cells if cell.results(output) is not None]
    to_do = [cell for cell in cells if cell not in finished]
    print(f"{len(cells)} runs, {len(finished)} finished, {len(to_do)} to do. Folder: {output}", flush=True)
    progress = Progress(len(cells), len(finished))
    progress.show()
    with contextlib.closing(runner.run(to_do, say_what_it_waits_for)) as ends:
        for ended in ends:
            if ended.again:
                progress.again(ended.cell, ended.fault)
                continue
            progress.end(
                ended.cell, "trained" if ended.results else f"FAILED: {ended.fault}", failed=ended.results is None
            )
            if ended.results is None:
                fault = ended.fault.removeprefix("ldmi: error: ").rstrip(".")
                raise UserError(
                    f"{ended.cell.method}: {fault}. Its output is in {ended.cell.folder(output) / LOG}; the same command tries "
                    "again."
                )
    progress.clear()
    shutil.rmtree(output / STAGES, ignore_errors=True)


def say_what_it_waits_for() -> None:
    """Say that nothing is left to do here."""
    print("Another `ldmi audit` has the other runs at work: this one waits for them.", flush=True)


# -- after ------------------------------------------------------------------------------------------------------------


def conclude(
    cells: Sequence[Cell], output: Path, data: NoisyDataModule, options: argparse.Namespace, told: Told
) -> None:
    """Audit what the folds have said of all rows."""
    remedy = f"Remove {output}, and give the same command again."
    said = [outputs_of(cell, output) for cell in cells[:-1]]
    rows = joined([each.splits[FOLD] for each in said])
    notes = check_whole(rows, data, remedy)
    kinds = {each.outputs for each in said}
    if len(kinds) > 1:
        raise UserError(f"Some folds give probabilities of the true labels, and some of the given ones. {remedy}")
    kind = kinds.pop()
    if kind == "given":
        notes.append(
            "No stage has L_DMI or a loss with a T, so that outputs are probabilities of the GIVEN labels: T̂ and counts come "
            "from decisions alone."
        )
    found = audit(rows.probs, rows.given, outputs=kind, seed=int(told.about["seed"]))
    runs = {"runs": [str(cell.folder(output)) for cell in cells], "outputs": kind}
    stages = {"stage": ", ".join(dict.fromkeys(each.stage for each in said))}
    whole = Told(told.command, told.way, {**told.about, **runs, **stages}, notes, told.then)
    known = with_votes(rows_of(rows, data, np.zeros(len(rows.index), bool)), options.votes)
    finish(output / RESULT, found, found, known, options.threshold, whole, rows.probs)
    show(f"The model that was trained on everything: {cells[-1].runs(output)[0]}")


def outputs_of(cell: Cell, output: Path) -> Outputs:
    """Return what a fold's run has said of its rows."""
    runs = cell.runs(output)
    return read(runs[-1])


def about(config: Mapping[str, Any], folds: int, group: str | None) -> dict[str, Any]:
    """Return what ``summary.json`` says of how the audit was made."""
    return {
        "data": str(config["data"]["class_path"]).rpartition(".")[2],
        "seed": config["seed_everything"],
        "folds": folds,
        "group": group,
    }


def then(of_fit: Sequence[str], output: Path) -> str:
    """Return what comes next."""
    labels = output / RESULT / "labels.csv"
    noise = ["--data.noise", "LabelFileNoise", "--data.noise.path", str(labels)]
    kept: list[str] = []
    words = list(of_fit)
    while words:  # the noise gives way to the file
        word = words.pop(0)
        if word.startswith("--data.noise"):
            if "=" not in word:
                del words[:1]
        else:
            kept.append(word)
    return f"On the corrected labels: {shlex.join(['ldmi', 'fit', *kept, *noise])}"
