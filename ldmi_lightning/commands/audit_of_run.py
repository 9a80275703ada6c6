"""``ldmi audit RUN``: the labels of a run that there is, judged by it."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldmi_lightning.audit import audit
from ldmi_lightning.audit.others import judged_by
from ldmi_lightning.commands.audit_result import Told, finish
from ldmi_lightning.commands.audit_rows import SPLITS, joined, rows_of
from ldmi_lightning.commands.audit_votes import with_votes
from ldmi_lightning.commands.configuration import in_order
from ldmi_lightning.commands.lightning import LDMICLI, Run, carry_out, is_rank_zero
from ldmi_lightning.commands.output import refuse_existing
from ldmi_lightning.commands.row_outputs import outputs_of, stage_of_outputs
from ldmi_lightning.datamodules import NoisyDataModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.runs import outputs
from ldmi_lightning.runs.folder import CONFIG, LAST, RESULTS, checkpoint_name, is_run_folder
from ldmi_lightning.runs.left import read_run
from ldmi_lightning.saying import say

RESULT = "audit"
"""The folder of the result, in that of the run."""


def run(folder: Path, options: argparse.Namespace, command: Sequence[str]) -> int:
    """Audit a run's labels; return the exit code."""
    results = results_of(folder)
    result = Path(options.output or folder / RESULT)
    refuse_existing(result)
    return carry_out(lambda run: audit_run(folder, results, result, options, command, run))


def results_of(folder: Path) -> Mapping[str, Any]:
    """Return the content of the ``results.json`` of a run that can be audited: one that has ended, and kept its checkpoints."""
    if folder.is_dir() and not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is no run's folder: it has no {CONFIG}. Give a folder that `ldmi fit` has made.")
    results = read_run(folder).results
    if not is_run_folder(folder):
        raise UserError(
            f"{folder} has no checkpoints, so that nothing can be predicted. Give a run that has kept them."
        )
    if not results:
        raise UserError(
            f"{folder} is not finished: it has no {RESULTS}. Resume it: ldmi fit --ckpt_path {folder / LAST}"
        )
    return results


def audit_run(
    folder: Path,
    results: Mapping[str, Any],
    result: Path,
    options: argparse.Namespace,
    command: Sequence[str],
    run: Run,
) -> None:
    """Predict the training and validation rows, and audit their labels."""
    words = ["validate", "--config", str(folder / CONFIG), "--ckpt_path", str(folder / LAST)]
    cli = LDMICLI("validate", in_order(words), run)
    data, module = cli.datamodule, cli.model
    if not isinstance(data, NoisyDataModule):
        raise UserError(f"An audit needs a NoisyDataModule, which tells its rows apart, but got {type(data).__name__}.")
    if data.fold is not None:
        raise UserError(
            f"{folder} holds out fold {data.fold}, and says nothing of other rows: audit all folds by ldmi audit --config FILE."
        )
    stage, kind = stage_of_outputs(dict(module.losses.items()), str(results["chosen"]))
    path = folder / checkpoint_name(stage, "best")
    if not path.is_file():
        raise UserError(f"{folder} has no {path.name}, so that nothing can be predicted. Give a run that has kept it.")
    told = outputs_of(cli.trainer, module, data, path, (stage, kind), SPLITS)
    if not is_rank_zero():
        return
    outputs.write(folder, told)
    say(f"{folder / outputs.OUTPUTS}: what {stage} says of its training and validation rows.")
    seed = int(cli.config.seed_everything)
    every = joined([told.splits[name] for name in SPLITS])
    seen = np.isin(every.index, told.splits["train"].index)
    counted = audit(every.probs[~seen], every.given[~seen], outputs=kind, seed=seed)
    found = judged_by(counted, every.probs, every.given)
    notes = [
        f"T̂ and all counts are of the run's {len(counted.given):,} validation labels alone, which it has not trained on; its "
        "epochs were chosen by them.",
        f"The {int(seen.sum()):,} training labels were seen in training, so that a wrong one may look right: `ldmi audit "
        f"--config {folder / CONFIG}` judges each by a model that never saw it.",
    ]
    about = {"data": type(data).__name__, "runs": [str(folder)], "stage": stage, "outputs": kind, "seed": seed}
    then = (
        f"On the corrected labels: ldmi fit --config {folder / CONFIG} --data.noise LabelFileNoise --data.noise.path "
        f"{result / 'labels.csv'}"
    )
    told_of = Told(command, "run", about, notes, then)
    rows = with_votes(rows_of(every, data, seen), options.votes)
    finish(result, found, counted, rows, options.threshold, told_of, every.probs)
