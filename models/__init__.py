"""The paper's backbones: plain ``nn.Module``s that map inputs to ``(N, num_classes)`` logits."""

from .digits_cnn import DigitsCNN
from .fashion_cnn import FashionCNN

__all__ = ["DigitsCNN", "FashionCNN"]
