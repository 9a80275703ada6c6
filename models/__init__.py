"""The paper's backbones: plain ``nn.Module``s that map inputs to ``(N, num_classes)`` logits."""

from .cifar_cnn import CIFARCNN
from .digits_cnn import DigitsCNN
from .fashion_cnn import FashionCNN
from .resnet34 import ResNet34
from .resnet50 import ResNet50
from .vgg16_bn import VGG16BN
from .word_cnn import WordCNN

__all__ = ["CIFARCNN", "VGG16BN", "DigitsCNN", "FashionCNN", "ResNet34", "ResNet50", "WordCNN"]
