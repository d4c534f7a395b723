"""Published convolutional networks: AlexNet of 2012, and torchvision's own VGG16 and ResNet34.

Images (B, C, S, S) -> logits (B, num_classes). Initial weights as in the comparison that docs/images.md describes;
`image_size` is only held against the smallest that fits.
"""

from collections.abc import Callable
from functools import partial
from math import sqrt
from typing import Any, cast

import torchvision
from torch import Tensor, nn


def alexnet(*, image_size: int, channels: int, num_classes: int, dropout: float) -> nn.Module:
    """AlexNet as Krizhevsky et al. (2012) describe it, in one piece: 58,322,314 parameters for 3 channels, 10 classes.

    Published for 227 pixels, where the last pooling changes nothing; it makes other sizes possible.
    """
    _at_least("alexnet", image_size, 67)
    normed = partial(nn.LocalResponseNorm, size=5, alpha=1e-4, beta=0.75, k=2)
    pooled = partial(nn.MaxPool2d, kernel_size=3, stride=2)
    net = nn.Sequential(
        nn.Conv2d(channels, 96, 11, stride=4), nn.ReLU(), normed(), pooled(),
        nn.Conv2d(96, 256, 5, padding=2), nn.ReLU(), normed(), pooled(),
        nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(), pooled(),
        nn.AdaptiveAvgPool2d(6), nn.Flatten(),
        nn.Dropout(dropout), nn.Linear(256 * 6 * 6, 4096), nn.ReLU(),
        nn.Dropout(dropout), nn.Linear(4096, 4096), nn.ReLU(),
        nn.Linear(4096, num_classes),
    )  # fmt: skip
    _start(net, nn.Conv2d, _normal)
    _start(net, nn.Linear, _normal)
    second, _, fourth, fifth = [layer for layer in net if isinstance(layer, nn.Conv2d)][1:]
    for layer in (second, fourth, fifth):
        _start(layer, nn.Conv2d, partial(_normal, bias=1.0))
    return net


def vgg16(*, image_size: int, channels: int, num_classes: int, dropout: float) -> nn.Module:
    """VGG16 (Simonyan & Zisserman, 2014): 134,301,514 parameters for 3 channels and 10 classes."""
    _at_least("vgg16", image_size, 32)
    net = torchvision.models.vgg16(num_classes=num_classes, init_weights=False, dropout=dropout)
    net.features[0] = nn.Conv2d(channels, 64, 3, padding=1)
    _start(net, nn.Conv2d, _xavier)
    _start(net, nn.Linear, _normal)
    return net


def resnet34(*, image_size: int, channels: int, num_classes: int) -> nn.Module:
    """ResNet34 (He et al., 2015): 21,289,802 parameters for 3 channels and 10 classes.

    The count of 21,298,314 in the comparison has 8,512 more: biases of convolutions, which BatchNorm cancels.
    """
    _at_least("resnet34", image_size, 1)
    net = torchvision.models.resnet34(num_classes=num_classes)
    net.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    _start(net, nn.Conv2d, _he)
    _start(net, nn.Linear, _normal)
    return net


def _at_least(name: str, image_size: int, least: int) -> None:
    if image_size < least:
        raise ValueError(f"{name} needs images of at least {least} pixels, data.image_size is {image_size}")


def _start(net: nn.Module, kind: type[nn.Module], reset: Callable[[Any], None]) -> None:
    """Let every module of a kind start so: `initialize` asks modules for their `reset_parameters`."""
    for module in net.modules():
        if isinstance(module, kind):
            setattr(module, "reset_parameters", partial(reset, module))  # noqa: B010 - typed as a parameter


def _normal(layer: Any, bias: float = 0.0) -> None:
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.constant_(layer.bias, bias)


def _xavier(layer: nn.Conv2d) -> None:
    nn.init.xavier_uniform_(layer.weight, gain=sqrt(2))
    nn.init.zeros_(cast(Tensor, layer.bias))


def _he(layer: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
