"""Whether running statistics fit what arrives: three sources of BatchNorm statistics side by side."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitbn.data.splits import Split
from vitbn.errors import InputError
from vitbn.inference.eval_data import fresh_statistics, inputs
from vitbn.inference.metrics import Scores, score
from vitbn.models.bn_statistics import Moments, batch_norms, batch_statistics, observed, put, samples
from vitbn.weights.network import Network

RUNNING, BATCH, RECALIBRATED = "running", "batch", "recalibrated"
SENSITIVITY_IMAGES = 2_000  # batches of one image take a forward pass each


@dataclass(frozen=True)
class Layer:
    """How far one BatchNorm's statistics of arriving images lie from its running ones.

    mean: |mean - running mean| / running standard deviation; log_var: |ln(variance / running variance)|; both
    averaged over features, and over batches (as the discrepancy of Wang et al., 2022) or for all images pooled.
    """

    name: str
    batch_mean: float
    batch_log_var: float
    pooled_mean: float
    pooled_log_var: float


@dataclass(frozen=True)
class Panel:
    """What the choice of statistics does to one network on one set of images."""

    compared: dict[str, Scores]  # by statistics
    batch_size: int  # that of `batch` and of the layers' batches: the training's
    recalibrated_on: int  # training images
    by_batch_size: dict[int, Scores | None]  # batch statistics, SENSITIVITY_IMAGES images; None: not defined
    beside: dict[str, Scores]  # the other statistics on these images
    layers: tuple[Layer, ...]


def training_batch(network: Network, split: Split) -> int:
    """The batch size of the training, as far as there are images."""
    return min(network.config.get("batch_size", 100), len(split))


def panel(network: Network, train: Split, test: Split, sizes: list[int]) -> Panel:
    """Everything about a BatchNorm network's statistics; `test` in an order that mixes the classes."""
    net, size = network.net, training_batch(network, test)
    few = test[torch.arange(min(SENSITIVITY_IMAGES, len(test)))]
    compared, beside = {RUNNING: score(network, test)}, {RUNNING: score(network, few)}
    with batch_statistics(net):
        compared[BATCH] = score(network, test, size)
    fresh, count = fresh_statistics(network, train)
    running = put(net, fresh)
    compared[RECALIBRATED], beside[RECALIBRATED] = score(network, test), score(network, few)
    put(net, running)
    by_size = {each: _score_in_batches(network, few, each) for each in sizes}
    return Panel(compared, size, count, by_size, beside, layers(network, inputs(network, test, size)))


def _score_in_batches(network: Network, split: Split, size: int) -> Scores | None:
    try:
        with batch_statistics(network.net):
            return score(network, split, size)
    except InputError:
        raise
    except ValueError:  # one value per feature has no variance
        return None


@torch.inference_mode()
def layers(network: Network, batches: Iterable[Tensor]) -> tuple[Layer, ...]:
    """The distances of every BatchNorm, while each normalises by the batch at hand."""
    norms = batch_norms(network.net)
    pooled = {name: Moments() for name in norms}
    of_batches: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in norms}

    def see(name: str, norm: Any, x: Tensor) -> None:
        batch = Moments()
        batch.add(samples(norm, x))
        of_batches[name].append(_distance(norm, batch))
        pooled[name].add(samples(norm, x))

    with batch_statistics(network.net), observed(network.net, see):
        for images in batches:
            network.net(images)
    found = []
    for name, norm in norms.items():
        means, log_vars = zip(*of_batches[name], strict=True)
        parts = (torch.stack(means).mean(), torch.stack(log_vars).mean(), *_distance(norm, pooled[name]))
        found.append(Layer(name, *(part.item() for part in parts)))
    return tuple(found)


def _distance(norm: Any, moments: Moments) -> tuple[Tensor, Tensor]:
    mean, var = norm.running_mean.double(), norm.running_var.double() + norm.eps
    shift = (moments.mean - mean).abs() / var.sqrt()
    return shift.mean(), ((moments.var + norm.eps) / var).log().abs().mean()
