"""Means, shares and correlations over seeds with their intervals, and when one curve overtakes another."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95  # of intervals that describe; those of verdicts have look_level
THRESHOLDS = (0.90, 0.95, 0.97)


@dataclass(frozen=True)
class Interval:
    """An estimate from n values with its interval; low and high are None where none can be given."""

    estimate: float
    low: float | None
    high: float | None
    n: int
    method: str  # "t", "exact", "Fisher z", "onset", "single seed" or "no runs"


NO_RUNS = Interval(math.nan, None, None, 0, "no runs")


@dataclass(frozen=True)
class Onset:
    """From which x on one arm is ahead for good; see `onset`."""

    estimate: float
    low: float | None
    high: float | None
    n: int  # the fewest seeds at any x
    first: float
    last: float
    margin: float = 0.0
    at_first: Interval = NO_RUNS  # the lead at the first x
    at_last: Interval = NO_RUNS

    @property
    def overtakes(self) -> bool:
        """Whether the lead is surely not there at the first x and surely there at the last."""
        return (
            self.at_first.high is not None and self.at_first.high <= self.margin and self.high not in (None, math.inf)
        )


def mean_interval(values: Sequence[float], level: float = LEVEL, resolution: float = 0.0) -> Interval:
    """Mean over seeds with Student's t interval; one value has none.

    It reaches at least the resolution of what was measured to each side: seeds that agree do not make it exact.
    """
    data = np.asarray(values, dtype=float)
    n = len(data)
    if n < 2:
        return Interval(float(data[0]), None, None, 1, "single seed") if n else NO_RUNS
    from scipy.special import stdtrit

    mean = float(data.mean())
    reach = max(float(stdtrit(n - 1, (1 + level) / 2) * data.std(ddof=1)) / math.sqrt(n), resolution)
    return Interval(mean, mean - reach, mean + reach, n, "t")


def share_interval(shares: Sequence[float], level: float = LEVEL) -> Interval:
    """Mean of one share per seed with the exact (Clopper-Pearson) interval of n seeds, whose hits are their sum.

    With one run per seed it is the usual one. Several runs of a seed may all depend on it and count as one observation.
    """
    n, hits = len(shares), math.fsum(shares)
    if not n:
        return NO_RUNS
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = float(betaincinv(hits, n - hits + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0
    return Interval(hits / n, low, high, n, "exact")


def rank_correlation(
    x: Sequence[float], y: Sequence[float], *, level: float = LEVEL, seeds: int | None = None
) -> Interval | None:
    """Spearman's, with an interval by Fisher's z of variance (1 + r^2/2) / (n - 3) (Bonett and Wright, 2000).

    Where several values share a seed, n is the number of `seeds`: how far they are alike is not known.
    None where one of the two does not vary, or of fewer than four values or seeds. z is infinite for two equal
    orders, which are therefore taken for half an exchange of neighbours less, 1 - 6 / (k^3 - k) of k values.
    """
    known = np.isfinite(x) & np.isfinite(y)
    xs, ys = np.asarray(x, dtype=float)[known], np.asarray(y, dtype=float)[known]
    values, n = len(xs), len(xs) if seeds is None else seeds
    if n < 4 or not np.ptp(xs) or not np.ptp(ys):
        return None
    from scipy import stats

    r = float(stats.spearmanr(xs, ys).statistic)
    most = 1 - 6 / (values**3 - values)
    z = math.atanh(max(-most, min(most, r)))
    reach = float(stats.norm.ppf((1 + level) / 2)) * math.sqrt((1 + r**2 / 2) / (n - 3))
    return Interval(r, min(r, math.tanh(z - reach)), max(r, math.tanh(z + reach)), n, "Fisher z")


def onset(
    differences: Mapping[Any, Sequence[float]], margin: float = 0.0, level: float = LEVEL, resolution: float = 0.0
) -> Onset:
    """The smallest x from which on, up to the largest x, the mean paired difference exceeds the margin.

    With x = depth it is the critical depth, with x = epoch the crossover; infinite where the margin is not
    exceeded at the largest x. The interval inverts the interval of every x: `low` is the smallest x from
    which on every upper end exceeds the margin (may be ahead), `high` the same for every lower end (surely
    ahead). Needs two seeds at every x.
    """
    xs = sorted(differences)
    intervals = {x: mean_interval(differences[x], level, resolution) for x in xs}
    start = dict.fromkeys(("estimate", "high", "low"), float("inf"))
    ahead = list(start)
    for x in reversed(xs):
        ends = {name: getattr(intervals[x], name) for name in ahead}
        ahead = [name for name, end in ends.items() if end is not None and end > margin]
        start |= dict.fromkeys(ahead, x)
        if not ahead:
            break
    counts = min(interval.n for interval in intervals.values())
    # where the upper ends begin to exceed the margin is the earliest onset, and the lower ends give the latest
    low, high = (start["high"], start["low"]) if counts >= 2 else (None, None)
    return Onset(start["estimate"], low, high, counts, xs[0], xs[-1], margin, intervals[xs[0]], intervals[xs[-1]])


def epochs_to(epochs: np.ndarray, accuracy: np.ndarray, threshold: float) -> float:
    """The first epoch whose accuracy is at least the threshold; infinite where none is."""
    reached = np.flatnonzero(accuracy >= threshold)
    return float(epochs[reached[0]]) if len(reached) else float("inf")


def seconds_to(seconds: np.ndarray, accuracy: np.ndarray, threshold: float) -> float:
    """Seconds of all epochs up to and with the first that reaches the threshold; infinite where none does."""
    reached = np.flatnonzero(accuracy >= threshold)
    return float(np.sum(seconds[: reached[0] + 1])) if len(reached) else float("inf")
