"""`python benchmarks/bench.py where`: what an epoch of train.py spends its time on, for each of the three networks.

torch's profiler records every operation, and Lightning's ranges tell on whose behalf it ran. What no operation accounts
for is Python's: Lightning's loop, autograd, torch's calls, our own code.
"""

from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from pytorch_lightning.profilers import Profiler
from torch.autograd.profiler import record_function
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from vitbench.options import Options
from vitbench.ours import VitbnArm
from vitbench.runner import Stopwatch, spread
from vitbench.setting import Setting, image_counts

UNIT = {"name": "ms per step", "per": 1e3}
MODELS = ("vit", "vitbnffn", "vitbn")
IMAGES = 6_000  # a profile of a whole epoch would not fit into memory
# The first line counts that has a word of an operation's name, or of a range around it
RANGES = {
    "validation": ("validation_step", ".val_next"),
    "augmentation": (".train_dataloader_next",),
    "ends of epochs": ("on_train_epoch_end", "on_validation_epoch_end", "on_validation_end", "save_checkpoint"),
}
OPERATIONS = {
    "products": ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"),
    "softmax": ("_softmax",),
    "GELU": ("gelu",),
    "norms": ("layer_norm", "batch_norm"),
    "optimizer": ("adam", "Optimizer."),
    "sums, copies, casts": ("aten::",),
}
WHAT = {
    "whole": "the profiled epoch over its training steps",
    "products": "of matrices, forward and backward, those of weights in merged attention included",
    "sums, copies, casts": "residuals, positions, adding gradients up, loss and metrics, memory",
    "validation": "the share of an epoch's forward passes",
    "ends of epochs": f"metrics, checkpoints: after {IMAGES:,} images here instead of 60,000",
    "Python": "what is left: Lightning's loop, autograd, torch's calls, our code",
}


class Ranges(Profiler):
    """Lightning's names of what it is doing, as ranges of torch's profiler."""

    def __init__(self) -> None:
        super().__init__()
        self.open: dict[str, AbstractContextManager[Any]] = {}

    def start(self, action_name: str) -> None:
        self.open[action_name] = record_function(action_name)
        self.open[action_name].__enter__()

    def stop(self, action_name: str) -> None:
        if action_name in self.open:
            self.open.pop(action_name).__exit__(None, None, None)


class ProfiledWatch(Stopwatch):
    """Records the operations that run inside."""

    def __enter__(self) -> "ProfiledWatch":
        self.profile = profile(activities=[ProfilerActivity.CPU])
        self.profile.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.profile.__exit__(None, None, None)


def measure(options: Options, device: torch.device) -> dict[str, Any]:
    """One table per network; the networks alternate."""
    setting = Setting(replace(options, images=min(options.images or IMAGES, IMAGES)), device)
    source = setting.source()
    steps = -(-len(source.train) // setting.config["batch_size"])
    rounds: dict[str, list[Counter[str]]] = {model: [] for model in MODELS}
    for number in range(options.rounds + 1):  # the first warms up
        for model in MODELS:
            ranges = "+trainer.profiler._target_=vitbench.where.Ranges"
            watch = ProfiledWatch(lambda: None)
            VitbnArm(source, overrides=(*setting.overrides, f"model={model}", ranges)).turn(number, watch)
            rounds[model].append(seconds_of_parts(watch))
            print(f"round {number}/{options.rounds}  {model}: {watch.seconds:.2f} s", flush=True)
    tables = [
        {"title": f"Where a training step of {model} goes", "unit": UNIT, "arms": _arms(parts[1:], steps)}
        for model, parts in rounds.items()
    ]
    return {"conditions": {**setting.conditions(), **image_counts(source)}, "tables": tables}


def seconds_of_parts(watch: ProfiledWatch) -> Counter[str]:
    """What each part took, and the whole."""
    seconds: Counter[str] = Counter()
    for event in watch.profile.events():
        if name := part_of(event):
            seconds[name] += event.self_cpu_time_total / 1e6
    return Counter({**seconds, "Python": watch.seconds - seconds.total(), "whole": watch.seconds})


def part_of(event: FunctionEvent) -> str | None:
    """The line of the table that the event's own time goes to; None for what is Python's."""
    operation = _named(OPERATIONS, event)
    around: FunctionEvent | None = event if operation else None
    while around is not None:
        if name := _named(RANGES, around):
            return name
        around = around.cpu_parent
    return operation


def _named(lines: dict[str, tuple[str, ...]], event: FunctionEvent) -> str | None:
    return next((name for name, words in lines.items() if any(word in event.name for word in words)), None)


def _arms(rounds: list[Counter[str]], steps: int) -> list[dict[str, Any]]:
    """A line per part, the largest first."""
    names = sorted(rounds[0], key=lambda name: -rounds[0][name])
    return [
        {
            "name": name,
            "what": WHAT.get(name, ""),
            "parameters": None,
            "work": None,
            "n": len(rounds),
            "seconds": spread([parts[name] / steps for parts in rounds]),
            "ratio": spread([parts[name] / parts["whole"] for parts in rounds]),
            "figures": {},
        }
        for name in names
    ]
