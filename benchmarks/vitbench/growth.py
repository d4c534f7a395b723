"""`bench.py growth`: how the time of an epoch grows, beside the arithmetic and what the machine could do."""

from functools import partial
from typing import Any

import torch

from vitbench import machine, others
from vitbench.flops import training_work
from vitbench.options import Options
from vitbench.ours import Ours, compose_run
from vitbench.runner import Arm, Stopwatch, Turn, alternate
from vitbench.setting import Setting
from vitbn import rng as keyed
from vitbn.data.splits import Source, Split
from vitbn.models.factory import build

UNIT = {"name": "s per epoch", "per": 1.0}
EPOCH = 60_000
STEPS = 10  # of a measured epoch
EPOCHS = 3  # of a turn; the first warms up
# What grows, its key for train.py and the values of that; a patch of p pixels gives (28 / p)² + 1 tokens.
AXES: dict[str, tuple[str, tuple[int, ...]]] = {
    "depth": ("depth", (1, 2, 4, 6, 8, 12)),
    "batch size": ("batch_size", (10, 25, 50, 100, 250, 500, 1000)),
    "image size": ("data.image_size", (14, 28, 56, 84)),
    "tokens": ("model.patch_size", (14, 7, 4, 2)),
}
QUICK = 2  # values of each axis


def measure(options: Options, device: torch.device) -> dict[str, Any]:
    """One table per axis, everything else at the article's size; no validation, logging or checkpoints."""
    setting = Setting(options, device)
    conditions, peak, tables = setting.conditions(), machine.peak(device), []
    for axis, (key, values) in AXES.items():
        arms = [_arm(setting, axis, f"{key}={value}") for value in (values[:QUICK] if options.quick else values)]
        summaries = alternate(arms, options.rounds, setting.new_watch)
        tables.append({"title": f"Growth with {axis}", "varied": axis, "unit": UNIT, "arms": summaries})
    return {"conditions": conditions, "peak": peak, "tables": tables}


def _arm(setting: Setting, axis: str, word: str) -> Arm:
    words = (*setting.words, word, "logger=none")
    config = compose_run(words).config
    model, batch = config["model"], config["batch_size"]
    shape = (batch, model["channels"], model["image_size"], model["image_size"])
    source = made_up(STEPS * batch, shape[1:], model["num_classes"])
    captured = setting.device.type == "cuda" and setting.options.capture
    ours = Ours(source, words=words, epochs=EPOCHS, checkpoints=False, captured=captured)
    net = build(model, seed=0)
    work = {name: value * EPOCH / batch for name, value in training_work(net, shape).items()}
    place = (model["image_size"] // model["patch_size"]) ** 2 + 1 if axis == "tokens" else int(word.split("=")[1])
    return Arm(str(place), "", partial(_turn, ours), others.parameters(net), work)


def _turn(ours: Ours, number: int, watch: Stopwatch) -> Turn:
    """The epochs after the first, by the clock of metrics.csv."""
    rows = ours.train(number, Stopwatch(lambda: None))[0][1:]
    watch.seconds = sum(float(row["seconds"]) for row in rows)
    return Turn(units=len(rows) * len(ours.source.train) / EPOCH)


def made_up(count: int, shape: tuple[int, ...], classes: int) -> Source:
    """Random images, of which one stands in for the test images: time does not depend on what they show."""
    generator = keyed.generator("bench", count)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    train = Split(images, torch.arange(count) % classes)
    return Source(train, train[torch.arange(1)], tuple(map(str, range(classes))))
