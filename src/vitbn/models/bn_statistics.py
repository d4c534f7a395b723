"""Mean and variance of what arrives at every BatchNorm: measured, put in place, or taken from each batch.

Fresh statistics are pooled exactly over all images given, in float64 (as "precise BN", Wu & Johnson, 2021, but with
the variance between batches counted in). While they are measured every BatchNorm normalises by the batch at hand,
so a layer behind others sees inputs that do not depend on the statistics being replaced. One batch of all images
gives every layer exactly the statistics of its inputs in evaluation; with smaller batches that is exact for a layer
behind no other BatchNorm and close for the rest.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitbn.models.norms import ScalarBatchNorm

IMAGES, BATCH = 10_000, 1_000  # enough by far: Wu & Johnson find no gain beyond some 10,000 samples
Buffers = dict[str, tuple[Tensor, Tensor]]  # running mean and variance by the norm's name


def batch_norms(net: nn.Module) -> dict[str, Any]:
    """The network's BatchNorms by name, in the order they are registered."""
    return {name: module for name, module in net.named_modules() if isinstance(module, (_BatchNorm, ScalarBatchNorm))}


class Moments:
    """Mean and squared deviations per feature of all samples so far, pooled exactly in float64 (Chan et al., 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = torch.zeros(())

    def add(self, samples: Tensor) -> None:
        """Count in samples (N, features)."""
        samples = samples.double()
        mean, total = samples.mean(0), self.count + len(samples)
        squares = (samples - mean).square().sum(0)
        gap = mean - self.mean.to(mean)
        self.squares = self.squares.to(mean) + squares + gap.square() * (self.count * len(samples) / total)
        self.mean = self.mean.to(mean) + gap * (len(samples) / total)
        self.count = total

    @property
    def var(self) -> Tensor:
        """Unbiased, as running variances are."""
        return self.squares / (self.count - 1)


def features_last(norm: Any, x: Tensor) -> Tensor:
    """A norm's input, (..., D) tokens or (B, C, H, W) pixels, with its features in the last dimension."""
    return x.movedim(1, -1) if isinstance(norm, (nn.BatchNorm2d, nn.BatchNorm3d)) else x


def samples(norm: Any, x: Tensor) -> Tensor:
    """What a norm averages over, as rows (N, features), of its input."""
    return features_last(norm, x).reshape(-1, norm.running_mean.numel())


@contextmanager
def observed(net: nn.Module, see: Callable[[str, Any, Tensor], None]) -> Iterator[None]:
    """Inside, `see(name, norm, input)` is called before every BatchNorm."""
    hooks = [
        norm.register_forward_pre_hook(lambda module, args, name=name: see(name, module, args[0].detach()))
        for name, norm in batch_norms(net).items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def batch_statistics(net: nn.Module) -> Iterator[None]:
    """Inside, every BatchNorm normalises by the batch at hand and leaves its buffers alone."""
    norms = batch_norms(net).values()
    before = [norm.training for norm in norms]
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm, training in zip(norms, before, strict=True):
            norm.training, norm.track_running_stats = training, True


@torch.no_grad()
def measure(net: nn.Module, batches: Iterable[Tensor]) -> Buffers:
    """Fresh statistics over batches of inputs; network and buffers are left as they are."""
    found = {name: Moments() for name in batch_norms(net)}
    with batch_statistics(net), observed(net, lambda name, norm, x: found[name].add(samples(norm, x))):
        for images in batches:
            net.forward(images)  # not __call__: a compiled network would skip the hooks
    return {name: (moments.mean, moments.var) for name, moments in found.items()}


@torch.no_grad()
def put(net: nn.Module, statistics: Buffers) -> Buffers:
    """Make these the running statistics; returns those that were there."""
    before = {}
    for name, norm in batch_norms(net).items():
        before[name] = (norm.running_mean.clone(), norm.running_var.clone())
        for buffer, value in zip((norm.running_mean, norm.running_var), statistics[name], strict=True):
            buffer.copy_(value)
    return before
