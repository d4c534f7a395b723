"""The effects of a claim's part that ask from where on an arm is ahead: from which depth, from which epoch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vitbn.analysis.arms import FinishedRuns
from vitbn.analysis.claims import INCONCLUSIVE, REFUTED, SUPPORTED, Part, judge
from vitbn.analysis.comparisons import metric_value
from vitbn.analysis.effects import Effect, Filter, by_seed, confounds, depths, smallest_step
from vitbn.analysis.formatting import onset_text
from vitbn.analysis.stats import Interval, Onset, onset

INF = math.inf
Leads = Mapping[Any, dict[int, float]]  # depth or epoch -> seed -> how far a is ahead of b


def critical_depth(part: Part, runs: FinishedRuns) -> Effect:
    """SUPPORTED where a is surely ahead of b from some depth on, REFUTED where it is not at the deepest."""
    leads = _leads_by_depth(part, {}, runs)
    step = smallest_step(part, runs)

    def over(seeds: Sequence[int], level: float) -> tuple[Interval, str]:
        depth = onset(_chosen(leads, seeds), part.smallest_effect, level, step)
        return _as_interval(depth), judge(depth.at_last, (part.smallest_effect, INF))

    return Effect(_shared(leads), over, [f"depths {min(leads):g} to {max(leads):g}", *confounds(part, runs)])


def critical_depth_fall(part: Part, runs: FinishedRuns) -> Effect:
    """SUPPORTED where the lowest possible depth at `from` lies above the highest possible one at `to`.

    The lowest possible depth hangs on every depth that was tried, the highest on one: together they share the
    chance to err.
    """
    starts, ends = (_leads_by_depth(part, end, runs) for end in (part.start, part.end))
    tried = max(len(starts), len(ends))
    step = smallest_step(part, runs)
    shared = [seed for seed in _shared(starts) if seed in _shared(ends)]

    def over(seeds: Sequence[int], level: float) -> tuple[Interval, str]:
        level = 1 - (1 - level) / (tried + 1)
        start, end = (onset(_chosen(leads, seeds), part.smallest_effect, level, step) for leads in (starts, ends))
        if start.low is None or start.high is None or end.low is None or end.high is None:
            return Interval(math.nan, None, None, start.n, "onset"), INCONCLUSIVE
        start_low, end_low = _lowest(start), _lowest(end)
        estimate = _minus(start.estimate, end.estimate)
        fall = Interval(estimate, _minus(start_low, end.high), _minus(start.high, end_low), start.n, "onset")
        verdict = SUPPORTED if start_low > end.high else REFUTED if start.high <= end_low else INCONCLUSIVE
        return fall, verdict

    notes = []
    for where, leads in ((part.start, starts), (part.end, ends)):
        if seeds := sorted(_shared(leads)):
            depth = onset(_chosen(leads, seeds), part.smallest_effect, resolution=step)
            notes.append(f"critical depth {onset_text(depth)} at lr {where.get('lr', '?')}")
    return Effect(shared, over, [*notes, *confounds(part, runs)])


def overtakes(part: Part, runs: FinishedRuns) -> Effect:
    """SUPPORTED where a is surely not ahead after the first epoch and surely ahead after the last.

    REFUTED where one of these two says the opposite. No other epoch decides, so none can be picked out.
    """
    lengths = [len(run.rows.get("epoch", ())) for run in runs.fitting(part.a)]
    epochs = range(1, max(lengths, default=1) + 1)
    leads = {epoch: _leads(part, part.a, part.b, runs, epoch) for epoch in epochs}
    step = smallest_step(part, runs)

    def over(seeds: Sequence[int], level: float) -> tuple[Interval, str]:
        lead = onset(_chosen(leads, seeds), 0.0, level, step)
        opposite = REFUTED in (judge(lead.at_first, (-INF, 0)), judge(lead.at_last, (0, INF)))
        return _as_interval(lead), SUPPORTED if lead.overtakes else REFUTED if opposite else INCONCLUSIVE

    return Effect(_shared(leads), over, confounds(part, runs))


def _leads_by_depth(part: Part, end: Filter, runs: FinishedRuns) -> Leads:
    """For every depth of the filter; each needs its runs."""
    cells = {depth: end | {"depth": depth} for depth in depths(part.a | end)}
    return {depth: _leads(part, part.a | cell, part.b | cell, runs, part.epoch) for depth, cell in cells.items()}


def _leads(part: Part, one: Filter, two: Filter, runs: FinishedRuns, epoch: int | None) -> dict[int, float]:
    """Per shared seed how far a is ahead of b; ahead means a lower loss."""
    first, second = by_seed(one, runs), by_seed(two, runs)
    sign = -1 if part.metric.endswith("loss") else 1
    scores = {
        seed: (metric_value(first[seed], part.metric, epoch), metric_value(second[seed], part.metric, epoch))
        for seed in sorted(first.keys() & second.keys())
    }
    return {seed: sign * (a - b) for seed, (a, b) in scores.items() if a is not None and b is not None}


def _shared(leads: Leads) -> set[int]:
    return set.intersection(*(set(of_seed) for of_seed in leads.values()))


def _chosen(leads: Leads, seeds: Sequence[int]) -> dict[Any, list[float]]:
    return {x: [of_seed[seed] for seed in seeds] for x, of_seed in leads.items()}


def _lowest(depth: Onset) -> float:
    """Bound from below, knowing that an onset at the first depth tried may lie before it."""
    if depth.low == INF:
        return depth.last + 1
    return 1.0 if depth.low is None or depth.low == depth.first else depth.low


def _as_interval(lead: Onset) -> Interval:
    return Interval(lead.estimate, lead.low, lead.high, lead.n, "onset")


def _minus(one: float, two: float) -> float:
    return math.nan if one == two == INF else one - two
