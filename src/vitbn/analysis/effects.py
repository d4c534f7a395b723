"""The effect a claim's part asks for: levels, differences and drops per seed, shares of diverged runs."""

import math
from typing import Any

import numpy as np

from vitbn.analysis.arms import Ended
from vitbn.analysis.claims import Part
from vitbn.analysis.comparisons import outcome
from vitbn.analysis.confounds import studied_keys, tally
from vitbn.analysis.judge import PartResult, judge, region
from vitbn.analysis.records import Run
from vitbn.analysis.stats import Interval, paired_interval, share_interval

Filter = dict[str, Any]
Seeds = dict[int, Run]


class AmbiguousArm(Exception):
    """A filter that fits two runs of one seed."""


def by_seed(wanted: Filter, runs: Ended) -> Seeds:
    """The ended runs that fit, one per seed."""
    found: Seeds = {}
    for run in runs.fitting(wanted):
        if run.seed in found:
            raise AmbiguousArm(f"two runs of seed {run.seed} fit: {found[run.seed].run_id} and {run.run_id}")
        found[run.seed] = run
    return found


def effect(part: Part, runs: Ended) -> PartResult:
    """Level, difference, drop or difference of drops: one signed sum per seed."""
    ends = [(part.start, 1), (part.end, -1)] if part.start or part.end else [({}, 1)]
    arms = [(arm, sign) for arm, sign in ((part.a, 1), (part.b, -1)) if arm]
    terms = [(by_seed(arm | end, runs), sign * way) for arm, sign in arms for end, way in ends]
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
    notes += _confounds(part, runs, list(values))
    return PartResult(part, verdict, interval, tuple(notes))


def diverged_share(part: Part, runs: Ended) -> PartResult:
    """The share of an arm's ended runs that diverged."""
    chosen = runs.fitting(part.a)
    hits, seeds = sum(run.status == "diverged" for run in chosen), len({run.seed for run in chosen})
    interval = share_interval(hits, len(chosen))
    notes = (f"{hits} of {len(chosen)} runs diverged, {seeds} seeds",) if chosen else ()
    return PartResult(part, judge(interval, region(part), seeds), interval, notes)


def _sum(terms: list[tuple[float | None, int]]) -> float:
    return sum(math.nan if score is None else sign * score for score, sign in terms)


def _score(part: Part, run: Run) -> float | None:
    if part.steps is None:
        return outcome(run, part.metric, part.epoch)
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


def _confounds(part: Part, runs: Ended, seeds: list[int]) -> list[str]:
    """What differs between the runs of a pair beyond the arms (or, in a drop of one arm, beyond its ends)."""
    if part.b:
        ends = [end for end in (part.start, part.end) if end] or [{}]
        sides = [(part.a | end, part.b | end) for end in ends]
        studied = studied_keys(part.a, part.b)
    elif part.start:
        sides, studied = [(part.a | part.start, part.a | part.end)], studied_keys(part.start, part.end)
    else:
        return []
    chosen = [(by_seed(one, runs), by_seed(two, runs)) for one, two in sides]
    pairs = [(one[seed], two[seed]) for one, two in chosen for seed in seeds]
    return [f"confound: {line} ({count} of {len(pairs)} pairs)" for line, count in tally(pairs, studied).items()]
