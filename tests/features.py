"""An encoder that counts, numbers for it, and features of them: shared by the tests of encoded data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ldmi_lightning.datamodules import (
    EncodedDataModule,
    NoisyDataModule,
    TensorDataModule,
)

N = 700
CPU = torch.device("cpu")


class Counting(nn.Module):
    """Remembers which batches it has seen; it maps five numbers to three."""

    def __init__(self, fail_after: int | None = None) -> None:
        super().__init__()
        self.net = nn.Linear(5, 3)
        with torch.no_grad():
            self.net.weight.copy_(torch.arange(15.0).view(3, 5) / 10)
            self.net.bias.zero_()
        self.__dict__["_seen"], self.__dict__["_fail_after"] = (
            [],
            fail_after,
        )  # no settings: the same encoder all the same

    @property
    def seen(self) -> list[int]:
        return self.__dict__["_seen"]

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        if len(self.seen) == self.__dict__["_fail_after"]:
            raise KeyboardInterrupt
        self.seen.append(len(x))
        features: Tensor = self.net(x)
        return features


def numbers(seed: int = 0, n: int = N) -> NDArray[np.float32]:
    return (np.random.RandomState(seed).randn(n, 5) + np.arange(n)[:, None] % 2).astype(np.float32)


def tables(x: Any = None, **options: Any) -> TensorDataModule:
    x = numbers() if x is None else x
    return TensorDataModule(x, np.arange(len(x)) % 2, batch_size=50, **options)


def encoded(
    folder: Path, encoder: nn.Module | None = None, data: NoisyDataModule | None = None, **options: Any
) -> EncodedDataModule:
    given = EncodedDataModule(data or tables(), encoder or Counting(), cache=str(folder / "features"), **options)
    given.setup("fit")
    return given


def stored(data: EncodedDataModule, name: str = "train") -> Tensor:
    data.encode(name)
    x: Tensor = data.splits[name].x
    return x


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out
