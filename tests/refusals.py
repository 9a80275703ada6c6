"""The one line in which a call is refused: shared by many tests."""

from collections.abc import Callable

import pytest

from ldmi_lightning.errors import UserError


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)
