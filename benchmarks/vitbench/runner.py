"""Arms that take turns in one process, and the statistics of their times."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch._dynamo
from torch._dynamo.utils import counters

from vitbn.errors import InputError

Clock = Callable[[], float]


class Stopwatch:
    """Adds up the seconds spent inside `with`; `finish` makes the clock wait for the device's own work."""

    def __init__(self, finish: Callable[[], None], clock: Clock = time.perf_counter) -> None:
        self.finish = finish
        self.clock = clock
        self.seconds = 0.0

    def __enter__(self) -> "Stopwatch":
        self.finish()
        self._started = self.clock()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()
        self.seconds += self.clock() - self._started


@dataclass(frozen=True)
class Turn:
    """One turn's units of work (epochs, images), and figures to stand beside the speed."""

    units: float = 1
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """One contestant. `turn(number, watch)` prepares, works inside `with watch` and returns what it did."""

    name: str
    what: str
    turn: Callable[[int, Stopwatch], Turn]
    parameters: int | None = None
    work: dict[str, float] | None = None  # flop and bytes of one unit


def alternate(
    arms: Sequence[Arm],
    rounds: int,
    new_watch: Callable[[], Stopwatch],
    report: Callable[[str], object] = partial(print, flush=True),  # noqa: B008 - it holds no state
) -> list[dict[str, Any]]:
    """Every arm once per round, each round beginning with another arm; one summary per arm, in their order.

    Ratios are taken round by round against the first arm, so that a slow minute of the machine hits both sides.
    """
    seconds: dict[str, list[float]] = {arm.name: [] for arm in arms}
    turns: dict[str, list[Turn]] = {arm.name: [] for arm in arms}
    for number in range(rounds):
        first = number % len(arms)
        for arm in (*arms[first:], *arms[:first]):
            watch = new_watch()
            turn = arm.turn(number, watch)
            seconds[arm.name].append(watch.seconds / turn.units)
            turns[arm.name].append(turn)
            report(f"round {number + 1}/{rounds}  {arm.name}: {watch.seconds:.2f} s")
    return [_summary(arm, seconds[arm.name], seconds[arms[0].name], turns[arm.name]) for arm in arms]


def _summary(arm: Arm, seconds: list[float], reference: list[float], turns: list[Turn]) -> dict[str, Any]:
    ratios = [one / other for one, other in zip(seconds, reference, strict=True)]
    return {
        "name": arm.name,
        "what": arm.what,
        "parameters": arm.parameters,
        "work": arm.work,
        "n": len(seconds),
        "seconds": {**spread(seconds), "all": seconds},
        "ratio": spread(ratios),
        "figures": {name: spread([turn.figures[name] for turn in turns]) for name in turns[0].figures},
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


@contextmanager
def require_compiled(name: str) -> Iterator[None]:
    """InputError unless torch has compiled what runs inside; silently uncompiled code would be timed as compiled.

    Compiled code of an earlier run in the same process counts: torch keeps it.
    """
    # else a network that is compiled again and again runs uncompiled from the ninth time on
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield
    if not counters["stats"]["unique_graphs"]:
        raise InputError(f"{name}: asked for torch.compile, but no graph was compiled; look at TORCH_LOGS=dynamo")
