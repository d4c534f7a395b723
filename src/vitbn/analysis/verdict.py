"""Claims held against runs: a verdict per part and for the whole, and the commands for what is missing."""

from collections.abc import Callable
from dataclasses import dataclass

from vitbn.analysis.arms import FinishedRuns
from vitbn.analysis.claims import INCONCLUSIVE, NOT_RUN, REFUTED, Claim, Part, PartResult
from vitbn.analysis.effects import AmbiguousArm, Effect, correlation, diverged_share, effect
from vitbn.analysis.looks import LOOKS, look_level, looks_taken, seeds_judged
from vitbn.analysis.onsets import critical_depth, critical_depth_fall, overtakes
from vitbn.analysis.stats import LEVEL, NO_RUNS, Interval

_EFFECTS: dict[str, Callable[[Part, FinishedRuns], Effect]] = {
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
    sharing: str  # how the parts share the chance to err, where they must


def judge_claim(claim: Claim, runs: FinishedRuns) -> ClaimResult:
    """Supported when every part is, refuted when one part is, otherwise open."""
    ways = sum(2 if part.kind == "overtakes" else 1 for part in claim.parts)  # to be refuted
    parts = [_judge_part(part, runs, ways) for part in claim.parts]
    verdicts = {result.verdict for result in parts}
    if REFUTED in verdicts:
        overall = REFUTED
    else:
        overall = verdicts.pop() if len(verdicts) == 1 else INCONCLUSIVE
    lacking = missing(claim, runs)
    if lacking:
        advice, commands = "missing, train with", lacking
    elif overall == INCONCLUSIVE:
        undecided = [result.part for result in parts if result.verdict in (INCONCLUSIVE, NOT_RUN)]
        advice, commands = _next(claim, runs, undecided)
    else:
        advice, commands = "reproduce with", reproduce(claim, runs)
    return ClaimResult(claim, overall, parts, lacking, advice, commands, _sharing(ways))


def _sharing(ways: int) -> str:
    """How so many ways to refute a claim share the chance of refuting a true one; empty where they need not."""
    if look_level(ways) == look_level():
        return ""
    level = f"{100 * look_level(ways):.4g} %"
    return f"A part is refuted by its {level} interval, so that all refute a true claim in at most 5 % of studies."


def _next(claim: Claim, runs: FinishedRuns, undecided: list[Part]) -> tuple[str, list[str]]:
    """What leads an undecided claim to its next look."""
    seeds = min(len(_seeds(part, runs)) for part in undecided)
    taken = f"undecided after look {looks_taken(seeds)} of {len(LOOKS)}"
    for wanted in LOOKS[looks_taken(seeds) :]:
        if commands := missing(claim, runs, wanted):
            return f"{taken}; the next is at {wanted} seeds, train with", commands
    return f"{taken}, the last: more seeds decide nothing; reproduce with", reproduce(claim, runs)


def missing(claim: Claim, runs: FinishedRuns, seeds: int | None = None) -> list[str]:
    """The commands that train what it lacks to have so many seeds, by default those that the claim asks for.

    `vitbn train` skips what is finished.
    """
    wanted = max(claim.seeds, LOOKS[0]) if seeds is None else seeds
    lacking: dict[str, set[int]] = {}
    for part in claim.parts:
        have = _seeds(part, runs)
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


def _judge_part(part: Part, runs: FinishedRuns, ways: int) -> PartResult:
    """What all seeds describe, and the verdict that those of the last look allow: the lowest numbers."""
    try:
        measured = _EFFECTS[part.kind](part, runs)
    except AmbiguousArm as error:
        return PartResult(part, INCONCLUSIVE, NO_RUNS, notes=(str(error),))
    seeds = sorted(measured.seeds)
    whole, _ = measured.over(seeds, LEVEL)
    if not whole.n:
        return PartResult(part, NOT_RUN, whole, notes=tuple(measured.notes))
    look = seeds[: seeds_judged(len(seeds))]
    judged, verdict = _held(measured, look, ways)
    notes = list(measured.notes)
    if _tiny(whole, part):
        notes.insert(0, f"any effect is smaller than {part.smallest_effect:g}, the smallest worth calling one")
    if verdict == INCONCLUSIVE and _held(measured, look, ways=1)[1] == REFUTED:
        levels = (f"{100 * look_level(count):.4g} %" for count in (1, ways))
        notes.insert(0, "outside at {} but not at {}, which it takes to refute one of {} parts".format(*levels, ways))
    if measured.unstable:
        others = [seed for seed in seeds if seed not in measured.unstable]
        _, without = _held(measured, others[: seeds_judged(len(others))], ways)
        note = f"diverged runs in {len(measured.unstable)} of {len(seeds)} seeds, scored as guesses"
        notes.insert(0, note + (f"; without these seeds {without}" if without != verdict else ""))
    return PartResult(part, verdict, whole, judged, tuple(notes))


def _held(measured: Effect, look: list[int], ways: int) -> tuple[Interval, str]:
    """The interval of these seeds at the level of a look, and its verdict; to refute, all ways share the error."""
    if not look:
        return NO_RUNS, INCONCLUSIVE
    judged, verdict = measured.over(look, look_level())
    if verdict == REFUTED:
        _, verdict = measured.over(look, look_level(ways))
    return judged, verdict


def _tiny(interval: Interval, part: Part) -> bool:
    """An effect that is surely too small to matter, where the statement only says greater or less."""
    if interval.low is None or interval.high is None or part.expect not in ("greater", "less") or part.than:
        return False
    return max(abs(interval.low), abs(interval.high)) < part.smallest_effect
