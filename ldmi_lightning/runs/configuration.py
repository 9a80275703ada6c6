"""What a run's configuration says, read as plain data: its stages, and what leaves its weights alone."""

from collections.abc import Mapping
from typing import Any

STAGES = ("warmup", "robust", "refine")
"""The stages that have a key of their own; others follow them, under any name, in the mapping ``more_stages``."""

MORE_STAGES = "more_stages"

SHOWN_AND_KEPT = ("logger", "default_root_dir", "enable_progress_bar", "enable_model_summary", "log_every_n_steps")
"""The Trainer's settings of what a run shows and keeps, which leave its weights alone."""


def model_arguments(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments of the model in a run's whole configuration."""
    return config["model"].get("init_args") or {}


def stages_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of each stage that a run has, in order.

    >>> model = {"warmup": {"epochs": 2}, "robust": None, "more_stages": {"polish": {"epochs": 1}}, "warm_start": None}
    >>> stages_in({"model": {"class_path": "LDMIModule", "init_args": model}})
    {'warmup': {'epochs': 2}, 'polish': {'epochs': 1}}
    """
    model = model_arguments(config)
    named = {**{name: model.get(name) for name in STAGES}, **(model.get(MORE_STAGES) or {})}
    return {name: stage for name, stage in named.items() if stage is not None}


def without_stages(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the model but its stages.

    >>> without_stages({"model": {"init_args": {"warmup": {"epochs": 2}, "more_stages": None, "warm_start": "a.ckpt"}}})
    {'warm_start': 'a.ckpt'}
    """
    return {key: value for key, value in model_arguments(config).items() if key not in (*STAGES, MORE_STAGES)}
