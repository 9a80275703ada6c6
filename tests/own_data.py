"""Data of one's own that is made ready, or refused: shared by its tests."""

from collections.abc import Callable

import pytest

from ldmi_lightning.datamodules import NoisyDataModule
from ldmi_lightning.errors import UserError


def ready(data: NoisyDataModule) -> NoisyDataModule:
    data.prepare_data()
    data.setup("fit")
    return data


def refusal(make: Callable[[], NoisyDataModule]) -> str:
    """Return the line that making the data, or setting it up, must end in."""
    with pytest.raises(UserError) as caught:
        ready(make())
    return str(caught.value)
