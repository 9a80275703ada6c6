"""Finished stages that runs share: one that agrees with an earlier run up to some stage begins after it.

An entry is a folder whose name is the SHA-256 of everything that its stage's weights depend on: the configuration up to and
including the stage, the inputs, the noisy labels, the code and the versions. It holds the stage's best and last checkpoint,
and the rows of ``metrics.csv`` so far. It appears complete or not at all, and its checkpoints are checked byte for byte
before they are used. A run that begins after a shared stage resumes from its last checkpoint: its weights are those of a run
that trained the stage itself, bit for bit. A symbolic link in the cache is never followed, since others may write there, too.
"""

import hashlib
import importlib.util
import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from ldmi_lightning import checkpoints, files
from ldmi_lightning.errors import UserError
from ldmi_lightning.runs.configuration import MORE_STAGES, SHOWN_AND_KEPT, stages_in, without_stages
from ldmi_lightning.runs.folder import METRICS, checkpoint_name

BEST, LAST = "best.ckpt", "last.ckpt"
KINDS: dict[Literal["best", "last"], str] = {"best": BEST, "last": LAST}
PACKAGES = ("ldmi_lightning", "ldmi_lightning.datamodules", "ldmi_lightning.models")


class Fingerprinted(Protocol):
    """What the cache asks of a datamodule, after ``setup``."""

    def fingerprint(self) -> str:
        """Return a digest of the inputs."""

    def noise_report(self) -> dict[str, Any]:
        """Return ``sha256``, a digest of the noisy labels, among others."""


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
        """Return the checkpoint to resume from after a stage that is kept."""
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
        if self._refuse_links(entry) or not entry.is_dir():
            return False
        try:
            for name in (LAST, *([BEST] if (entry / BEST).exists() else [])):
                checkpoints.read_checkpoint(entry / name)
        except UserError:
            shutil.rmtree(entry, ignore_errors=True)  # damaged: no run shall meet it again
            return False
        return True

    def _refuse_links(self, entry: Path) -> bool:
        """Remove an entry that is a symbolic link, or holds one, and say so; what it points to is left alone."""
        linked = entry.is_symlink()
        if not linked and not (entry.is_dir() and any(each.is_symlink() for each in entry.iterdir())):
            return False
        if linked:
            entry.unlink(missing_ok=True)
        else:
            shutil.rmtree(entry)  # which removes links themselves
        print(
            f"{entry} {'is' if linked else 'holds'} a symbolic link, which is not followed: it is removed.", flush=True
        )
        return True

    def bring(self, stages: Sequence[str], run_folder: Path) -> None:
        """Put the checkpoints of shared stages, and their rows, where the run would have left them itself."""
        for stage in stages:
            for which, name in KINDS.items():
                if (self.entry(stage) / name).exists():
                    files.copy(self.entry(stage) / name, run_folder / checkpoint_name(stage, which))
        if stages and (self.entry(stages[-1]) / METRICS).exists():
            files.copy(self.entry(stages[-1]) / METRICS, run_folder / METRICS)

    def keep(self, stage: str, run_folder: Path) -> None:
        """Keep a stage that has ended; where another run was quicker, leave its entry alone.

        A stage of which the run holds no last checkpoint, since weights were given in its place, is none to keep.

        Raises:
            OSError: the entry cannot be written.
            UserError: a checkpoint of the run's own cannot be read.
        """
        entry = self.entry(stage)
        if not self._refuse_links(entry) and entry.is_dir():
            return
        if not (run_folder / checkpoint_name(stage, "last")).exists():
            return
        unfinished = self.folder / f"{tag_of(run_folder)}-{uuid.uuid4().hex}{files.UNFINISHED}"
        unfinished.mkdir(parents=True)
        try:
            later = list(self.keys)[list(self.keys).index(stage) + 1 :]
            for which, name in KINDS.items():
                own = run_folder / checkpoint_name(stage, which)
                if own.exists():
                    content = without(checkpoints.read_checkpoint(own), later)
                    files.write_with(unfinished / name, partial(torch.save, content))
            if (run_folder / METRICS).exists():
                files.copy(run_folder / METRICS, unfinished / METRICS)
            unfinished.rename(entry)
        except OSError:
            if entry.is_symlink() or not entry.is_dir():  # it is where another run was quicker
                raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def tag_of(run_folder: Path) -> str:
    """Return what the name of an entry that a run has not yet written to its end begins with."""
    return hashlib.sha256(str(run_folder.resolve()).encode()).hexdigest()[: files.TAG]


def remove_unfinished(folder: str | Path, run_folder: Path) -> None:
    """Remove what the run of a folder was keeping when it was killed; other runs may be writing theirs."""
    for left in Path(folder).glob(f"{tag_of(run_folder)}-*{files.UNFINISHED}"):
        shutil.rmtree(left, ignore_errors=True)


def without(checkpoint: dict[str, Any], later: Sequence[str]) -> dict[str, Any]:
    """Leave out of a checkpoint what it says of later stages, which the runs that share it need not have in common."""
    own = checkpoint[checkpoints.KEY]
    places = [f"{above}.{stage}" for stage in later for above in ("model", f"model.{MORE_STAGES}")]
    identity = {
        key: value
        for key, value in own["identity"].items()
        if not any(key == place or key.startswith(f"{place}.") for place in places)
    }
    weights = {
        name: value
        for name, value in checkpoint["state_dict"].items()
        if not any(name.startswith(f"losses.{stage}.") for stage in later)
    }
    kept = {key: value for key, value in checkpoint.items() if not key.startswith("hyper_parameters")}
    return {**kept, "state_dict": weights, checkpoints.KEY: {**own, "identity": identity, "shared": True}}


def keys_of(config: Mapping[str, Any], data: Fingerprinted, stages: Sequence[str] | None = None) -> dict[str, str]:
    """Return the name of each stage's entry, in the stages' order.

    Args:
        config: the whole configuration of a fit, in plain types.
        data: its datamodule, after ``setup``.
        stages: names of the stages that the model really has; ``None`` for those of the configuration.

    Raises:
        UserError: the configuration does not hold the model's stages, so that it cannot tell two of them apart.
    """
    told = stages_in(config)
    if not told or list(stages or told) != list(told):
        real = f", but it has {', '.join(stages)}" if stages else ""
        raise UserError(
            f"--stage_cache tells stages apart by the configuration, which gives {', '.join(told) or 'none'} to "
            f"{config['model']['class_path']}{real}: leave it out, or give all stages as model.init_args."
        )
    common = {
        "seed": config["seed_everything"],
        "trainer": {key: value for key, value in config["trainer"].items() if key not in SHOWN_AND_KEPT},
        "data": {**config["data"], "init_args": {k: v for k, v in config["data"]["init_args"].items() if k != "root"}},
        "model": [config["model"]["class_path"], without_stages(config)],
        "inputs": data.fingerprint(),
        "labels": data.noise_report()["sha256"],
        **{key: config[key] for key in ("fold", "group") if config.get(key) is not None},
        "code": code_fingerprint(),
        "versions": {name: version(name) for name in ("torch", "torchvision", "pytorch_lightning", "numpy")},
    }
    keys: dict[str, str] = {}
    so_far: list[Any] = [common, _files_named_in(common)]
    for name, stage in told.items():
        so_far += [{name: stage}, _files_named_in(stage)]
        keys[name] = hashlib.sha256(json.dumps(so_far, sort_keys=True).encode()).hexdigest()[:32]
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
