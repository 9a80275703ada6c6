"""What a run has left in its folder, read back as plain data."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ldmi_lightning.errors import UserError
from ldmi_lightning.runs.configuration import stages_in
from ldmi_lightning.runs.curves import read_curves
from ldmi_lightning.runs.folder import CONFIG, CURVES, LAST, METRICS, RESULTS

SINGULAR = "train/singular_steps"


@dataclass(frozen=True)
class Left:
    """What a run has left.

    Attributes:
        folder: as it was named.
        results: the content of ``results.json``; empty for a run that has not ended.
        config: the configuration that repeats the run; empty where it is not kept.
        config_text: the same, as it was written.
        curves: see :func:`~ldmi_lightning.runs.curves.read_curves`.
        missing: what is not there and how to get it, a sentence each.
    """

    folder: Path
    results: Mapping[str, Any]
    config: Mapping[str, Any]
    config_text: str
    curves: list[dict[str, Any]]
    missing: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.folder.resolve().name

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """What is known of each stage, in order, as in ``results.json``; of a run that has not ended: loss and epochs so far.

        Stages that never began are left out.
        """
        if self.results:
            return {name: dict(stage) for name, stage in self.results["stages"].items() if stage is not None}
        begun: dict[str, dict[str, Any]] = {}
        for row in self.curves:
            begun.setdefault(str(row.get("stage")), {"epochs": 0})["epochs"] += 1
        for name, stage in (stages_in(self.config) if self.config else {}).items():
            if name in begun:
                begun[name]["loss"] = str(stage["loss"]["class_path"]).rpartition(".")[2]
        return begun

    def singular_steps(self, stage: str) -> int | None:
        """Return how many steps of a stage were singular; ``None`` where they are not counted."""
        counts = [row[SINGULAR] for row in self.curves if row.get("stage") == stage and SINGULAR in row]
        return int(sum(counts)) if counts else None


def read_run(folder: Path) -> Left:
    """Read what a run has left in its folder.

    Raises:
        UserError: there is no run, or a file of it cannot be read.
    """
    if not folder.exists():
        raise UserError(
            f"There is no run {folder}: name the folder that `ldmi fit` has named on its first and last line."
        )
    if folder.is_file():
        raise UserError(f"{folder} is a file, but a run is a folder: name {folder.resolve().parent}, if that is one.")
    if not any((folder / name).is_file() for name in (RESULTS, LAST, CONFIG)):
        within = sorted({path.parent for name in (RESULTS, CONFIG) for path in folder.glob(f"*/{name}")})
        hint = f"; {within[0]}, for example, is one" if within else ""
        raise UserError(f"{folder} is no run's folder: it has neither {RESULTS} nor {LAST} nor {CONFIG}{hint}.")
    results = _read_results(folder / RESULTS)
    text, config = _read_config(folder / CONFIG)
    names = list(results.get("stages") or (stages_in(config) if config else {}))
    source = next((path for path in (folder / CURVES, folder / METRICS) if path.is_file()), None)
    known = [name for name in names if not results or results["stages"][name] is not None]
    curves = read_curves(source, known) if source is not None else []
    return Left(folder, results, config, text, curves, list(_missing(folder, results, curves)))


def _read_results(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): resume the finished run, and it is written again."
        ) from error
    if not (isinstance(found, dict) and isinstance(found.get("stages"), dict)):
        raise UserError(f"{path} is no run's: it has no stages. Name the folder of a run of `ldmi fit`.")
    return found


def _read_config(path: Path) -> tuple[str, Mapping[str, Any]]:
    if not path.is_file():
        return "", {}
    try:
        text = path.read_text(encoding="utf-8")
        config = yaml.safe_load(text)
    except (ValueError, OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}): repair it, or remove it.") from error
    return text, config if isinstance(config, dict) and isinstance(config.get("model"), dict) else {}


def _missing(folder: Path, results: Mapping[str, Any], curves: list[dict[str, Any]]) -> Iterator[str]:
    """Say what is not there, and how to get it."""
    command = f"ldmi fit --config {shlex.quote(str(folder / CONFIG))} --ckpt_path {shlex.quote(str(folder / LAST))}"
    resumable = (folder / LAST).is_file() and (folder / CONFIG).is_file()
    if not results and resumable:
        yield f"The run has not ended: figures of the test set, U and T̂ come with its end. `{command}` resumes it."
    elif not results:
        yield "The run has not ended, and has left no checkpoint to resume it from: it must be begun again."
    elif not all("confusion" in stage for stage in results["stages"].values() if stage is not None):
        remedy = f"`{command}` tests the finished run again and adds them" if resumable else "A new run has them"
        yield f"Its results.json is of an earlier version, without confusion matrices and U. {remedy}."
    if not curves:
        kept = f"{CURVES}, which `ldmi fit` writes where it keeps checkpoints"
        yield f"There are no curves: the folder has neither {kept}, nor {METRICS}."
    elif (first := curves[0]["epoch"]) > 0:
        yield f"The curves begin with epoch {first + 1}: earlier epochs were run elsewhere."


def differences(configs: list[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the dotted keys in which configurations differ, each with the value in each of them; ``None`` where it lacks.

    >>> differences([{"data": {"noise": {"rate": 0.5}}, "seed": 1}, {"data": {"noise": None}, "seed": 1}])
    {'data.noise.rate': [0.5, None]}
    """
    flat = [dict(_leaves(config)) for config in configs]
    keys = dict.fromkeys(key for each in flat for key, value in each.items() if value is not None)
    return {key: [each.get(key) for each in flat] for key in keys if len({repr(each.get(key)) for each in flat}) > 1}


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(config, Mapping) and config:
        for key, value in config.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, config
