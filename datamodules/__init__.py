"""Data sets as LightningDataModules with pluggable label noise: one file per data set over ``base.py``."""

from .base import Examples, NoisyDataModule
from .cifar10 import CIFAR10DataModule
from .clothing1m import Clothing1MDataModule
from .digits import DigitsDataModule
from .dogs_vs_cats import DogsVsCatsDataModule
from .encoding.encoded import EncodedDataModule
from .fashion_mnist import FashionMNISTDataModule
from .hugging_face import HFDataModule
from .image_folder import ImageFolderDataModule
from .mr import MRDataModule
from .tensor import TensorDataModule
from .text import TextDataModule

__all__ = [
    "CIFAR10DataModule",
    "Clothing1MDataModule",
    "DigitsDataModule",
    "DogsVsCatsDataModule",
    "EncodedDataModule",
    "Examples",
    "FashionMNISTDataModule",
    "HFDataModule",
    "ImageFolderDataModule",
    "MRDataModule",
    "NoisyDataModule",
    "TensorDataModule",
    "TextDataModule",
]
