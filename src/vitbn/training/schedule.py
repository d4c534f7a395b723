"""Learning-rate schedules: vitbn's own, a factor for every step, and any of torch's by `_target_`."""

import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from vitbn.errors import InputError

Factor = Callable[[int], float]
SchedulerConfig = dict[str, Any]  # as Lightning takes it from `configure_optimizers`
NOT_OPTIONS = ("name", "_target_", "_partial_", "interval", "monitor", "warmup")  # the others are the scheduler's
STEPS = "steps"  # as an option's value: the number of the run's steps, without those of the warm-up


def make_schedulers(
    config: dict[str, Any], *, epochs: int, steps_per_epoch: int, max_steps: int = -1
) -> Callable[[Optimizer], list[SchedulerConfig]]:
    """What makes the schedulers of a group of conf/schedule/ for an optimizer; none for the constant rate.

    `steps_per_epoch` is passed in: Lightning's `estimated_stepping_batches` would begin an epoch before a checkpoint's
    position in it is restored.
    """
    if "_target_" in config:
        steps = total_steps(epochs, steps_per_epoch, max_steps)
        return lambda optimizer: _torch_schedulers(config, optimizer, steps=steps)
    factor = make_factor(config, epochs=epochs, steps_per_epoch=steps_per_epoch, max_steps=max_steps)
    if factor is None:
        return lambda optimizer: []
    return lambda optimizer: [{"scheduler": LambdaLR(optimizer, factor), "interval": "step"}]


def total_steps(epochs: int, steps_per_epoch: int, max_steps: int) -> int:
    """Steps of a run that ends after so many epochs or so many steps (-1: no matter how many)."""
    return min(epochs * steps_per_epoch, max_steps) if max_steps > 0 else epochs * steps_per_epoch


def make_factor(config: dict[str, Any], *, epochs: int, steps_per_epoch: int, max_steps: int = -1) -> Factor | None:
    """Step -> factor of the learning rate for one of vitbn's own schedules; None leaves it constant."""
    steps = total_steps(epochs, steps_per_epoch, max_steps)
    warm = round((config.get("warmup") or 0) * steps)
    match config["name"]:
        case None if not warm:
            return None
        case None:
            after = _step(steps_per_epoch=steps_per_epoch, every=epochs + 1, factor=1.0)
        case "step":
            after = _step(steps_per_epoch=steps_per_epoch, every=config["every"], factor=config["factor"])
        case "cosine":
            after = _cosine(first=warm, last=steps, floor=config["floor"])
        case name:
            raise ValueError(f"unknown schedule {name!r}; choose from constant, cosine, step")
    return lambda step: after(step) if step >= warm else (step + 1) / warm * after(step)


def same_start(
    before: dict[str, Any], config: dict[str, Any], *, before_epochs: int, epochs: int, steps_per_epoch: int
) -> bool:
    """Whether a run of fewer epochs had, to the last digit, the learning rates of the first epochs of a longer one."""
    if "_target_" in config:
        return before == config and STEPS not in config.values() and not config.get("warmup")
    short = make_factor(before, epochs=before_epochs, steps_per_epoch=steps_per_epoch)
    long = make_factor(config, epochs=epochs, steps_per_epoch=steps_per_epoch)
    if short is None or long is None:
        return short is long
    steps = range(before_epochs * steps_per_epoch + 1)  # the checkpoint holds the rate of the step after its last
    return all(short(step) == long(step) for step in steps)


def _step(*, steps_per_epoch: int, every: int, factor: float) -> Factor:
    return lambda step: factor ** (step // (every * steps_per_epoch))


def _cosine(*, first: int, last: int, floor: float) -> Factor:
    def factor(step: int) -> float:
        if step < first:
            return 1.0
        done = min(1.0, (step - first) / max(1, last - first))
        return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2

    return factor


def _torch_schedulers(config: dict[str, Any], optimizer: Optimizer, *, steps: int) -> list[SchedulerConfig]:
    """The scheduler that `_target_` names; where it goes by epochs, its warm-up is a second one, by steps."""
    from hydra.utils import get_object

    target, interval = config["_target_"], config.get("interval") or "epoch"
    warm = round((config.get("warmup") or 0) * steps)
    options = {key: value for key, value in config.items() if key not in NOT_OPTIONS}
    options = {key: steps - warm if value == STEPS else value for key, value in options.items()}
    try:
        scheduler = get_object(target)(optimizer, **options)
    except Exception as error:
        raise InputError(f"schedule._target_={target}: {error}") from error
    if not isinstance(scheduler, LRScheduler):
        raise InputError(f"schedule._target_={target}: is not a scheduler of learning rates")
    monitored = isinstance(scheduler, ReduceLROnPlateau)
    # the module steps it, and says what is not measured
    monitor = {"monitor": config.get("monitor") or "val/loss", "strict": False} if monitored else {}
    if not warm:
        return [{"scheduler": scheduler, "interval": interval, **monitor}]
    warmup = LinearLR(optimizer, start_factor=1 / warm, total_iters=warm - 1)
    if interval == "step":
        return [{"scheduler": SequentialLR(optimizer, [warmup, scheduler], [warm]), "interval": "step"}]
    return [{"scheduler": warmup, "interval": "step"}, {"scheduler": scheduler, "interval": "epoch", **monitor}]
