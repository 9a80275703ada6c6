"""A pickle that runs code, and a folder in which none may have run: shared by the tests of checkpoints."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch


class Payload:
    """Creates a file where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch payload-ran",)


@pytest.fixture(autouse=True)
def in_own_folder(in_own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder of one's own, in which no payload may have run at the end."""
    monkeypatch.syspath_prepend(str(in_own_folder))
    yield
    assert not Path("payload-ran").exists()


def saved(content: Any, **how: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()
