"""Accuracy, loss and calibration of a network, and recall and precision of every class."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_confusion_matrix

from vitbn.data.splits import Split
from vitbn.inference.eval_data import default_batch_size, inputs
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
def predict_logits(network: Network, split: Split, batch_size: int) -> Tensor:
    """Logits (N, classes) of clean images."""
    return torch.cat([network.net(images) for images in inputs(network, split, batch_size)])[: len(split)]


def score(network: Network, split: Split, batch_size: int | None = None) -> Scores:
    """The network's scores on a split's clean images; `batch_size` where batch statistics are used."""
    logits = predict_logits(network, split, batch_size or default_batch_size(split))
    return score_logits(logits, split.labels, network.labels)


def score_logits(logits: Tensor, labels: Tensor, names: tuple[str, ...]) -> Scores:
    """Scores of logits (N, classes) against labels (N,)."""
    logits = logits.double()
    counts = multiclass_confusion_matrix(logits, labels, len(names))  # true, predicted
    error = multiclass_calibration_error(logits.softmax(1), labels, len(names), n_bins=BINS, norm="l1")
    return Scores(
        len(labels), counts.diagonal().sum().item() / len(labels), F.cross_entropy(logits, labels).item(),
        error.item(), tuple(_class_score(counts, number, names) for number in range(len(names))),
    )  # fmt: skip


def _class_score(counts: Tensor, number: int, names: tuple[str, ...]) -> ClassScore:
    correct, images = int(counts[number, number]), int(counts[number].sum())
    predicted = int(counts[:, number].sum())
    errors = counts[number].clone()
    errors[number] = 0
    return ClassScore(
        names[number], images, correct / images if images else None, correct / predicted if predicted else None,
        names[int(errors.argmax())] if errors.any() else None,
    )  # fmt: skip
