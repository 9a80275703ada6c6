"""Label-noise injectors, on the contract of :mod:`ldmi_lightning.noise.base`."""

from ldmi_lightning.noise.base import Noise, draw_exactly, draw_labels, fingerprint, report
from ldmi_lightning.noise.class_noise import (
    ClassDependentNoise,
    MatrixNoise,
    NoNoise,
    PairFlipNoise,
    SymmetricNoise,
    TransitionNoise,
)
from ldmi_lightning.noise.crowd import CrowdLabels
from ldmi_lightning.noise.human import HumanNoise
from ldmi_lightning.noise.instance import InstanceDependentNoise
from ldmi_lightning.noise.label_file import LabelFileNoise

__all__ = [
    "ClassDependentNoise",
    "CrowdLabels",
    "HumanNoise",
    "InstanceDependentNoise",
    "LabelFileNoise",
    "MatrixNoise",
    "NoNoise",
    "Noise",
    "PairFlipNoise",
    "SymmetricNoise",
    "TransitionNoise",
    "draw_exactly",
    "draw_labels",
    "fingerprint",
    "report",
]
