"""What must agree before a run is resumed from a checkpoint: who wrote it, the configuration, the data, and the shapes."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ldmi_lightning import checkpoints
from ldmi_lightning.batch import LabelledData
from ldmi_lightning.errors import UserError
from ldmi_lightning.seeding import base_seed
from ldmi_lightning.training.selection import Choice
from ldmi_lightning.training.stages import Progress, Stage, option_of


def identity_of(
    model: Mapping[str, Any],
    stages: Mapping[str, Stage],
    hparams: Mapping[str, Any],
    trainer: Mapping[str, Any],
    data: LabelledData | None,
) -> dict[str, Any]:
    """Return what must stay the same when a run is resumed, as plain values under the names of the options.

    Args:
        model: what the model says of itself.
        stages: its stages.
        hparams: its hyperparameters.
        trainer: the Trainer's settings that change what is learnt.
        data: the datamodule, after ``setup``; ``None`` for someone else's, which cannot speak of its labels.
    """
    identity = dict(model)
    for name, stage in stages.items():
        identity |= {f"{option_of(name)}.loss": repr(stage.loss), f"{option_of(name)}.monitor": stage.selected_by}
    plain = {key: value for key, value in hparams.items() if key not in ("_instantiator", "_class_path")}
    free = {f"{option_of(name)}.{key}" for name in stages for key in ("epochs", "patience")}
    identity |= {key: value for key, value in checkpoints.flatten(plain, "model").items() if key not in free}
    if data is not None:
        identity |= data.identity()
    return identity | {"seed_everything": base_seed()} | dict(trainer)


def course_of(checkpoint: Mapping[str, Any]) -> tuple[Progress, Choice]:
    """Return how far the stages had come, or refuse a checkpoint that cannot be resumed."""
    saved = checkpoint.get(checkpoints.KEY)
    missing = [key for key in checkpoints.TO_RESUME if key not in checkpoint]
    if saved is None or missing:
        fault = f"it lacks {', '.join(missing)}" if saved else "it is none of LDMIModule's"
        raise UserError(f"This checkpoint cannot be resumed: {fault}. Give the last.ckpt of a run.")
    try:
        return Progress(**saved["progress"]), Choice.from_state_dict(saved["choice"])
    except (TypeError, KeyError) as error:
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
            "--ckpt_path, in a folder of its own."
        )


def refuse_misfit(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse weights of other names or shapes; a loss's buffers take their size from the checkpoint."""
    own = {name: saved.get(name, value) if name.startswith("losses.") else value for name, value in own.items()}
    if fault := checkpoints.misfit(saved, own):
        raise UserError(
            f"The checkpoint's weights are not this model's: {fault}. Give the configuration of the run that the "
            "checkpoint comes from: --config RUN/config.yaml."
        )


def order_of_classes(saved: Sequence[str] | None, now: Sequence[str] | None) -> list[int] | None:
    """Return where each class of the data stands among those that the weights were trained for.

    Returns:
        Positions in ``saved``, one for each name in ``now``; ``None`` where the order is the same, or names are unknown.

    Raises:
        UserError: the names are others.

    >>> order_of_classes(["cat", "dog"], ["dog", "cat"])
    [1, 0]
    """
    if not saved or not now or list(saved) == list(now):
        return None
    if len(set(saved)) == len(saved) and sorted(saved) == sorted(now):
        return [list(saved).index(name) for name in now]
    at = next(
        (i for i, (one, other) in enumerate(zip(saved, now, strict=False)) if one != other),
        min(len(saved), len(now)),
    )
    here, there = (names[at] if at < len(names) else "missing" for names in (now, saved))
    raise UserError(
        f"Class {at} of the data is {here}, but the checkpoint was trained with {there} as class {at}: its predictions would "
        f"bear wrong names. Give data with the classes {', '.join(map(str, saved[:20]))}, in any order."
    )
