"""Means and differences over seeds with 95 % intervals, and when one curve overtakes another."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

LEVEL = 0.95
BOOTSTRAP_FROM = 10  # seeds; below, resampling so few values gives intervals that are too short
RESAMPLES = 9_999
THRESHOLDS = (0.90, 0.95, 0.97)


@dataclass(frozen=True)
class Interval:
    """An estimate from n values with its 95 % interval; low and high are None where none can be given."""

    estimate: float
    low: float | None
    high: float | None
    n: int
    method: str  # "t", "bootstrap", "exact", "onset" or "single seed"


@dataclass(frozen=True)
class Onset:
    """From which x on one arm is ahead for good; see `onset`."""

    estimate: float
    low: float | None
    high: float | None
    n: int  # the fewest seeds at any x
    first: float
    last: float


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean over seeds with Student's t interval; one value has no interval."""
    return _interval(np.asarray(values, dtype=float), bootstrap=False)


def paired_interval(differences: Sequence[float]) -> Interval:
    """Mean of same-seed differences: paired t below 10 seeds, bias-corrected bootstrap from there."""
    data = np.asarray(differences, dtype=float)
    return _interval(data, bootstrap=len(data) >= BOOTSTRAP_FROM)


def _interval(data: np.ndarray, bootstrap: bool) -> Interval:
    if not len(data):
        return Interval(float("nan"), None, None, 0, "no runs")
    mean = float(data.mean())
    if len(data) == 1:
        return Interval(mean, None, None, 1, "single seed")
    method = "bootstrap" if bootstrap else "t"
    if np.ptp(data) == 0:  # every seed agrees to the last digit: nothing to spread
        return Interval(mean, mean, mean, len(data), method)
    if bootstrap:
        low, high = _bootstrapped(tuple(data.tolist()))
    else:
        reach = _quantile(len(data) - 1) * data.std(ddof=1) / math.sqrt(len(data))
        low, high = mean - reach, mean + reach
    return Interval(mean, float(low), float(high), len(data), method)


@cache  # the same for every interval of so many seeds, and slow
def _quantile(freedom: int) -> float:
    """Student's t for the two-sided level."""
    from scipy import stats

    return float(stats.t.ppf((1 + LEVEL) / 2, freedom))


@cache  # pictures, tables and verdicts ask for the same
def _bootstrapped(values: tuple[float, ...]) -> tuple[float, float]:
    from scipy import stats

    generator = np.random.default_rng(0)
    chosen: dict[str, Any] = {"confidence_level": LEVEL, "n_resamples": RESAMPLES, "rng": generator}
    result = stats.bootstrap((values,), np.mean, **chosen, batch=500)  # the same resamples, from the cache
    return result.confidence_interval.low, result.confidence_interval.high


def share_interval(hits: int, n: int) -> Interval:
    """A share of runs with its exact (Clopper-Pearson) interval."""
    if not n:
        return Interval(float("nan"), None, None, 0, "no runs")
    from scipy import stats

    low, high = stats.binomtest(hits, n).proportion_ci(LEVEL, method="exact")
    return Interval(hits / n, float(low), float(high), n, "exact")


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Interval | None:
    """Spearman's, with an interval by Fisher's z of variance (1 + r^2/2) / (n - 3) (Bonett and Wright, 2000).

    None where one of the two does not vary, or of fewer than four values. z is infinite for two equal orders, which
    are therefore taken for half an exchange of neighbours less, 1 - 6 / (n^3 - n).
    """
    known = np.isfinite(x) & np.isfinite(y)
    xs, ys = np.asarray(x, dtype=float)[known], np.asarray(y, dtype=float)[known]
    n = len(xs)
    if n < 4 or not np.ptp(xs) or not np.ptp(ys):
        return None
    from scipy import stats

    r = float(stats.spearmanr(xs, ys).statistic)
    most = 1 - 6 / (n**3 - n)
    z = math.atanh(max(-most, min(most, r)))
    reach = float(stats.norm.ppf((1 + LEVEL) / 2)) * math.sqrt((1 + r**2 / 2) / (n - 3))
    return Interval(r, min(r, math.tanh(z - reach)), max(r, math.tanh(z + reach)), n, "Fisher z")


def onset(differences: Mapping[Any, Sequence[float]], margin: float = 0.0) -> Onset:
    """The smallest x from which on, up to the largest x, the mean paired difference exceeds the margin.

    With x = depth it is the critical depth, with x = epoch the crossover; infinite where the margin is not
    exceeded at the largest x. The interval inverts the interval of every x: `low` is the smallest x from
    which on every upper end exceeds the margin (may be ahead), `high` the same for every lower end (surely
    ahead). Needs two seeds at every x.
    """
    xs = sorted(differences)
    counts = min(len(values) for values in differences.values())
    start = dict.fromkeys(("estimate", "high", "low"), float("inf"))
    ahead = list(start)
    for x in reversed(xs):
        interval = paired_interval(differences[x])
        ends = {name: getattr(interval, name) for name in ahead}
        ahead = [name for name, end in ends.items() if end is not None and end > margin]
        start |= dict.fromkeys(ahead, x)
        if not ahead:
            break
    # where the upper ends begin to exceed the margin is the earliest onset, and the lower ends give the latest
    low, high = (start["high"], start["low"]) if counts >= 2 else (None, None)
    return Onset(start["estimate"], low, high, counts, xs[0], xs[-1])


def epochs_to(epochs: np.ndarray, accuracy: np.ndarray, threshold: float) -> float:
    """The first epoch whose accuracy is at least the threshold; infinite where none is."""
    reached = np.flatnonzero(accuracy >= threshold)
    return float(epochs[reached[0]]) if len(reached) else float("inf")


def seconds_to(seconds: np.ndarray, accuracy: np.ndarray, threshold: float) -> float:
    """Seconds of all epochs up to and with the first that reaches the threshold; infinite where none does."""
    reached = np.flatnonzero(accuracy >= threshold)
    return float(np.sum(seconds[: reached[0] + 1])) if len(reached) else float("inf")
