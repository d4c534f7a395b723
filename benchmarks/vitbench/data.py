"""`python benchmarks/bench.py data`: an epoch of augmented batches on the device, without a network."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch

from vitbench.baselines import loader
from vitbench.options import Options, select
from vitbench.runner import Arm, Stopwatch, Turn, alternate
from vitbench.setting import Setting, image_counts
from vitbn import rng
from vitbn.data.affine import draw
from vitbn.data.batches import TrainBatches
from vitbn.data.splits import Split

UNIT = {"name": "µs per image", "per": 1e6}
WORKERS = (0, 1, 2)


def measure(options: Options, device: torch.device) -> dict[str, Any]:
    """One table; a loader starts its workers inside the epoch, as it does in every epoch of a training."""
    setting = Setting(options, device)
    source = setting.source()
    arms = [Arm("ours", "TrainBatches: many images augmented at once", partial(_ours, setting, source.train))]
    for workers in WORKERS:
        what = f"torchvision's transforms per PIL image, DataLoader, workers: {workers}"
        arms.append(Arm(f"workers-{workers}", what, partial(_torchvision, setting, source.train, workers)))
    names = select([arm.name for arm in arms], options)
    summaries = alternate([arm for arm in arms if arm.name in names], options.rounds, setting.new_watch)
    table = {"title": "One epoch of batches", "unit": UNIT, "arms": summaries}
    return {"conditions": {**setting.conditions(), **image_counts(source)}, "tables": [table]}


def _ours(setting: Setting, split: Split, number: int, watch: Stopwatch) -> Turn:
    batch_size = setting.config["batch_size"]
    batches = TrainBatches(split, batch_size=batch_size, seed=number, draw=draw, device=setting.device)
    return _epoch(setting, batches, watch)


def _torchvision(setting: Setting, split: Split, workers: int, number: int, watch: Stopwatch) -> Turn:
    torch.manual_seed(rng.key("bench", number))
    return _epoch(setting, loader(split, setting.config["batch_size"], shuffle=True, workers=workers), watch)


def _epoch(setting: Setting, batches: Iterable[Any], watch: Stopwatch) -> Turn:
    count = 0
    with watch:
        for images, labels in batches:
            images.to(setting.device)
            count += len(labels.to(setting.device))
    return Turn(units=count, figures={"images/s": count / watch.seconds})
