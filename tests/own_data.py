"""Data of one's own that is made ready, or refused: shared by its tests."""

from collections.abc import Callable

import refusals

from ldmi_lightning.datamodules import NoisyDataModule


def ready(data: NoisyDataModule) -> NoisyDataModule:
    data.prepare_data()
    data.setup("fit")
    return data


def refusal(make: Callable[[], NoisyDataModule]) -> str:
    """Return the line that making the data, or setting it up, must end in."""
    return refusals.refusal(lambda: ready(make()))
