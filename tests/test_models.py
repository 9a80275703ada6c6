"""The backbones: shapes, sizes and, for the paper's net, the arithmetic."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, linear, max_pool2d, relu
from torchvision.models.resnet import resnet34
from torchvision.models.vgg import cfgs, make_layers

from ldmi_lightning.errors import UserError
from ldmi_lightning.models import CIFARCNN, VGG16BN, DigitsCNN, FashionCNN, ResNet34, ResNet50, WordCNN
from ldmi_lightning.training.nets import second_like

BACKBONES = [(DigitsCNN, (1, 8, 8)), (FashionCNN, (1, 28, 28)), (CIFARCNN, (3, 32, 32))]
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


@pytest.mark.parametrize(
    "make",
    [
        lambda: DigitsCNN(4),
        lambda: FashionCNN(4),
        lambda: CIFARCNN(4),
        lambda: ResNet34(4),
        lambda: VGG16BN(2),
        lambda: WordCNN(2, 300),
        lambda: ResNet50(4),
    ],
    ids=["digits", "fashion", "cifar", "resnet34", "vgg16_bn", "words", "resnet50"],
)
def test_a_second_net_is_drawn_as_a_new_one_is(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    one = make()
    second = second_like(one)
    for (name, drawn), (_, first) in zip(second.named_parameters(), one.named_parameters(), strict=True):
        if first.ndim > 1 and first.numel() >= 2000:
            assert not torch.equal(drawn, first), name
            assert drawn.std().item() == pytest.approx(first.std().item(), rel=0.1), name


def test_a_second_pretrained_resnet50_has_the_given_weights_but_the_last_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(ResNet50(1000).state_dict(), tmp_path / "resnet50.pth")
    one = ResNet50(14, str(tmp_path / "resnet50.pth"))
    second = dict(second_like(one).named_parameters())
    same = {name for name, value in one.named_parameters() if torch.equal(value, second[name])}
    assert set(second) - same == {"fc.weight", "fc.bias"}


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


# -- nets for a GPU: one pass each --------------------------------------------------------------------------------------


def test_resnet34_is_torchvisions_with_a_stem_for_small_images() -> None:
    torch.manual_seed(0)
    model, theirs = ResNet34(10), resnet34(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    theirs.load_state_dict(model.state_dict())
    x = torch.randn(3, 3, 32, 32)
    stem = model.relu(model.bn1(model.conv1(x)))
    assert model.maxpool(stem).shape == (3, 64, 32, 32)
    logits = model(x)
    assert logits.shape == (3, 10)
    torch.testing.assert_close(logits, theirs(x))
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert sum(p.numel() for p in model.parameters()) == 21_282_122


def test_vgg16_bn_is_torchvisions_features_and_one_linear_layer() -> None:
    torch.manual_seed(0)
    model, features = VGG16BN(2), make_layers(cfgs["D"], batch_norm=True)
    for ours, theirs in zip(model, features, strict=False):
        assert type(ours) is type(theirs)
        theirs.load_state_dict(ours.state_dict(), strict=False)
        if isinstance(theirs, nn.Conv2d):
            nn.init.zeros_(theirs.bias)
    x, last = torch.randn(2, 3, 150, 150), model[-1]
    logits = model(x)
    assert logits.shape == (2, 2)
    assert last.in_features == 8192
    with torch.no_grad():
        torch.testing.assert_close(logits, last(features(x).flatten(1)))
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


# -- WordCNN ----------------------------------------------------------------------------------------------------------


def sentences(*lengths: int, width: int) -> torch.Tensor:
    """Return random token ids 1..29, padded with 0."""
    x = torch.randint(1, 30, (len(lengths), width), generator=torch.Generator().manual_seed(0))
    return x * (torch.arange(width) < torch.tensor(lengths)[:, None])


def test_word_cnn_has_the_papers_layers() -> None:
    sizes = [tuple(parameter.shape) for parameter in WordCNN(2, 1000).parameters()]
    convolutions = [shape for width in (3, 4, 5) for shape in ((100, 128, width), (100,))]
    assert sizes == [(1000, 128), *convolutions, (2, 300), (2,)]


@pytest.mark.parametrize("num_classes", [2, 5])
def test_word_cnn_is_the_largest_of_each_feature_over_a_sentence_and_a_linear_layer(num_classes: int) -> None:
    torch.manual_seed(0)
    net, x = WordCNN(num_classes, 30).eval(), sentences(9, 5, 12, 6, width=12)
    for sentence, logits in zip(x, net(x), strict=True):
        words = net.embedding.weight[sentence[sentence != 0]]
        pooled = []
        for conv in net.convolutions:
            weight, width = conv.weight, conv.weight.shape[2]
            windows = [words[i : i + width].T for i in range(len(words) - width + 1)]
            pooled.append(torch.stack([(weight * window).sum((1, 2)) + conv.bias for window in windows]).amax(0).relu())
        torch.testing.assert_close(logits, net.linear(torch.cat(pooled)), atol=1e-5, rtol=1e-4)


def test_word_cnn_does_not_see_how_far_a_batch_is_padded() -> None:
    torch.manual_seed(0)
    net, x = WordCNN(2, 30).eval(), sentences(1, 4, 5, 7, 20, width=20)
    logits = net(x)
    torch.testing.assert_close(net(nn.functional.pad(x, (0, 50))), logits)
    for sentence, expected in zip(x, logits, strict=True):
        alone = sentence[sentence != 0][None]
        torch.testing.assert_close(net(alone)[0], expected)
        torch.testing.assert_close(net(nn.functional.pad(alone, (0, 3)))[0], expected)


def test_word_cnn_learns_from_words_and_not_from_padding() -> None:
    torch.manual_seed(0)
    net = WordCNN(2, 30)
    net(sentences(3, 9, width=40)).square().sum().backward()
    assert net.embedding.weight.grad is not None
    assert not net.embedding.weight[0].any()
    assert not net.embedding.weight.grad[0].any()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())


def test_word_cnn_gradient_is_that_of_the_padded_arithmetic() -> None:
    torch.manual_seed(0)
    net, x = WordCNN(2, 30).eval(), sentences(3, 5, 8, width=8)
    lengths = (x != 0).sum(1).clamp(min=5)
    embedded, pooled = net.embedding(x).transpose(1, 2), []
    for conv in net.convolutions:
        features = conv(embedded)
        outside = torch.arange(features.shape[2]) > (lengths - conv.weight.shape[2])[:, None]
        pooled.append(features.masked_fill(outside[:, None], -torch.inf).amax(2).relu())
    padded = net.linear(torch.cat(pooled, 1))
    gradients = [torch.autograd.grad(out.square().sum(), [*net.parameters()]) for out in (net(x), padded)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_word_cnn_needs_no_number_from_the_device_elsewhere_than_on_the_cpu() -> None:
    # On "meta" there are no values, so that whatever waits for one raises.
    logits = WordCNN(3, 30).to("meta")(torch.zeros(4, 9, dtype=torch.int64, device="meta"))
    assert logits.shape == (4, 3)


def test_word_cnn_drops_half_of_the_features_in_training_only() -> None:
    torch.manual_seed(0)
    net, x = WordCNN(2, 30), sentences(9, width=9)
    assert net.dropout.p == 0.5
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))


@pytest.mark.parametrize("size", [None, 0, "20"])
def test_word_cnn_without_a_vocabulary_size_says_where_it_comes_from(size: Any) -> None:
    with pytest.raises(ValueError, match=f"needs vocab_size, the number of token ids, but got {size}"):
        WordCNN(2, size)


def test_a_word_net_given_a_tokenizers_dict_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r"one tensor, but got a dict: leave --data\.tokenizer out, or take a backbone"):
        WordCNN(num_classes=2, vocab_size=10)({"input_ids": torch.zeros(2, 5, dtype=torch.int64)})
