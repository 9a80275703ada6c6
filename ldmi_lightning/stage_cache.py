"""Finished stages that runs share: one that agrees with an earlier run up to some stage begins after it.

An entry is a folder whose name is the SHA-256 of everything that its stage's weights depend on: the configuration up to and
including the stage, the inputs, the noisy labels, the code and the versions. It holds the stage's best and last checkpoint,
and the rows of ``metrics.csv`` so far. It appears complete or not at all, and its checkpoints are checked byte for byte
before they are used. A run that begins after a shared stage resumes from its last checkpoint: its weights are those of a run
that trained the stage itself, bit for bit.
"""

import hashlib
import importlib.util
import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ldmi_lightning import checkpoints
from ldmi_lightning.datamodules import NoisyDataModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.stages import STAGES
from ldmi_lightning.trainer_rules import SHOWN_AND_KEPT

BEST, LAST, ROWS = "best.ckpt", "last.ckpt", "metrics.csv"
PACKAGES = ("ldmi_lightning", "ldmi_lightning.datamodules", "ldmi_lightning.models")


class StageCache:
    """The entries of one run, one for each of its stages.

    Args:
        folder: where entries are kept.
        keys: for each stage, in order, the name of its entry: see :func:`keys_of`.
    """

    def __init__(self, folder: str | Path, keys: Mapping[str, str]) -> None:
        self.folder = Path(folder)
        self.keys = dict(keys)

    def entry(self, stage: str) -> Path:
        """Return where a stage is kept."""
        return self.folder / self.keys[stage]

    def last_checkpoint(self, stage: str) -> Path:
        """Return the checkpoint to go on from after a stage that is kept."""
        return self.entry(stage) / LAST

    def finished(self) -> list[str]:
        """Return the stages that need not be trained again, in order: those whose entries, and all before, are intact."""
        stages: list[str] = []
        for stage in self.keys:
            if not self._is_intact(stage):
                break
            stages.append(stage)
        return stages

    def _is_intact(self, stage: str) -> bool:
        entry = self.entry(stage)
        if not entry.is_dir():
            return False
        try:
            for name in (LAST, *([BEST] if (entry / BEST).exists() else [])):
                checkpoints.read_checkpoint(entry / name)
        except UserError:
            shutil.rmtree(entry, ignore_errors=True)  # damaged: no run shall meet it again
            return False
        return True

    def bring(self, stages: Sequence[str], run_folder: Path) -> None:
        """Put the checkpoints of shared stages, and their rows, where the run would have left them itself."""
        for stage in stages:
            for name in (BEST, LAST):
                if (self.entry(stage) / name).exists():
                    shutil.copyfile(self.entry(stage) / name, run_folder / f"{stage}-{name}")
        if stages and (self.entry(stages[-1]) / ROWS).exists():
            shutil.copyfile(self.entry(stages[-1]) / ROWS, run_folder / ROWS)

    def keep(self, stage: str, run_folder: Path) -> None:
        """Keep a stage that has just ended; where another run was quicker, leave its entry alone.

        Raises:
            OSError: the entry cannot be written.
        """
        entry = self.entry(stage)
        if entry.is_dir():
            return
        unfinished = self.folder / f"{uuid.uuid4().hex}.tmp"
        unfinished.mkdir(parents=True)
        try:
            later = list(self.keys)[list(self.keys).index(stage) + 1 :]
            for name in (BEST, LAST):
                if (run_folder / f"{stage}-{name}").exists():
                    torch.save(
                        without(checkpoints.read_checkpoint(run_folder / f"{stage}-{name}"), later), unfinished / name
                    )
            if (run_folder / ROWS).exists():
                shutil.copyfile(run_folder / ROWS, unfinished / ROWS)
            unfinished.rename(entry)
        except OSError:
            if not entry.is_dir():  # it is where another run was quicker
                raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def without(checkpoint: dict[str, Any], later: Sequence[str]) -> dict[str, Any]:
    """Leave out of a checkpoint what it says of later stages, which the runs that share it need not have in common."""
    own = checkpoint[checkpoints.KEY]
    identity = {
        key: value
        for key, value in own["identity"].items()
        if not any(key == f"model.{stage}" or key.startswith(f"model.{stage}.") for stage in later)
    }
    weights = {
        name: value
        for name, value in checkpoint["state_dict"].items()
        if not any(name.startswith(f"losses.{stage}.") for stage in later)
    }
    kept = {key: value for key, value in checkpoint.items() if not key.startswith("hyper_parameters")}
    return {**kept, "state_dict": weights, checkpoints.KEY: {**own, "identity": identity, "shared": True}}


def keys_of(config: Mapping[str, Any], data: NoisyDataModule) -> dict[str, str]:
    """Return the name of each stage's entry, in the stages' order.

    Args:
        config: the whole configuration of a fit, in plain types.
        data: its datamodule, after ``setup``.
    """
    model = config["model"]["init_args"]
    common = {
        "seed": config["seed_everything"],
        "trainer": {key: value for key, value in config["trainer"].items() if key not in SHOWN_AND_KEPT},
        "data": {**config["data"], "init_args": {k: v for k, v in config["data"]["init_args"].items() if k != "root"}},
        "model": [config["model"]["class_path"], {key: value for key, value in model.items() if key not in STAGES}],
        "inputs": data.fingerprint(),
        "labels": data.noise_report()["sha256"],
        "code": code_fingerprint(),
        "versions": {name: version(name) for name in ("torch", "torchvision", "pytorch_lightning", "numpy")},
    }
    keys: dict[str, str] = {}
    so_far: list[Any] = [common, _files_named_in(common)]
    for stage in STAGES:
        if model.get(stage) is None:
            continue
        so_far += [{stage: model[stage]}, _files_named_in(model[stage])]
        keys[stage] = hashlib.sha256(json.dumps(so_far, sort_keys=True).encode()).hexdigest()[:32]
    return keys


def code_fingerprint() -> str:
    """Return the SHA-256 of the package's source files."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for folder in importlib.util.find_spec(package).submodule_search_locations or []:  # type: ignore[union-attr]
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(f"{package} {path.relative_to(folder)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _files_named_in(config: Any) -> list[tuple[str, str]]:
    """Find what a configuration names but does not hold, and its SHA-256: files, and the modules of classes."""
    if isinstance(config, Mapping):
        return [found for key in sorted(config) for found in _files_of(key, config[key])]
    if isinstance(config, list):
        return [found for each in config for found in _files_named_in(each)]
    return [(config, _sha256(Path(config)))] if isinstance(config, str) and Path(config).is_file() else []


def _files_of(key: str, value: Any) -> list[tuple[str, str]]:
    if key != "class_path" or str(value).startswith("ldmi_lightning."):
        return _files_named_in(value)
    module = str(value).rpartition(".")[0]
    try:
        spec = importlib.util.find_spec(module) if module else None
    except ModuleNotFoundError:  # a class within a class: its module is found a level higher
        return _files_of(key, module)
    source = Path(spec.origin or "") if spec is not None else Path()
    return [(str(value), _sha256(source))] if source.is_file() else []


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
