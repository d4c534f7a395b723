"""The rule on studies with planted effects, and the commands that a claim still needs."""

import pytest

from vitbn.analysis.arms import FinishedRuns
from vitbn.analysis.claims import Claim
from vitbn.analysis.records import read_study
from vitbn.analysis.verdict import missing


@pytest.mark.parametrize(
    ("effect", "expect", "expected"),
    [
        (0.03, "greater", "SUPPORTED"),
        (-0.03, "greater", "REFUTED"),
        (0.001, "greater", "INCONCLUSIVE"),
        (-0.03, "less", "SUPPORTED"),
        (0.03, "less", "REFUTED"),
        (0.0, "equal", "SUPPORTED"),
        (0.03, "equal", "REFUTED"),
        (0.009, "equal", "INCONCLUSIVE"),
        (0.08, "far_greater", "SUPPORTED"),
        (0.03, "far_greater", "REFUTED"),
        (0.05, "far_greater", "INCONCLUSIVE"),
        (-0.08, "far_less", "SUPPORTED"),
        (-0.03, "far_less", "REFUTED"),
    ],
)
def test_difference(planted, effect, expect, expected, part, verdict):
    planted(effect)
    result = verdict(part(expect=expect))
    assert result.verdict == expected and result.missing == []
    # the seeds' own spread of 0.01 cancels: paired, not pooled
    assert result.parts[0].effect.estimate == pytest.approx(effect + 0.001 / 3)
    assert result.parts[0].effect.high - result.parts[0].effect.low < 0.01


def test_fewer_than_three_seeds_decide_nothing(planted, part, verdict):
    planted(0.05, seeds=2)
    result = verdict(part())
    assert result.verdict == "INCONCLUSIVE" and result.parts[0].effect.n == 2
    assert result.missing == ["vitbn train -m x=1 seed=2"]


def test_what_to_do_next(planted, part, verdict):
    planted(0.03, seeds=4)
    supported = verdict(part())
    assert (supported.advice, supported.commands) == ("reproduce with", ["vitbn train -m x=1 seed=0,1,2,3"])
    open_ = verdict(part(than=0.03))
    assert (open_.missing, open_.advice) == ([], "undecided, more seeds narrow the intervals")
    assert open_.commands == ["vitbn train -m x=1 seed=4,5,6"]
    assert verdict(part(), seeds=6).commands == ["vitbn train -m x=1 seed=4,5"]


def test_no_runs_of_an_arm(run, part, verdict):
    run(model="vit")
    result = verdict(part())
    assert result.verdict == result.parts[0].verdict == "NOT RUN" and result.parts[0].effect.n == 0
    assert result.missing == ["vitbn train -m x=1 seed=0,1,2"]


def test_parts_make_the_claim(planted, part, verdict):
    planted(0.03)
    yes, no, open_ = part(), part(expect="less"), part(expect="greater", than=0.03)
    assert verdict(yes, yes).verdict == "SUPPORTED"
    assert verdict(yes, open_).verdict == "INCONCLUSIVE"
    assert verdict(yes, open_, no).verdict == "REFUTED"


def test_two_runs_of_one_seed_in_an_arm_are_not_guessed_between(planted, run, part, verdict):
    planted(0.03)
    run(model="vit", seed=1, norm={"qk": "layer"})
    (result,) = verdict(part()).parts
    assert result.verdict == "INCONCLUSIVE" and "two runs of seed 1 fit" in result.notes[0]


def test_missing_counts_failed_and_running_as_missing_and_diverged_as_there(run, study, part):
    for seed, status in enumerate(("done", "failed", "diverged", "running", "done")):
        run(model="vit", seed=seed, status=status)
        run(model="vitbnffn", seed=seed)
    claim = Claim("c", "", "", "article", 4, [part()])
    assert missing(claim, FinishedRuns(read_study(study))) == ["vitbn train -m x=1 seed=1"]
    claim = Claim("c", "", "", "article", 5, [part(), part(train="y=2"), part(train="")])
    assert missing(claim, FinishedRuns(read_study(study))) == [
        f"vitbn train -m {train} seed=1,3" for train in ("x=1", "y=2")
    ]
