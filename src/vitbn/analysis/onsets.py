"""Parts about when one arm gets ahead for good: over depth (critical depth) and over epochs (overtaking)."""

import math

from vitbn.analysis.arms import Ended
from vitbn.analysis.claims import Part
from vitbn.analysis.comparisons import outcome
from vitbn.analysis.effects import Filter, by_seed
from vitbn.analysis.formatting import onset_text
from vitbn.analysis.judge import INCONCLUSIVE, MIN_SEEDS, REFUTED, SUPPORTED, PartResult
from vitbn.analysis.stats import Interval, Onset, onset

INF = math.inf


def critical_depth(part: Part, runs: Ended) -> PartResult:
    """SUPPORTED where a is surely ahead of b from some depth on, REFUTED where it is not at the deepest."""
    found = _depth_onset(part, {}, runs)
    verdict = INCONCLUSIVE
    if found.n >= MIN_SEEDS and found.low is not None and found.high is not None:
        verdict = SUPPORTED if found.high < INF else REFUTED if found.low == INF else INCONCLUSIVE
    return PartResult(part, verdict, _as_interval(found), (f"depths {found.first:g} to {found.last:g}",))


def critical_depth_fall(part: Part, runs: Ended) -> PartResult:
    """SUPPORTED where the lowest possible depth at `from` lies above the highest possible one at `to`."""
    one, two = _depth_onset(part, part.start, runs), _depth_onset(part, part.end, runs)
    notes = tuple(
        f"critical depth {onset_text(found)} at lr {end.get('lr', '?')}"
        for found, end in ((one, part.start), (two, part.end))
    )
    n = min(one.n, two.n)
    if one.low is None or one.high is None or two.low is None or two.high is None:
        return PartResult(part, INCONCLUSIVE, Interval(math.nan, None, None, n, "onset"), notes)
    one_low, two_low = _lowest(one), _lowest(two)
    fall = Interval(
        _minus(one.estimate, two.estimate), _minus(one_low, two.high), _minus(one.high, two_low), n, "onset"
    )
    verdict = INCONCLUSIVE
    if n >= MIN_SEEDS:
        verdict = SUPPORTED if one_low > two.high else REFUTED if one.high <= two_low else INCONCLUSIVE
    return PartResult(part, verdict, fall, notes)


def overtakes(part: Part, runs: Ended) -> PartResult:
    """SUPPORTED where a is surely not ahead at first and surely ahead from some epoch to the last."""
    lengths = [len(run.rows.get("epoch", ())) for run in runs.fitting(part.a)]
    found = onset(
        {epoch: _differences(part, part.a, part.b, runs, epoch) for epoch in range(1, max(lengths, default=1) + 1)}
    )
    verdict = INCONCLUSIVE
    if found.n >= MIN_SEEDS and found.low is not None and found.high is not None:
        if found.first < found.low and found.high < INF:
            verdict = SUPPORTED
        elif found.low == INF or found.high == found.first:
            verdict = REFUTED
    return PartResult(part, verdict, _as_interval(found))


def _depth_onset(part: Part, end: Filter, runs: Ended) -> Onset:
    """Depth from which a is ahead of b by the smallest effect; every depth of the filter needs its runs."""
    depths = (part.a | end)["depth"]
    found = {}
    for depth in depths if isinstance(depths, list) else [depths]:
        here = end | {"depth": depth}
        found[depth] = _differences(part, part.a | here, part.b | here, runs, part.epoch)
    return onset(found, part.smallest_effect)


def _differences(part: Part, one: Filter, two: Filter, runs: Ended, epoch: int | None) -> list[float]:
    """Per shared seed how far a is ahead of b; ahead means a lower loss."""
    first, second = by_seed(one, runs), by_seed(two, runs)
    sign = -1 if part.metric.endswith("loss") else 1
    pairs = [
        (outcome(first[seed], part.metric, epoch), outcome(second[seed], part.metric, epoch))
        for seed in sorted(first.keys() & second.keys())
    ]
    return [sign * (a - b) for a, b in pairs if a is not None and b is not None]


def _lowest(found: Onset) -> float:
    """Bound from below, knowing that an onset at the first depth tried may lie before it."""
    if found.low == INF:
        return found.last + 1
    return 1.0 if found.low is None or found.low == found.first else found.low


def _as_interval(found: Onset) -> Interval:
    return Interval(found.estimate, found.low, found.high, found.n, "onset")


def _minus(one: float, two: float) -> float:
    return math.nan if one == two == INF else one - two
