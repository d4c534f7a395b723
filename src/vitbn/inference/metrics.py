"""How well a network answers: accuracy, loss, calibration and every class by itself."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_confusion_matrix

from vitbn.data.splits import Split
from vitbn.inference.eval_data import batch_of, inputs
from vitbn.weights.network import Network

BINS = 15  # of equal width in confidence (Guo et al., 2017)


@dataclass(frozen=True)
class ClassScore:
    """One class: `recall` of its images were recognised, `precision` of the answers naming it were right."""

    label: str
    images: int
    recall: float | None
    precision: float | None
    confused_with: str | None  # the wrong answer it gets most often


@dataclass(frozen=True)
class Scores:
    """Mean cross-entropy in nats; calibration error: mean distance of confidence and accuracy (top label, L1)."""

    n: int
    accuracy: float
    loss: float
    calibration_error: float
    classes: tuple[ClassScore, ...]

    def summary(self) -> dict[str, Any]:
        """Without the classes."""
        return {key: value for key, value in asdict(self).items() if key != "classes"}


@torch.inference_mode()
def answers(network: Network, split: Split, size: int) -> Tensor:
    """Logits (N, classes) of clean images, worked on in batches of `size`."""
    return torch.cat([network.net(images) for images in inputs(network, split, size)])[: len(split)]


def score(network: Network, split: Split, size: int | None = None) -> Scores:
    """The network's scores on a split's clean images, in batches of `size` where that matters."""
    return scores(answers(network, split, size or batch_of(split)), split.labels, network.labels)


def scores(logits: Tensor, labels: Tensor, names: tuple[str, ...]) -> Scores:
    """Scores of logits (N, classes) against labels (N,)."""
    logits = logits.double()
    counts = multiclass_confusion_matrix(logits, labels, len(names))  # true, answered
    error = multiclass_calibration_error(logits.softmax(1), labels, len(names), n_bins=BINS, norm="l1")
    return Scores(
        len(labels), counts.diagonal().sum().item() / len(labels), F.cross_entropy(logits, labels).item(),
        error.item(), tuple(_class_score(counts, number, names) for number in range(len(names))),
    )  # fmt: skip


def _class_score(counts: Tensor, number: int, names: tuple[str, ...]) -> ClassScore:
    right, images, answered = (int(n) for n in (counts[number, number], counts[number].sum(), counts[:, number].sum()))
    wrong = counts[number].clone()
    wrong[number] = 0
    return ClassScore(
        names[number], images, right / images if images else None, right / answered if answered else None,
        names[int(wrong.argmax())] if wrong.any() else None,
    )  # fmt: skip
