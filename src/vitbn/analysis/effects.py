"""The effect a claim's part asks for: levels, differences and drops per seed, shares, and when an arm gets ahead."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from vitbn.analysis.arms import FinishedRuns
from vitbn.analysis.claims import INCONCLUSIVE, MIN_SEEDS, REFUTED, SUPPORTED, Part, PartResult, judge, region
from vitbn.analysis.comparisons import metric_value
from vitbn.analysis.confounds import studied_keys, tally
from vitbn.analysis.formatting import onset_text
from vitbn.analysis.records import RunRecord
from vitbn.analysis.stats import Interval, Onset, onset, paired_interval, rank_correlation, share_interval

INF = math.inf
Filter = dict[str, Any]


class AmbiguousArm(Exception):
    """A filter that fits two runs of one seed."""


def by_seed(wanted: Filter, runs: FinishedRuns) -> dict[int, RunRecord]:
    """The finished runs that fit, one per seed."""
    run_of: dict[int, RunRecord] = {}
    for run in runs.fitting(wanted):
        if run.seed in run_of:
            raise AmbiguousArm(f"two runs of seed {run.seed} fit: {run_of[run.seed].run_id} and {run.run_id}")
        run_of[run.seed] = run
    return run_of


def effect(part: Part, runs: FinishedRuns) -> PartResult:
    """Level, difference, drop or difference of drops: one signed sum per seed."""
    ends = [(part.start, 1), (part.end, -1)] if part.start or part.end else [({}, 1)]
    arms = [(arm, sign) for arm, sign in ((part.a, 1), (part.b, -1)) if arm]
    terms = [(by_seed(arm | end, runs), arm_sign * end_sign) for arm, arm_sign in arms for end, end_sign in ends]
    shared = sorted(set.intersection(*(set(term) for term, _ in terms)))
    values = {seed: _sum([(_score(part, term[seed]), sign) for term, sign in terms]) for seed in shared}
    values = {seed: value for seed, value in values.items() if math.isfinite(value)}
    interval = paired_interval(list(values.values()))
    verdict = judge(interval, region(part))
    notes = []
    if len(values) < len(shared):
        notes.append(f"{len(shared) - len(values)} seeds lack {'steps.csv' if part.steps else part.metric} there")
    unstable = {seed for seed in values if any(term[seed].status == "diverged" for term, _ in terms)}
    notes += _stability(part, values, unstable, verdict)
    if _tiny(interval, part):
        notes.append(f"any effect is smaller than {part.smallest_effect:g}, the smallest worth calling one")
    notes += _confounds(part, runs, values.keys())
    return PartResult(part, verdict, interval, tuple(notes))


def diverged_share(part: Part, runs: FinishedRuns) -> PartResult:
    """The share of an arm's finished runs that diverged."""
    arm = runs.fitting(part.a)
    diverged = sum(run.status == "diverged" for run in arm)
    seeds = len({run.seed for run in arm})
    interval = share_interval(diverged, len(arm))
    notes = (f"{diverged} of {len(arm)} runs diverged, {seeds} seeds",) if arm else ()
    return PartResult(part, judge(interval, region(part), seeds), interval, notes)


def correlation(part: Part, runs: FinishedRuns) -> PartResult:
    """The rank correlation, over the arm's runs, of a measurement after epoch 1 and the metric at the end."""
    arm = runs.fitting(part.a)
    pairs = [(metric_value(run, part.predictor, 1), metric_value(run, part.metric)) for run in arm]
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    found = rank_correlation(*zip(*known, strict=True)) if known else None
    seeds = len({run.seed for run in arm})
    notes = (f"{len(known)} runs of {seeds} seeds",) if known else ("no instruments.csv: callbacks=instruments",)
    if found is None:
        return PartResult(part, INCONCLUSIVE, Interval(math.nan, None, None, 0, "Fisher z"), notes)
    return PartResult(part, judge(found, region(part), seeds), found, notes)


def critical_depth(part: Part, runs: FinishedRuns) -> PartResult:
    """SUPPORTED where a is surely ahead of b from some depth on, REFUTED where it is not at the deepest."""
    depth = _depth_onset(part, {}, runs)
    verdict = INCONCLUSIVE
    if depth.n >= MIN_SEEDS and depth.low is not None and depth.high is not None:
        verdict = SUPPORTED if depth.high < INF else REFUTED if depth.low == INF else INCONCLUSIVE
    notes = (f"depths {depth.first:g} to {depth.last:g}", *_confounds(part, runs))
    return PartResult(part, verdict, _as_interval(depth), notes)


def critical_depth_fall(part: Part, runs: FinishedRuns) -> PartResult:
    """SUPPORTED where the lowest possible depth at `from` lies above the highest possible one at `to`."""
    start, end = _depth_onset(part, part.start, runs), _depth_onset(part, part.end, runs)
    depths = [
        f"critical depth {onset_text(depth)} at lr {where.get('lr', '?')}"
        for depth, where in ((start, part.start), (end, part.end))
    ]
    notes = (*depths, *_confounds(part, runs))
    n = min(start.n, end.n)
    if start.low is None or start.high is None or end.low is None or end.high is None:
        return PartResult(part, INCONCLUSIVE, Interval(math.nan, None, None, n, "onset"), notes)
    start_low, end_low = _lowest(start), _lowest(end)
    estimate = _minus(start.estimate, end.estimate)
    fall = Interval(estimate, _minus(start_low, end.high), _minus(start.high, end_low), n, "onset")
    verdict = INCONCLUSIVE
    if n >= MIN_SEEDS:
        verdict = SUPPORTED if start_low > end.high else REFUTED if start.high <= end_low else INCONCLUSIVE
    return PartResult(part, verdict, fall, notes)


