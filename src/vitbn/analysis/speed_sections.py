"""The report's sections about speed: time to a threshold, who overtakes whom, and the critical depth."""

from typing import Any

import numpy as np

from vitbn.analysis.arms import Arm, cells, finished, paired, placement_pairs
from vitbn.analysis.comparisons import differences, metric_value
from vitbn.analysis.formatting import INF, onset_text, plain
from vitbn.analysis.records import RunRecord, on_one_hardware
from vitbn.analysis.sections import Section, Table, tabled
from vitbn.analysis.stats import THRESHOLDS, Onset, epochs_to, onset, seconds_to

CRITICAL_MARGIN = 0.005  # of val/acc; what claims/critical-depth.yaml calls ahead


def threshold_section(arms: list[Arm]) -> Section:
    """Epochs and seconds until 90, 95 and 97 % of validation accuracy."""
    rows = []
    for arm in arms:
        for depth, lr in cells([arm]):
            if runs := finished(arm.at(depth, lr)):
                times = [_time_to(runs, threshold) for threshold in THRESHOLDS]
                rows.append([arm.name, plain(depth), plain(lr), str(len(runs)), *times])
    text = (
        "The first epoch with a validation accuracy of at least the threshold, and the seconds of all "
        "epochs up to it: median over the finished runs, with the number of runs that get there where not all "
        "do. Seconds are given where these ran on equal hardware, and compare only between such runs."
    )
    head = ["arm", "depth", "lr", "n", *(f"to {100 * threshold:g} %" for threshold in THRESHOLDS)]
    return tabled("Speed", text, Table("Time to a validation accuracy (epochs, seconds)", head, rows))


def _time_to(runs: list[RunRecord], threshold: float) -> str:
    epochs, seconds = [], []
    for run in runs:
        accuracy = run.rows.get("val/acc", np.empty(0))
        epochs.append(epochs_to(run.rows.get("epoch", np.empty(0)), accuracy, threshold))
        seconds.append(seconds_to(run.rows.get("seconds", np.empty(len(accuracy))), accuracy, threshold))
    reached = sum(epoch < INF for epoch in epochs)
    share = "" if reached == len(runs) else f" ({reached} of {len(runs)})"
    median = float(np.median(epochs))
    if median == INF:
        return f"not reached{share}"
    time = f", {np.median(seconds):.0f} s" if on_one_hardware(runs) else ""
    return f"{median:g} ep.{time}{share}"


def crossover_section(arms: list[Arm]) -> Section:
    """Who leads early and who leads at the end."""
    rows = []
    for first, second in placement_pairs(arms):
        for depth, lr in cells([first, second]):
            pairs = paired(first.at(depth, lr), second.at(depth, lr))
            if words := _crossover(first, second, pairs):
                names = f"{first.name} / {second.name}"
                rows.append([names, plain(depth), plain(lr), str(len(pairs)), words])
    text = (
        "The crossover is the first epoch from which on, to the last, the mean same-seed difference of "
        "val/acc favours one arm. In brackets: the first epoch from which on it may be ahead (every upper "
        "end of the 95 % intervals above 0), and the first from which on it surely is (every lower end). "
        "One arm is said to overtake the other only where the intervals say both: not ahead at the first epoch, "
        "ahead at the last."
    )
    head = ["arms", "depth", "lr", "n", "course"]
    return tabled("Crossover", text, Table("Who is ahead from which epoch on", head, rows, words=(0, 4)))


def _crossover(first: Arm, second: Arm, pairs: list[tuple[RunRecord, RunRecord]]) -> str:
    lengths = [len(run.rows.get("epoch", ())) for pair in pairs for run in pair if run.status == "done"]
    if not lengths or not min(lengths):
        return ""
    ahead = {epoch: _by_seed(pairs, epoch) for epoch in range(1, min(lengths) + 1)}
    onsets = {second.name: onset(ahead), first.name: onset({e: [-d for d in ds] for e, ds in ahead.items()})}
    for name, other in ((second.name, first.name), (first.name, second.name)):
        course = onsets[name]
        if course.estimate == INF:
            continue
        surely = course.high is not None and course.high < INF
        if course.estimate == course.first == course.high:
            return f"{name} ahead throughout"
        if course.overtakes:
            return f"{name} overtakes {other} at epoch {onset_text(course)}"
        when = "throughout" if course.estimate == course.first else f"from epoch {course.estimate:g} on"
        rest = f"established from epoch {course.high:g} on" if surely else "not established by the intervals"
        return f"in the mean {name} ahead {when}, {rest}"
    return "neither is ahead at the end"


def _by_seed(pairs: list[tuple[RunRecord, RunRecord]], epoch: int) -> list[float]:
    scores = [(metric_value(one, "val/acc", epoch), metric_value(two, "val/acc", epoch)) for one, two in pairs]
    return [two - one for one, two in scores if one is not None and two is not None]


def critical_depths(first: Arm, second: Arm) -> dict[Any, Onset]:
    """Per learning rate with two depths or more: the depth from which the second arm is ahead."""
    by_rate: dict[Any, dict[float, list[float]]] = {}
    for row in differences(first, second):
        if row.depth is not None:
            by_rate.setdefault(row.lr, {})[row.depth] = row.values
    return {lr: onset(by_depth, CRITICAL_MARGIN) for lr, by_depth in by_rate.items() if len(by_depth) > 1}


def critical_section(arms: list[Arm]) -> Section:
    """The critical depth of every two placements, per learning rate."""
    rows = []
    for first, second in placement_pairs(arms):
        for lr, depth in critical_depths(first, second).items():
            contrast, tried = f"{second.name} over {first.name}", f"{depth.first:g} to {depth.last:g}"
            rows.append([contrast, plain(lr), str(depth.n), tried, onset_text(depth)])
    text = (
        "The smallest depth from which on, at every deeper one tried, the second arm's val/acc is ahead by "
        f"more than {100 * CRITICAL_MARGIN:g} points. In brackets: the shallowest depth that the intervals "
        "allow, and the shallowest that they establish, each depth with its own 95 % interval; > means "
        "beyond the depths tried."
    )
    head = ["contrast", "lr", "fewest seeds", "depths tried", "critical depth"]
    return tabled("Critical depth", text, Table("Critical depth per learning rate", head, rows))
