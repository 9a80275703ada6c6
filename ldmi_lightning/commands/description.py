"""What a fit is about to do, in plain words."""

import pytorch_lightning as pl

from ldmi_lightning.commands.testing import kind_of_test_labels
from ldmi_lightning.datamodules import NoisyDataModule
from ldmi_lightning.noise import NoNoise
from ldmi_lightning.training.module import LDMIModule


def describe(module: LDMIModule, data: pl.LightningDataModule) -> str:
    """Say what labels are learnt from, what each stage does, and how one of them is chosen."""
    lines, seen_on = [], "labels as given"
    if isinstance(data, NoisyDataModule):
        labels, seen_on = describe_labels(data)
        lines.append(f"{type(data).__name__}: {data.num_classes} classes; {labels}.")
    trained = [name for name in module.stages if name != "warmup" or module.warm_start is None]
    for name, stage in module.stages.items():
        if name not in trained:
            lines.append(f"{name}: skipped, for the weights of {module.warm_start}.")
            continue
        lines.append(
            f"{name}: {type(stage.loss).__name__} for up to {stage.epochs} epochs; keeps the epoch with the "
            f"{'highest' if stage.selecting_mode == 'max' else 'lowest'} {stage.selected_by}, seen on {seen_on}."
        )
    if len(trained) > 1:
        held_out = f"held-out {seen_on}"
        lines.append(
            f"One of these stages is kept to predict, chosen on {held_out}: a later one only where these say "
            "that it knows more."
        )
    return "\n".join(lines)


def describe_labels(data: NoisyDataModule) -> tuple[str, str]:
    """Say in which splits labels are noisy, and what kind of labels an epoch is selected on."""
    words = {"train": "training", "val": "validation", "test": "test"}
    injected = () if isinstance(data.noise, NoNoise) else data.noisy_splits
    doubtful = [split for split in words if not data.labels_are_true(split)]
    as_given = [] if "test" in doubtful or "clean" in kind_of_test_labels(data) else ["test"]
    rate = getattr(data.noise, "rate", None)
    injector = type(data.noise).__name__ + (f" at rate {rate:g}" if rate is not None else "")
    kinds = {
        f"{injector} on %s labels": [split for split in words if split in injected],
        "%s labels may be wrong as given": doubtful,
        "%s labels are as given": as_given,
        "%s labels are clean": [split for split in words if split not in {*injected, *doubtful, *as_given}],
    }
    said = [
        kind % " and ".join(words[split] for split in splits).replace(" and ", ", ", len(splits) - 2)
        for kind, splits in kinds.items()
        if splits
    ]
    seen_on = "noisy labels" if "val" in injected else "labels as given" if "val" in doubtful else "clean labels"
    return "; ".join(said), seen_on