def overtakes(part: Part, runs: FinishedRuns) -> PartResult:
    """SUPPORTED where a is surely not ahead at first and surely ahead from some epoch to the last."""
    lengths = [len(run.rows.get("epoch", ())) for run in runs.fitting(part.a)]
    epochs = range(1, max(lengths, default=1) + 1)
    lead = onset({epoch: _leads(part, part.a, part.b, runs, epoch) for epoch in epochs})
    verdict = INCONCLUSIVE
    if lead.n >= MIN_SEEDS and lead.low is not None and lead.high is not None:
        if lead.first < lead.low and lead.high < INF:
            verdict = SUPPORTED
        elif lead.low == INF or lead.high == lead.first:
            verdict = REFUTED
    return PartResult(part, verdict, _as_interval(lead), tuple(_confounds(part, runs)))


def _sum(terms: list[tuple[float | None, int]]) -> float:
    return sum(math.nan if value is None else sign * value for value, sign in terms)


def _score(part: Part, run: RunRecord) -> float | None:
    if part.steps is None:
        return metric_value(run, part.metric, part.epoch)
    table = run.steps()
    if "step" not in table or part.metric not in table:
        return None
    inside = (table["step"] >= part.steps[0]) & (table["step"] <= part.steps[1])
    return float(np.mean(table[part.metric][inside])) if inside.any() else None


def _stability(part: Part, values: dict[int, float], unstable: set[int], verdict: str) -> list[str]:
    """How many seeds hold a diverged run, and whether the verdict hangs on them."""
    if not unstable:
        return []
    without = judge(paired_interval([values[seed] for seed in values if seed not in unstable]), region(part))
    note = f"diverged runs in {len(unstable)} of {len(values)} seeds, scored as guesses"
    return [note + (f"; without these seeds {without}" if without != verdict else "")]


def _tiny(interval: Interval, part: Part) -> bool:
    """An effect that is surely too small to matter, where the statement only says greater or less."""
    if interval.low is None or interval.high is None or part.expect not in ("greater", "less") or part.than:
        return False
    return max(abs(interval.low), abs(interval.high)) < part.smallest_effect


def _depth_onset(part: Part, end: Filter, runs: FinishedRuns) -> Onset:
    """Depth from which a is ahead of b by the smallest effect; every depth of the filter needs its runs."""
    leads = {}
    for depth in _depths(part.a | end):
        here = end | {"depth": depth}
        leads[depth] = _leads(part, part.a | here, part.b | here, runs, part.epoch)
    return onset(leads, part.smallest_effect)


def _depths(wanted: Filter) -> list[Any]:
    depths = wanted.get("depth")
    return depths if isinstance(depths, list) else [depths]


def _leads(part: Part, one: Filter, two: Filter, runs: FinishedRuns, epoch: int | None) -> list[float]:
    """Per shared seed how far a is ahead of b; ahead means a lower loss."""
    first, second = by_seed(one, runs), by_seed(two, runs)
    sign = -1 if part.metric.endswith("loss") else 1
    scores = [
        (metric_value(first[seed], part.metric, epoch), metric_value(second[seed], part.metric, epoch))
        for seed in sorted(first.keys() & second.keys())
    ]
    return [sign * (a - b) for a, b in scores if a is not None and b is not None]


def _lowest(depth: Onset) -> float:
    """Bound from below, knowing that an onset at the first depth tried may lie before it."""
    if depth.low == INF:
        return depth.last + 1
    return 1.0 if depth.low is None or depth.low == depth.first else depth.low


def _as_interval(lead: Onset) -> Interval:
    return Interval(lead.estimate, lead.low, lead.high, lead.n, "onset")


def _minus(one: float, two: float) -> float:
    return math.nan if one == two == INF else one - two


def _confounds(part: Part, runs: FinishedRuns, seeds: Iterable[int] | None = None) -> list[str]:
    """What differs between the runs of a pair beyond the arms (or, in a drop of one arm, beyond its ends)."""
    if part.b:
        ends = [end for end in (part.start, part.end) if end] or [{}]
        sides = [(part.a | end, part.b | end) for end in ends]
        studied = studied_keys(part.a, part.b)
    elif part.start:
        sides, studied = [(part.a | part.start, part.a | part.end)], studied_keys(part.start, part.end)
    else:
        return []
    if part.kind.startswith("critical_depth"):  # the only kinds that read a run of every depth
        sides = [(one | {"depth": depth}, two | {"depth": depth}) for one, two in sides for depth in _depths(one)]
    runs_of = [(by_seed(one, runs), by_seed(two, runs)) for one, two in sides]
    pairs = [
        (one[seed], two[seed])
        for one, two in runs_of
        for seed in sorted(one.keys() & two.keys())
        if seeds is None or seed in seeds
    ]
    return [f"confound: {line} ({count} of {len(pairs)} pairs)" for line, count in tally(pairs, studied).items()]
