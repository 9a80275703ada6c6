"""The backbones: shapes, sizes and, for the paper's net, the arithmetic."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, linear, max_pool2d, relu

from ldmi_lightning.models import DigitsCNN, FashionCNN

BACKBONES = [(DigitsCNN, (1, 8, 8)), (FashionCNN, (1, 28, 28))]
Backbone = Callable[[int], nn.Module]


@pytest.mark.parametrize(("backbone", "shape"), BACKBONES)
@pytest.mark.parametrize("num_classes", [2, 10, 14])
def test_logits_have_one_column_per_class(backbone: Backbone, shape: tuple[int, ...], num_classes: int) -> None:
    assert backbone(num_classes)(torch.zeros(3, *shape)).shape == (3, num_classes)


@pytest.mark.parametrize(("backbone", "shape"), BACKBONES)
def test_every_parameter_learns(backbone: Backbone, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = backbone(4)
    model(torch.randn(16, *shape)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(("backbone", "shape"), BACKBONES)
def test_samples_do_not_touch_each_other(backbone: Backbone, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = backbone(4).eval(), torch.randn(5, *shape)
    torch.testing.assert_close(model(x)[2:3], model(x[2:3]))


def test_fashion_cnn_has_the_papers_layers() -> None:
    sizes = [tuple(parameter.shape) for parameter in FashionCNN(2).parameters()]
    assert sizes == [(16, 1, 5, 5), (16,), (32, 16, 5, 5), (32,), (2, 512), (2,)]


@pytest.mark.parametrize(("num_classes", "count"), [(2, 14_274), (10, 18_378)])
def test_fashion_cnn_has_this_many_parameters(num_classes: int, count: int) -> None:
    assert sum(parameter.numel() for parameter in FashionCNN(num_classes).parameters()) == count


def test_fashion_cnn_is_two_convolutions_with_pooling_and_a_linear_layer() -> None:
    torch.manual_seed(0)
    model, x = FashionCNN(2).eval(), torch.randn(3, 1, 28, 28)
    w1, b1, w2, b2, w3, b3 = model.parameters()
    hidden = max_pool2d(relu(conv2d(x, w1, b1)), 2)
    hidden = max_pool2d(relu(conv2d(hidden, w2, b2)), 2)
    torch.testing.assert_close(model(x), linear(hidden.flatten(1), w3, b3))


def test_fashion_cnn_drops_half_of_the_features_in_training_only() -> None:
    torch.manual_seed(0)
    model, x = FashionCNN(2), torch.randn(1, 1, 28, 28)
    dropout = next(layer for layer in model if isinstance(layer, nn.Dropout))
    assert dropout.p == 0.5
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
