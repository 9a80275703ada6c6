"""Data sets as LightningDataModules with pluggable label noise: one file per data set over ``base.py``."""

from .base import Examples, NoisyDataModule
from .digits import DigitsDataModule
from .fashion_mnist import FashionMNISTDataModule

__all__ = ["DigitsDataModule", "Examples", "FashionMNISTDataModule", "NoisyDataModule"]
