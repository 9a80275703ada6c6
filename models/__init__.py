"""Backbones, plain ``nn.Module``s that map inputs to ``(N, num_classes)`` logits, and encoders that give features."""

from .cifar_cnn import CIFARCNN
from .digits_cnn import DigitsCNN
from .encoders import Probe, built_by
from .fashion_cnn import FashionCNN
from .resnet34 import ResNet34
from .resnet50 import ResNet50
from .transformer import TextClassifier, TextEncoder
from .vgg16_bn import VGG16BN
from .word_cnn import WordCNN

__all__ = [
    "CIFARCNN",
    "VGG16BN",
    "DigitsCNN",
    "FashionCNN",
    "Probe",
    "ResNet34",
    "ResNet50",
    "TextClassifier",
    "TextEncoder",
    "WordCNN",
    "built_by",
]
