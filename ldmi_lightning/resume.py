"""What must agree before a run goes on from a checkpoint: who wrote it, the configuration, and the weights' shapes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ldmi_lightning import checkpoints
from ldmi_lightning.errors import UserError
from ldmi_lightning.predictions import labelled_data
from ldmi_lightning.seeding import base_seed
from ldmi_lightning.stages import Progress
from ldmi_lightning.trainer_rules import settings_of

if TYPE_CHECKING:
    from ldmi_lightning.module import LDMIModule


def identity_of(module: "LDMIModule", progress: Progress) -> dict[str, Any]:
    """Return what must stay the same when a run goes on, as plain values under the names of the options."""
    identity: dict[str, Any] = {
        "model.num_classes": module.num_classes,
        "model.backbone": type(module.backbone).__name__,
    }
    for name, stage in module.stages.items():
        identity |= {f"model.{name}.loss": repr(stage.loss), f"model.{name}.monitor": stage.selected_by}
    ended = [*progress.finished, *([progress.stage] if progress.over else [])]
    identity |= {f"model.{name}.epochs": module.stages[name].epochs for name in ended if name in module.stages}
    plain = {key: value for key, value in module.hparams.items() if key not in ("_instantiator", "_class_path")}
    free = {f"model.{name}.{key}" for name in module.stages for key in ("epochs", "patience")}
    identity |= {key: value for key, value in checkpoints.flatten(plain, "model").items() if key not in free}
    if data := labelled_data(module.trainer):
        identity["data.batch_size"] = data.batch_size
        noise = data.noise_report()
        identity |= {f"data.noise ({key})": noise[key] for key in ("injector", "seed", "requested_rate", "sha256")}
    identity["seed_everything"] = base_seed()
    return identity | settings_of(module.trainer)


def progress_of(checkpoint: Mapping[str, Any]) -> Progress:
    """Return how far the stages had come, or refuse a checkpoint that cannot be resumed."""
    saved = checkpoint.get(checkpoints.KEY)
    missing = [key for key in checkpoints.TO_RESUME if key not in checkpoint]
    if saved is None or missing:
        fault = f"it lacks {', '.join(missing)}" if saved else "it is none of LDMIModule's"
        raise UserError(f"This checkpoint cannot be resumed: {fault}. Give the last.ckpt of a run.")
    try:
        return Progress(**saved["progress"])
    except TypeError as error:
        raise UserError(
            f"This checkpoint cannot be resumed: another version of ldmi_lightning wrote it ({error}). Begin a new run "
            "without --ckpt_path."
        ) from error


def is_shared(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint ends a stage that runs share, and knows nothing of later ones."""
    return bool(checkpoint.get(checkpoints.KEY, {}).get("shared"))


def refuse_another_run(checkpoint: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that is not the one of the checkpoint."""
    saved = checkpoint[checkpoints.KEY]["identity"]
    if is_shared(checkpoint):
        identity = {key: identity.get(key) for key in saved}
    if changed := checkpoints.difference(saved, identity):
        raise UserError(
            f"This run is not the one that the checkpoint comes from: {changed}. Only epochs of a stage not yet "
            "finished, patience, loggers and devices may change. Repeat the setting, or begin a new run without "
            "--ckpt_path."
        )


def refuse_misfit(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse weights of other names or shapes; a loss's buffers take their size from the checkpoint."""
    own = {name: saved.get(name, value) if name.startswith("losses.") else value for name, value in own.items()}
    if fault := checkpoints.misfit(saved, own):
        raise UserError(
            f"The checkpoint's weights are not this model's: {fault}. Give the configuration of the run that the "
            "checkpoint comes from: --config RUN/config.yaml."
        )
