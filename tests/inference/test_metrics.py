import pytest
import torch
from sklearn.metrics import log_loss, precision_recall_fscore_support

from vitbn.inference.metrics import BINS, score_logits

NAMES = ("a", "b", "c", "d")
GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.randint(0, 4, (500,), generator=GENERATOR)
LOGITS = torch.randn(500, 4, generator=GENERATOR) + 2 * torch.nn.functional.one_hot(LABELS, 4)


def test_figures_are_those_of_sklearn_and_of_the_definition():
    found, probabilities = score_logits(LOGITS, LABELS, NAMES), LOGITS.double().softmax(1)
    precision, recall, _, support = precision_recall_fscore_support(LABELS, LOGITS.argmax(1))
    assert [each.precision for each in found.classes] == pytest.approx(precision)
    assert [each.recall for each in found.classes] == pytest.approx(recall)
    assert [each.images for each in found.classes] == support.tolist() and found.n == 500
    assert found.loss == pytest.approx(log_loss(LABELS, probabilities), abs=1e-9)
    confidence, answer = probabilities.max(1)
    right, bins = (answer == LABELS).double(), (confidence * BINS).ceil()
    gaps = [(bins == b).sum() * (right[bins == b].mean() - confidence[bins == b].mean()).abs() for b in bins.unique()]
    assert found.calibration_error == pytest.approx(sum(gaps).item() / 500, abs=1e-6)
    assert found.accuracy == pytest.approx(right.mean().item())


def test_the_most_frequent_wrong_answer_and_classes_without_images():
    labels = torch.tensor([0, 0, 0, 0, 1])
    logits = 5.0 * torch.nn.functional.one_hot(torch.tensor([0, 1, 3, 3, 1]), 4)
    found = score_logits(logits, labels, NAMES)
    assert [each.confused_with for each in found.classes] == ["d", None, None, None]
    assert [each.recall for each in found.classes] == [0.25, 1, None, None]
    assert [each.precision for each in found.classes] == [1, 0.5, None, 0]
