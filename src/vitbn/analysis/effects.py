"""The effect a claim's part asks for, seed by seed: levels, differences, drops, shares and correlations."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitbn.analysis.arms import FinishedRuns
from vitbn.analysis.claims import Part, judge, region
from vitbn.analysis.comparisons import metric_value, resolution
from vitbn.analysis.confounds import studied_keys, tally
from vitbn.analysis.records import RunRecord
from vitbn.analysis.stats import Interval, mean_interval, rank_correlation, share_interval

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


@dataclass(frozen=True)
class Effect:
    """What a part asks for, still to be measured over some of its seeds."""

    seeds: Iterable[int]  # where everything that it needs is there
    over: Callable[[Sequence[int], float], tuple[Interval, str]]  # seeds, level -> interval and what it says
    notes: Sequence[str]
    unstable: frozenset[int] = frozenset()  # seeds with a diverged run


def effect(part: Part, runs: FinishedRuns) -> Effect:
    """Level, difference, drop or difference of drops: one signed sum per seed."""
    ends = [(part.start, 1), (part.end, -1)] if part.start or part.end else [({}, 1)]
    arms = [(arm, sign) for arm, sign in ((part.a, 1), (part.b, -1)) if arm]
    terms = [(by_seed(arm | end, runs), arm_sign * end_sign) for arm, arm_sign in arms for end, end_sign in ends]
    shared = sorted(set.intersection(*(set(term) for term, _ in terms)))
    values = {seed: _sum([(_score(part, term[seed]), sign) for term, sign in terms]) for seed in shared}
    values = {seed: value for seed, value in values.items() if math.isfinite(value)}
    step = smallest_step(part, runs)

    def over(seeds: Sequence[int], level: float) -> tuple[Interval, str]:
        interval = mean_interval([values[seed] for seed in seeds], level, step)
        return interval, judge(interval, region(part))

    notes = confounds(part, runs, values.keys())
    if len(values) < len(shared):
        lacking = f"{len(shared) - len(values)} seeds lack {'steps.csv' if part.steps else part.metric} there"
        notes = [lacking, *notes]
    unstable = {seed for seed in values if any(term[seed].status == "diverged" for term, _ in terms)}
    return Effect(values, over, notes, frozenset(unstable))


def diverged_share(part: Part, runs: FinishedRuns) -> Effect:
    """The share of an arm's finished runs that diverged: one share per seed, as its runs are one observation."""
    complete = set.intersection(*({run.seed for run in runs.fitting(cell)} for cell in part.needs()))
    diverged: dict[int, list[bool]] = {seed: [] for seed in complete}
    for run in runs.fitting(part.a):
        if run.seed in complete:
            diverged[run.seed].append(run.status == "diverged")

    def over(seeds: Sequence[int], level: float) -> tuple[Interval, str]:
        interval = share_interval([sum(diverged[seed]) / len(diverged[seed]) for seed in seeds], level)
        return interval, judge(interval, region(part))

    counts = [sum(map(count, diverged.values())) for count in (sum, len)]
    return Effect(
        diverged, over, [f"{counts[0]} of {counts[1]} runs diverged, {len(diverged)} seeds"] if diverged else []
    )


def correlation(part: Part, runs: FinishedRuns) -> Effect:
    """The rank correlation, over the arm's runs, of a measurement after epoch 1 and the metric at the end."""
    pairs: dict[int, list[tuple[float, float]]] = {}
    for run in runs.fitting(part.a):
        x, y = metric_value(run, part.predictor, 1), metric_value(run, part.metric)
        if x is not None and y is not None and math.isfinite(x) and math.isfinite(y):
            pairs.setdefault(run.seed, []).append((x, y))

    def over(seeds: Sequence[int], level: float) -> tuple[Interval, str]:
        known = [pair for seed in seeds for pair in pairs[seed]]
        found = rank_correlation([x for x, _ in known], [y for _, y in known], level=level, seeds=len(seeds))
        interval = found or Interval(math.nan, None, None, len(seeds), "Fisher z")
        return interval, judge(interval, region(part))

    note = f"{sum(map(len, pairs.values()))} runs of {len(pairs)} seeds"
    return Effect(pairs, over, [note if pairs else "no instruments.csv: callbacks=instruments"])


def smallest_step(part: Part, runs: FinishedRuns) -> float:
    """The resolution of the part's metric, told by a run of its arm or else of the study."""
    return resolution(part.metric, [*runs.fitting(part.a), *runs.runs])


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


def confounds(part: Part, runs: FinishedRuns, seeds: Iterable[int] | None = None) -> list[str]:
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
        sides = [(one | {"depth": depth}, two | {"depth": depth}) for one, two in sides for depth in depths(one)]
    runs_of = [(by_seed(one, runs), by_seed(two, runs)) for one, two in sides]
    pairs = [
        (one[seed], two[seed])
        for one, two in runs_of
        for seed in sorted(one.keys() & two.keys())
        if seeds is None or seed in seeds
    ]
    return [f"confound: {line} ({count} of {len(pairs)} pairs)" for line, count in tally(pairs, studied).items()]


def depths(wanted: Filter) -> list[Any]:
    """The depths that a filter asks for."""
    chosen = wanted.get("depth")
    return chosen if isinstance(chosen, list) else [chosen]
