"""Learning-rate schedules: step -> factor of the learning rate. Imports no torch."""

import math
from collections.abc import Callable
from typing import Any

Factor = Callable[[int], float]


def make_factor(config: dict[str, Any], *, epochs: int, steps_per_epoch: int) -> Factor | None:
    """The schedule of conf/schedule/, None for the constant one; ValueError lists the names.

    `steps_per_epoch` is passed in: Lightning's `estimated_stepping_batches` would begin an epoch before a checkpoint's
    position in it is restored.
    """
    options = {key: value for key, value in config.items() if key != "name"}
    match config["name"]:
        case None:
            return None
        case "step":
            return _step(steps_per_epoch=steps_per_epoch, **options)
        case "cosine":
            return _cosine(steps=epochs * steps_per_epoch, **options)
    raise ValueError(f"unknown schedule {config['name']!r}; choose from constant, cosine, step")


def _step(*, steps_per_epoch: int, every: int, factor: float) -> Factor:
    return lambda step: factor ** (step // (every * steps_per_epoch))


def _cosine(*, steps: int, warmup: float, floor: float) -> Factor:
    warm = round(warmup * steps)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        done = min(1.0, (step - warm) / max(1, steps - warm))
        return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2

    return factor
