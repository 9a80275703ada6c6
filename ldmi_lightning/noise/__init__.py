"""Label-noise injectors, on the contract of :mod:`ldmi_lightning.noise.base`."""

from ldmi_lightning.noise.base import Noise, draw_labels, fingerprint, report
from ldmi_lightning.noise.class_noise import (
    ClassDependentNoise,
    MatrixNoise,
    NoNoise,
    PairFlipNoise,
    SymmetricNoise,
)

__all__ = [
    "ClassDependentNoise",
    "MatrixNoise",
    "NoNoise",
    "Noise",
    "PairFlipNoise",
    "SymmetricNoise",
    "draw_labels",
    "fingerprint",
    "report",
]
