"""Statistics of what arrives at every BatchNorm: estimated, loaded, or taken from each batch.

Fresh statistics are pooled exactly over all images, in float64 (as "precise BN", Wu & Johnson, 2021, but with the
variance between batches counted in). While they are estimated every BatchNorm normalises by the batch at hand, so
a layer behind others sees inputs that do not depend on the statistics being replaced. One batch of all images
gives every layer exactly the statistics of its inputs in evaluation; with smaller batches that is exact for a layer
behind no other BatchNorm and close for the rest.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

CALIBRATION_IMAGES = 10_000  # enough by far: Wu & Johnson find no gain beyond some 10,000 samples
CALIBRATION_BATCH = 1_000
BNStats = dict[str, tuple[Tensor, Tensor]]  # running mean and variance by the norm's name


def batch_norms(net: nn.Module) -> dict[str, Any]:
    """The modules with running statistics by name, in the order they are registered."""
    modules = net.named_modules()
    return {name: module for name, module in modules if getattr(module, "running_mean", None) is not None}


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


def samples(norm: Any, x: Tensor) -> Tensor:
    """What a norm averages over, as rows (N, features), of its input: (..., D) tokens or (B, C, ...) as torch's own."""
    return x.movedim(feature_dim(norm), -1).reshape(-1, norm.running_mean.numel())


def statistics(norm: Any, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """The running statistics of a norm for inputs of this mean and variance: PowerNorm's are others."""
    return norm.statistics(mean, var) if hasattr(norm, "statistics") else (mean, var)


def feature_dim(norm: Any) -> int:
    """The dimension of a norm's input that its features are in."""
    return getattr(norm, "feature_dim", 1)


@contextmanager
def bn_input_hooks(net: nn.Module, hook: Callable[[str, Any, Tensor], None]) -> Iterator[None]:
    """Inside, `hook(name, norm, input)` is called before every BatchNorm."""
    handles = [
        norm.register_forward_pre_hook(lambda module, args, name=name: hook(name, module, args[0].detach()))
        for name, norm in batch_norms(net).items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
def estimate_bn_stats(net: nn.Module, batches: Iterable[Tensor]) -> BNStats:
    """Fresh statistics over batches of inputs; network and buffers are left as they are."""
    moments = {name: Moments() for name in batch_norms(net)}
    hooks = bn_input_hooks(net, lambda name, norm, x: moments[name].add(samples(norm, x)))
    with torch.compiler.set_stance("force_eager"), batch_statistics(net), hooks:  # compiled blocks skip hooks
        for images in batches:
            net(images)
    norms = batch_norms(net)
    return {name: statistics(norms[name], moment.mean, moment.var) for name, moment in moments.items()}


@torch.no_grad()
def load_bn_stats(net: nn.Module, statistics: BNStats) -> BNStats:
    """Make these the running statistics; returns those that were there."""
    before = {}
    for name, norm in batch_norms(net).items():
        before[name] = (norm.running_mean.clone(), norm.running_var.clone())
        for buffer, value in zip((norm.running_mean, norm.running_var), statistics[name], strict=True):
            buffer.copy_(value)
    return before
