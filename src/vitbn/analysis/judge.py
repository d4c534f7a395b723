"""The rule that turns an effect into a verdict.

The statement allows a region of effects. The 95 % interval wholly inside: SUPPORTED; wholly outside: REFUTED;
across its edge, or fewer than 3 seeds: INCONCLUSIVE.
"""

import math
from dataclasses import dataclass

from vitbn.analysis.claims import Part
from vitbn.analysis.stats import Interval

SUPPORTED, REFUTED, INCONCLUSIVE = "SUPPORTED", "REFUTED", "INCONCLUSIVE"
MIN_SEEDS = 3


@dataclass(frozen=True)
class PartResult:
    """A part's verdict and what it rests on."""

    part: Part
    verdict: str
    effect: Interval
    notes: tuple[str, ...] = ()


def region(part: Part) -> tuple[float, float]:
    """The effects that the statement allows, as an interval."""
    centre = part.than
    return {
        "greater": (centre, math.inf),
        "less": (-math.inf, centre),
        "equal": (centre - part.smallest_effect, centre + part.smallest_effect),
        "far_greater": (centre + part.margin, math.inf),
        "far_less": (-math.inf, centre - part.margin),
    }[part.expect]


def judge(interval: Interval, allowed: tuple[float, float], seeds: int | None = None) -> str:
    """Where the interval lies beside the allowed region; `seeds` where they are fewer than its n."""
    if interval.low is None or interval.high is None or (interval.n if seeds is None else seeds) < MIN_SEEDS:
        return INCONCLUSIVE
    if allowed[0] < interval.low and interval.high < allowed[1]:
        return SUPPORTED
    if interval.high <= allowed[0] or interval.low >= allowed[1]:
        return REFUTED
    return INCONCLUSIVE
