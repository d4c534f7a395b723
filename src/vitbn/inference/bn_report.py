"""Whether running statistics fit the images: three sources of BatchNorm statistics side by side."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vitbn.data.splits import Split
from vitbn.errors import InputError
from vitbn.inference.eval_data import fresh_statistics, inputs
from vitbn.inference.metrics import Scores, score
from vitbn.models.bn_statistics import (
    Moments,
    batch_norms,
    batch_statistics,
    bn_input_hooks,
    load_bn_stats,
    samples,
)
from vitbn.weights.network import Network

RUNNING, BATCH, RECALIBRATED = "running", "batch", "recalibrated"
SENSITIVITY_IMAGES = 2_000  # batches of one image take a forward pass each


@dataclass(frozen=True)
class StatisticsShift:
    """How far one BatchNorm's statistics of the images lie from its running ones.

    mean: |mean - running mean| / running standard deviation; log_var: |ln(variance / running variance)|; both
    averaged over features, and over batches (as the discrepancy of Wang et al., 2022) or for all images pooled.
    """

    name: str  # of the norm
    batch_mean: float
    batch_log_var: float
    pooled_mean: float
    pooled_log_var: float


@dataclass(frozen=True)
class BatchNormReport:
    """What the choice of statistics does to one network on one set of images."""

    compared: dict[str, Scores]  # by statistics
    batch_size: int  # that of `batch` and of the shifts' batches: the training's
    recalibrated_on: int  # training images; 0 where there are none, and no such scores
    by_batch_size: dict[int, Scores | None]  # batch statistics, SENSITIVITY_IMAGES images; None: not defined
    other_statistics: dict[str, Scores]  # on the images of by_batch_size
    shifts: tuple[StatisticsShift, ...]

    def to_dict(self) -> dict[str, Any]:
        """As `vitbn evaluate --json` prints it, without the classes."""
        return {
            "compared": {name: scores.summary() for name, scores in self.compared.items()},
            "batch_size": self.batch_size,
            "recalibrated_on": self.recalibrated_on,
            "by_batch_size": {size: scores and scores.summary() for size, scores in self.by_batch_size.items()},
            "beside": {name: scores.summary() for name, scores in self.other_statistics.items()},
            "layers": [asdict(shift) for shift in self.shifts],
        }


def training_batch_size(network: Network, split: Split) -> int:
    """The batch size of the training, as far as there are images."""
    return min(network.config.get("batch_size", 100), len(split))


def batchnorm_report(network: Network, train: Split, test: Split, batch_sizes: list[int]) -> BatchNormReport:
    """Everything about a BatchNorm network's statistics; `test` in an order that mixes the classes."""
    if len(test) == 1 and _score_in_batches(network, test, 1) is None:
        raise InputError("one image is one sample for these BatchNorms and has no variance; evaluate on at least two")
    net, batch_size = network.net, training_batch_size(network, test)
    few = test[torch.arange(min(SENSITIVITY_IMAGES, len(test)))]
    compared, other = {RUNNING: score(network, test)}, {RUNNING: score(network, few)}
    with batch_statistics(net):
        compared[BATCH] = score(network, test, batch_size)
    count = 0
    if len(train):
        fresh, count = fresh_statistics(network, train)
        running = load_bn_stats(net, fresh)
        compared[RECALIBRATED], other[RECALIBRATED] = score(network, test), score(network, few)
        load_bn_stats(net, running)
    by_batch_size = {size: _score_in_batches(network, few, size) for size in batch_sizes}
    shifts = statistics_shifts(network, inputs(network, test, batch_size))
    return BatchNormReport(compared, batch_size, count, by_batch_size, other, shifts)


def _score_in_batches(network: Network, split: Split, batch_size: int) -> Scores | None:
    try:
        with batch_statistics(network.net):
            return score(network, split, batch_size)
    except InputError:
        raise
    except ValueError:  # one value per feature has no variance
        return None


@torch.inference_mode()
def statistics_shifts(network: Network, batches: Iterable[Tensor]) -> tuple[StatisticsShift, ...]:
    """The shift of every BatchNorm, while each normalises by the batch at hand."""
    norms = batch_norms(network.net)
    pooled = {name: Moments() for name in norms}
    of_batches: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in norms}

    def record(name: str, norm: Any, x: Tensor) -> None:
        batch = Moments()
        batch.add(samples(norm, x))
        of_batches[name].append(_shift(norm, batch))
        pooled[name].add(samples(norm, x))

    with batch_statistics(network.net), bn_input_hooks(network.net, record):
        for images in batches:
            network.net(images)
    shifts = []
    for name, norm in norms.items():
        means, log_vars = zip(*of_batches[name], strict=True)
        values = (torch.stack(means).mean(), torch.stack(log_vars).mean(), *_shift(norm, pooled[name]))
        shifts.append(StatisticsShift(name, *(value.item() for value in values)))
    return tuple(shifts)


def _shift(norm: Any, moments: Moments) -> tuple[Tensor, Tensor]:
    mean, var = norm.running_mean.double(), norm.running_var.double() + norm.eps
    distance = (moments.mean - mean).abs() / var.sqrt()
    return distance.mean(), ((moments.var + norm.eps) / var).log().abs().mean()
