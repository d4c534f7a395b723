import math

import pytest
import torch
import torchvision
from torch import nn

from vitbn.models.factory import build
from vitbn.models.published import alexnet, resnet34, vgg16
from vitbn.rng import generator

SIZE = {"channels": 3, "num_classes": 10}


def unfilled(make, **options):
    """The network without memory for its weights."""
    with torch.device("meta"):
        return make(**{**SIZE, "image_size": 224, **({} if make is resnet34 else {"dropout": 0.5}), **options})


@pytest.mark.parametrize(
    ("make", "count"), [(alexnet, 58_322_314), (vgg16, 134_301_514), (resnet34, 21_298_314 - 8_512)]
)
def test_parameter_counts_are_the_published_ones(make, count):
    assert sum(p.numel() for p in unfilled(make).parameters()) == count


def test_the_8512_that_resnet34_lacks_are_biases_of_its_convolutions():
    net = unfilled(resnet34)
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert sum(module.out_channels for module in convolutions) == 8_512
    assert all(module.bias is None for module in convolutions)


def test_alexnet_has_the_shapes_and_norms_of_2012():
    net = unfilled(alexnet)
    shapes, x = [], torch.zeros(1, 3, 227, 227, device="meta")
    for module in net:
        x = module(x)
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Linear)):
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [
        (96, 55, 55), (96, 27, 27), (256, 27, 27), (256, 13, 13), (384, 13, 13), (384, 13, 13), (256, 13, 13),
        (256, 6, 6), (256, 6, 6), (4096,), (4096,), (10,),
    ]  # fmt: skip
    norms = [module for module in net if isinstance(module, nn.LocalResponseNorm)]
    assert [(n.size, n.alpha, n.beta, n.k) for n in norms] == [(5, 1e-4, 0.75, 2)] * 2
    pixels = torch.randn(2, 256, 6, 6)
    assert torch.equal(nn.AdaptiveAvgPool2d(6)(pixels), pixels)  # what it does to 227 pixels


@pytest.mark.parametrize("make", [vgg16, resnet34])
def test_torchvisions_networks_are_torchvisions(make):
    ours = unfilled(make)
    with torch.device("meta"):
        expected = getattr(torchvision.models, make.__name__)(num_classes=10)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in expected.state_dict().items()}


def test_dropout_is_an_option():
    for make in (alexnet, vgg16):
        assert [m.p for m in unfilled(make, dropout=0.25).modules() if isinstance(m, nn.Dropout)] == [0.25, 0.25]


def started(layer):
    """Weights and bias as the layer starts."""
    layer.to_empty(device="cpu")
    torch.manual_seed(0)
    layer.reset_parameters()
    return layer.weight.detach(), layer.bias if layer.bias is None else layer.bias.detach()


def convolutions(net):
    return [module for module in net.modules() if isinstance(module, nn.Conv2d)]


def assert_normal(weight, std):
    assert weight.mean().abs() < 5 * std / math.sqrt(weight.numel())
    assert weight.std() == pytest.approx(std, rel=5 / math.sqrt(2 * weight.numel()))
    assert weight.abs().max() > 2.5 * std  # not uniform


def test_alexnet_starts_from_a_narrow_normal_and_three_biases_of_one():
    net = unfilled(alexnet)
    for layer, bias in zip([*convolutions(net), net[-1]], (0, 1, 0, 1, 1, 0), strict=True):
        weight, biases = started(layer)
        assert_normal(weight, 0.01)
        assert (biases == bias).all()


def test_vgg16_starts_from_xavier_uniform():
    net = unfilled(vgg16)
    for layer in convolutions(net)[:6]:
        weight, bias = started(layer)
        bound = math.sqrt(2) * math.sqrt(6 / (9 * (layer.in_channels + layer.out_channels)))
        assert bound * 0.99 < weight.abs().max() <= bound and (bias == 0).all()
        assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    weight, bias = started(net.classifier[-1])
    assert_normal(weight, 0.01)
    assert (bias == 0).all()


def test_resnet34_starts_from_he_normal_by_fan_out():
    net = unfilled(resnet34)
    for layer in convolutions(net)[:9]:
        weight, _ = started(layer)
        assert_normal(weight, math.sqrt(2 / (layer.out_channels * layer.kernel_size[0] ** 2)))
    assert_normal(started(net.fc)[0], 0.01)


def test_initial_weights_are_keyed_by_seed():
    config = {"name": "resnet34", "_target_": "vitbn.models.published.resnet34", "image_size": 32, **SIZE}
    config["published"] = {"image_size": 224}
    weights = build(config, seed=3).state_dict()
    for name in ("conv1.weight", "layer4.2.conv2.weight"):
        drawn = torch.empty_like(weights[name])
        nn.init.kaiming_normal_(drawn, mode="fan_out", nonlinearity="relu", generator=generator(3, "init", name))
        assert torch.equal(weights[name], drawn)


@pytest.mark.parametrize(("make", "least"), [(alexnet, 67), (vgg16, 32), (resnet34, 1)])
def test_images_too_small_for_a_network_are_named(make, least):
    def reads(side):
        net = unfilled(make, image_size=side, channels=1).eval()
        return net(torch.zeros(1, 1, side, side, device="meta")).shape

    assert reads(least) == (1, 10)
    if least > 1:
        with pytest.raises(ValueError, match=f"{make.__name__} needs images of at least {least} pixels"):
            reads(least - 1)
        with torch.device("meta"), pytest.raises(RuntimeError):
            unfilled(make).eval()(torch.zeros(1, 3, least - 1, least - 1))
