"""Accuracies after the last epoch, and same-seed differences between arms."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitbn.analysis.arms import Arm, cells, paired
from vitbn.analysis.instruments import MEASURED, summarized
from vitbn.analysis.records import RunRecord
from vitbn.analysis.stats import Interval, mean_interval


@dataclass(frozen=True)
class Difference:
    """Validation accuracy of one arm minus another's at one depth and learning rate."""

    depth: Any
    lr: Any
    values: list[float]  # one per shared seed
    interval: Interval
    diverged: int  # pairs with a diverged run


def metric_value(run: RunRecord, metric: str, epoch: int | None = None) -> float | None:
    """The metric after an epoch (None: the last); a diverged run scores as a guess: 1/classes, ln(classes).

    Leaving diverged runs out would favour the arm that loses its bad seeds, so a comparison keeps them with
    what such a network is worth. What instruments have measured is there after epoch 1 and at the end.
    """
    if metric in MEASURED:
        measured = run.instruments
        return None if measured is None else summarized(measured.last if epoch is None else measured.first).get(metric)
    value = run.last(metric) if epoch is None else run.at_epoch(metric, epoch)
    if run.status == "diverged" and (epoch is None or value is None or not math.isfinite(value)):
        return 1 / run.classes if metric.endswith("acc") else math.log(run.classes)
    return value


def resolution(metric: str, runs: Iterable[RunRecord]) -> float:
    """The smallest step of the metric: one image of those measured on in an accuracy, else a digit of float32.

    Runs that do not say how many they were validated on were so on as many as there are test images; where no run
    says that either, they are taken for 100.
    """
    if not metric.endswith("acc"):
        return float(np.finfo(np.float32).eps)
    for run in runs:
        validated = run.result.get("val_images") if metric == "val/acc" else None
        if images := validated or np.sum(run.result.get("confusion") or 0):
            return float(1 / images)
    return 0.01


def final_accuracies(runs: list[RunRecord]) -> list[float]:
    """Validation accuracies after the last epoch of the runs that are done; diverged ones are counted apart."""
    accuracies = [run.last("val/acc") for run in runs if run.status == "done"]
    return [value for value in accuracies if value is not None]


def differences(first: Arm, second: Arm) -> list[Difference]:
    """How far the second arm is ahead, per depth and learning rate."""
    by_cell = []
    for depth, lr in cells([first, second]):
        pairs = paired(first.at(depth, lr), second.at(depth, lr))
        scores = [(metric_value(one, "val/acc"), metric_value(two, "val/acc")) for one, two in pairs]
        values = [two - one for one, two in scores if one is not None and two is not None]
        if values:
            diverged = sum("diverged" in (one.status, two.status) for one, two in pairs)
            interval = mean_interval(values, resolution=resolution("val/acc", [run for pair in pairs for run in pair]))
            by_cell.append(Difference(depth, lr, values, interval, diverged))
    return by_cell
