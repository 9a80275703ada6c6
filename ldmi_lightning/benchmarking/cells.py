"""One cell of a grid: its name, the key of its content, and what its folder holds of it."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ldmi_lightning.runs.configuration import SHOWN_AND_KEPT, stages_in, without_stages
from ldmi_lightning.runs.folder import CONFIG, RESULTS

OF_DATA = {"root", "cache", "num_workers"}
AS_BEFORE = {"decay_norms_and_biases": True, "interval": "epoch", "verbose": "deprecated"}
"""Options that published results are without, and the value that leaves a run as it was: younger ones, and what schedulers had
until torch 2.6."""
WITHOUT_EFFECT = {
    "trainer": {
        # where a run is carried out,
        *("accelerator", "strategy", "devices", "num_nodes"),
        # and what it shows and keeps
        *SHOWN_AND_KEPT,
        *("profiler", "enable_autolog_hparams", "model_registry"),
    },
    "data.init_args": OF_DATA,
    "data.init_args.data.init_args": OF_DATA,
    "": {"ckpt_path", "weights_only", "stage_cache"},
}
"""The settings that say nothing of a run's result: the names by the place where they stand."""


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        data: name of the data set in the grid.
        noise: name of the noise pattern.
        rate: noise amount r; ``None`` where the noise has none.
        method: name of the method.
        seed: of the run and of the noise.
        config: the whole configuration of ``ldmi fit``.
    """

    data: str
    noise: str
    rate: float | None
    method: str
    seed: int
    config: dict[str, Any]

    @cached_property
    def key(self) -> str:
        """The key of the configuration."""
        return content_key(self.config)

    @cached_property
    def prefixes(self) -> list[str]:
        """The keys of the run up to each of its stages, the whole included: runs share the stages up to an equal one."""
        model, stages = self.config["model"], list(stages_in(self.config).items())
        parts = [{**without_stages(self.config), **dict(stages[: n + 1])} for n in range(len(stages))]
        return [content_key({**self.config, "model": {**model, "init_args": part}}) for part in parts]

    @property
    def name(self) -> str:
        """A name that a folder can have, and that no other cell of the grid has."""
        rate = [] if self.rate is None else [f"r{self.rate:g}"]
        parts = [self.data, self.noise, *rate, self.method, f"seed{self.seed}"]
        return "-".join(re.sub(r"[^\w.]+", "-", part).strip("-") for part in parts)

    def __str__(self) -> str:
        """Say which cell it is."""
        rate = [] if self.rate is None else [f"r = {self.rate:g}"]
        return ", ".join([self.data, self.noise, *rate, self.method, f"seed {self.seed}"])

    def folder(self, output: Path) -> Path:
        """Return the folder of the cell's own."""
        return output / "cells" / f"{self.name}-{self.key[:8]}"

    def results(self, output: Path) -> dict[str, Any] | None:
        """Return the content of the finished cell's ``results.json``; ``None`` for a cell that is not finished.

        A run of the same configuration counts whatever its cell is called: a setting that was tried, or another grid's.
        """
        others = (path.parent for path in (output / "cells").glob(f"*-{self.key[:8]}/*/{CONFIG}"))
        for run in [*self.runs(output), *sorted(others)]:
            try:
                found = json.loads((run / RESULTS).read_text())
                config = yaml.safe_load((run / CONFIG).read_text())
                if content_key(config) == self.key and any(found["stages"].values()):
                    return dict(found)
            except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
                continue  # not there yet, or cut short on its way here
        return None

    def runs(self, output: Path) -> list[Path]:
        """Return the folders of the cell's runs."""
        return sorted(path.parent for path in self.folder(output).glob(f"*/{CONFIG}"))


def data_within(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the configuration of the data set that is encoded; ``None`` for a run on a data set as it is.

    >>> data_within({"data": {"class_path": "EncodedDataModule", "init_args": {"data": {"class_path": "MRDataModule"}}}})
    {'class_path': 'MRDataModule'}
    """
    within = (config["data"].get("init_args") or {}).get("data")
    return within if isinstance(within, Mapping) and "class_path" in within else None


def content_key(config: Mapping[str, Any]) -> str:
    """Return 64 hex digits that are the same for configurations that ask for the same result.

    Options that are off (``null`` or ``false``) do not count, nor do those that do what was done before there were any, so that
    a new one leaves old keys as they are.

    >>> one = {"trainer": {"accelerator": "cpu"}, "data": {"init_args": {"root": "here", "batch_size": 8}}}
    >>> two = {"trainer": {"devices": 2}, "data": {"init_args": {"root": None, "batch_size": 8}}}
    >>> content_key(one) == content_key(two), content_key(one) == content_key({})
    (True, False)
    """
    return hashlib.sha256(json.dumps(_counting(config, ""), sort_keys=True).encode()).hexdigest()


def _counting(value: Any, place: str) -> Any:
    """Leave out what does not count; empty mappings neither."""
    if not isinstance(value, Mapping):
        return value
    parts = {
        str(key): _counting(each, f"{place}.{key}".lstrip("."))
        for key, each in value.items()
        if key not in WITHOUT_EFFECT.get(place, ())
    }
    return {
        key: each
        for key, each in parts.items()
        if each is not None and each is not False and each != {} and AS_BEFORE.get(key) != each
    }
