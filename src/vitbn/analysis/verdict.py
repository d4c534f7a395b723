"""Claims held against runs: a verdict per part and for the whole, and the commands for what is missing."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from vitbn.analysis.arms import FinishedRuns
from vitbn.analysis.claims import INCONCLUSIVE, MIN_SEEDS, NOT_RUN, REFUTED, Claim, Part, PartResult
from vitbn.analysis.effects import (
    AmbiguousArm,
    correlation,
    critical_depth,
    critical_depth_fall,
    diverged_share,
    effect,
    overtakes,
)
from vitbn.analysis.stats import Interval

_MEASURES: dict[str, Callable[[Part, FinishedRuns], PartResult]] = {
    "level": effect,
    "difference": effect,
    "drop": effect,
    "drop_difference": effect,
    "diverged_share": diverged_share,
    "critical_depth": critical_depth,
    "critical_depth_fall": critical_depth_fall,
    "overtakes": overtakes,
    "correlation": correlation,
}


@dataclass(frozen=True)
class ClaimResult:
    """A claim's verdict, part by part, and what to type next, with the reason."""

    claim: Claim
    verdict: str
    parts: list[PartResult]
    missing: list[str]  # commands that train what it lacks
    advice: str
    commands: list[str]


def judge_claim(claim: Claim, runs: FinishedRuns) -> ClaimResult:
    """Supported when every part is, refuted when one part is, otherwise open."""
    parts = [_judge_part(part, runs) for part in claim.parts]
    verdicts = {result.verdict for result in parts}
    if REFUTED in verdicts:
        overall = REFUTED
    else:
        overall = verdicts.pop() if len(verdicts) == 1 else INCONCLUSIVE
    lacking = missing(claim, runs)
    if lacking:
        advice, commands = "missing, train with", lacking
    elif overall == INCONCLUSIVE:
        advice, commands = "undecided, more seeds narrow the intervals", missing(claim, runs, extra=3)
    else:
        advice, commands = "reproduce with", reproduce(claim, runs)
    return ClaimResult(claim, overall, parts, lacking, advice, commands)


def missing(claim: Claim, runs: FinishedRuns, extra: int = 0) -> list[str]:
    """The commands that train what the claim lacks, or so many extra seeds; `vitbn train` skips what is finished."""
    lacking: dict[str, set[int]] = {}
    for part in claim.parts:
        have = _seeds(part, runs)
        wanted = max(claim.seeds, MIN_SEEDS, len(have) + extra)
        fresh = [seed for seed in range(wanted + len(have)) if seed not in have]
        if part.train and len(have) < wanted:
            lacking.setdefault(part.train, set()).update(fresh[: wanted - len(have)])
    return [_command(train, seeds) for train, seeds in lacking.items()]


def reproduce(claim: Claim, runs: FinishedRuns) -> list[str]:
    """The commands that train the whole claim, with the seeds that are there."""
    seeds: dict[str, set[int]] = {}
    for part in claim.parts:
        if part.train:
            seeds.setdefault(part.train, set()).update(_seeds(part, runs))
    return [_command(train, of_part) for train, of_part in seeds.items()]


def _seeds(part: Part, runs: FinishedRuns) -> set[int]:
    """Seeds for which every run that the part needs is finished."""
    return set.intersection(*({run.seed for run in runs.fitting(cell)} for cell in part.needs()))


def _command(train: str, seeds: set[int]) -> str:
    return f"vitbn train -m {train} seed={','.join(map(str, sorted(seeds)))}"


def _judge_part(part: Part, runs: FinishedRuns) -> PartResult:
    try:
        result = _MEASURES[part.kind](part, runs)
    except AmbiguousArm as error:
        return PartResult(part, INCONCLUSIVE, Interval(float("nan"), None, None, 0, "no runs"), (str(error),))
    return result if result.effect.n else replace(result, verdict=NOT_RUN)
