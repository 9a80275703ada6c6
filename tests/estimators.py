"""LDMIClassifier, quick, and rows, labels and a net for it: shared by its tests."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ldmi_lightning import LDMIClassifier


def quick(**settings: Any) -> LDMIClassifier:
    return LDMIClassifier(**{"warmup_epochs": 1, "epochs": 1, "lr": 0.05, "random_state": 0, **settings})


def blobs(n: int = 400, seed: int = 0, classes: int = 2, spread: float = 1.0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return rows around a centre for each class, on features of very different scales, and their classes."""
    rng = np.random.RandomState(seed)
    y = np.arange(n) % classes
    centres = 2 * np.eye(classes, 5)
    return (centres[y] + spread * rng.randn(n, 5)) * [1, 10, 1e3, 1e-3, 1] + [0, 5, 0, 0, -1e2], y


def flip(y: NDArray[Any], rate: float = 0.6, seed: int = 1) -> NDArray[Any]:
    """Give label 0 to that share of class 1: T = [[1, 0], [rate, 1 - rate]]."""
    return np.where((y == 1) & (np.random.RandomState(seed).rand(len(y)) < rate), 0, y)


def make_net(features: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(features, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, classes))
