"""`python benchmarks/bench.py train`: epochs of train.py against what people would write."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from vitbench import baselines, machine
from vitbench.baselines import LightningDefaults, NewNet, PlainLoop, best_workers
from vitbench.flops import epoch_work, parameter_count
from vitbench.options import Options, select
from vitbench.ours import VitbnArm
from vitbench.runner import Arm, Stopwatch, Turn, alternate
from vitbench.setting import Setting, first, image_counts
from vitbn.data.splits import Source
from vitbn.training.numerics import cpu_multiplies_bfloat16

WARMING, TRIAL = 3, 20  # training batches of the turn that is not counted, and of the choice of workers
UNIT = {"name": "s per epoch", "per": 1.0}
NAMES = (
    "ours", "ours-compiled", "ours-bf16", "ours-no-logger",
    "plain", "plain-tuned", "timm", "timm-own-heads", "lightning",
)  # fmt: skip


class Trainable(Protocol):
    """What can train an epoch."""

    def turn(self, number: int, watch: Stopwatch) -> Turn: ...


@dataclass(frozen=True)
class Contestant:
    """An arm before it is given its images."""

    what: str
    new_net: NewNet
    make: Callable[[Source], Trainable]


def measure(options: Options, device: torch.device) -> dict[str, Any]:
    """One table: every arm's epoch, with losses and accuracy after the first."""
    setting = Setting(options, device)
    source = setting.source()
    has_bf16 = device.type == "cuda" or cpu_multiplies_bfloat16()
    unavailable = {"" if options.compile else "ours-compiled", "" if has_bf16 else "ours-bf16"}
    names = select([name for name in NAMES if name not in unavailable], options)
    arms = [_arm(setting, source, name) for name in names]
    peak = machine.peak(device)
    table = {"title": "One epoch, end to end", "unit": UNIT, "arms": alternate(arms, options.rounds, setting.new_watch)}
    epochs = {"epochs of train.py per turn": _epochs(setting)}
    return {"conditions": {**setting.conditions(), **image_counts(source), **epochs}, "peak": peak, "tables": [table]}


def _arm(setting: Setting, source: Source, name: str) -> Arm:
    """The arm of that name, warmed up: its code is compiled and its files are in the system's cache."""
    contestant = _contestant(setting, source, name)
    print(f"warming up {name}", flush=True)
    contestant.make(_few(setting, source, WARMING)).turn(0, setting.new_watch())
    net, sizes = contestant.new_net(0), (setting.config["batch_size"], setting.config["val_batch_size"])
    work = epoch_work(net, source.train.images.shape, source.test.images.shape, *sizes)
    return Arm(name, contestant.what, contestant.make(source).turn, parameter_count(net), work)


def _contestant(setting: Setting, source: Source, name: str) -> Contestant:
    size = setting.size
    vit = _unseeded(partial(baselines.vit_pytorch, size))
    match name:
        case "ours":
            return _ours(setting, "python train.py: Lightning, TensorBoard, metrics.csv, checkpoints")
        case "ours-compiled":
            return _ours(setting, "ours with compile=true", compiled=True)
        case "ours-bf16":
            return _ours(setting, "ours with trainer.precision=bf16-mixed", "trainer.precision=bf16-mixed")
        case "ours-no-logger":
            return _ours(setting, "ours without TensorBoard", "logger=none")
        case "plain":
            what = "the article's loop: transforms per PIL image, DataLoader without workers, vit-pytorch's ViT, Adam"
            return _plain(setting, what, vit)
        case "plain-tuned":
            workers = _best_workers(setting, source, vit)
            what = f"plain with fused Adam and the best number of workers in a short trial: {workers}"
            return _plain(setting, what, vit, fused=True, workers=workers)
        case "timm":
            what = "plain with timm's ViT, its heads made as wide as ours; no norms in its patch embedding"
            return _plain(setting, what, _unseeded(partial(baselines.timm, size)))
        case "timm-own-heads":
            what = f"plain with timm's ViT and its own heads, dim // heads = {size['dim'] // size['heads']} wide"
            return _plain(setting, what, _unseeded(partial(baselines.timm, size, wide_heads=False)))
        case "lightning":
            what = "Lightning's defaults and plain's DataLoader around vit-pytorch's ViT"
            return Contestant(what, vit, partial(LightningDefaults, new_net=vit, **_loop_options(setting)))
    raise ValueError(f"unknown arm {name!r}; choose from {', '.join(NAMES)}")


def _unseeded(make: Callable[[], nn.Module]) -> NewNet:
    """Networks of other people draw from torch's global generator, which the loop seeds."""
    return lambda seed: make()


def _ours(setting: Setting, what: str, *overrides: str, compiled: bool = False) -> Contestant:
    overrides, epochs = (*setting.overrides, *overrides), _epochs(setting)
    make = partial(VitbnArm, overrides=overrides, epochs=epochs, compiled=compiled)
    return Contestant(what, setting.new_net, make)


def _plain(setting: Setting, what: str, new_net: NewNet, **changes: Any) -> Contestant:
    return Contestant(what, new_net, partial(PlainLoop, new_net=new_net, **_loop_options(setting), **changes))


def _loop_options(setting: Setting) -> dict[str, Any]:
    return {key: setting.config[key] for key in ("batch_size", "val_batch_size", "lr")} | {"device": setting.device}


def _best_workers(setting: Setting, source: Source, new_net: NewNet) -> int:
    few = _few(setting, source, TRIAL)
    loop = partial(PlainLoop, few, new_net, **_loop_options(setting), fused=True)
    return best_workers(lambda workers: loop(workers=workers), setting.new_watch)


def _few(setting: Setting, source: Source, batches: int) -> Source:
    """So many training batches, and one batch of test images."""
    train = first(source.train, batches * setting.config["batch_size"])
    return Source(train, first(source.test, setting.config["val_batch_size"]), source.classes)


def _epochs(setting: Setting) -> int:
    """A GPU's epoch is so short that what a run pays once must be shared by as many as the article trains."""
    return setting.options.epochs or (10 if setting.device.type == "cuda" else 1)
