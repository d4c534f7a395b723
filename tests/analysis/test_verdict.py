"""The rule on studies with planted effects, and the commands that a claim still needs."""

import pytest

from vitbn.analysis.arms import FinishedRuns
from vitbn.analysis.claims import Claim
from vitbn.analysis.formatting import result_texts
from vitbn.analysis.looks import look_level
from vitbn.analysis.records import read_study
from vitbn.analysis.stats import mean_interval
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
    assert (open_.missing, open_.advice) == ([], "undecided after look 1 of 5; the next is at 5 seeds, train with")
    assert open_.commands == ["vitbn train -m x=1 seed=4"]
    assert verdict(part(), seeds=6).commands == ["vitbn train -m x=1 seed=4,5"]


def test_after_the_last_look_more_seeds_decide_nothing(planted, part, verdict):
    planted(0.03, seeds=41, epochs=1)
    result = verdict(part(than=0.03, expect="equal", smallest_effect=0.0001))
    assert result.verdict == "INCONCLUSIVE" and result.advice.startswith("undecided after look 5 of 5, the last")
    assert result.parts[0].judged.n == 40 and result.parts[0].effect.n == 41


def test_a_part_that_shares_few_seeds_with_the_others_still_leads_to_a_look(run, part, verdict):
    for seed in range(3):
        for depth in (2, 3):
            run(model="vit", depth=depth, seed=seed + depth, final=0.8)
            run(model="vitbnffn", depth=depth, seed=seed + depth, final=0.9 + 0.001 * seed)
    vit, bn = {"model.name": "vit"}, {"model.name": "vitbnffn"}
    each = [part(a=bn | {"depth": depth}, b=vit | {"depth": depth}) for depth in (2, 3)]
    tried = {"depth": [2, 3]}
    result = verdict(*each, part("critical_depth", "reached", a=bn | tried, b=vit | tried, train=""))
    assert [found.verdict for found in result.parts] == ["SUPPORTED", "SUPPORTED", "INCONCLUSIVE"]
    assert result.parts[2].effect.n == 2 and result.commands == ["vitbn train -m x=1 seed=0,1"]


def test_between_looks_the_verdict_of_the_lowest_seeds_stands(run, part, verdict):
    for seed, lead in enumerate((0.05, 0.051, 0.052, -0.9)):
        run(model="vit", seed=seed + 2, final=0.9)
        run(model="vitbnffn", seed=seed + 2, final=0.9 + lead)
    (result,) = verdict(part()).parts
    assert result.verdict == "SUPPORTED" and (result.effect.n, result.judged.n) == (4, 3)
    assert result.judged.low == pytest.approx(mean_interval([0.05, 0.051, 0.052], look_level()).low)
    run(model="vit", seed=0, final=0.9)  # a seed that was missing is counted where its number stands
    run(model="vitbnffn", seed=0, final=0.2)
    assert verdict(part()).parts[0].verdict == "INCONCLUSIVE"


def test_equal_differences_are_known_to_one_image(run, part, verdict):
    for seed in range(3):
        run(model="vit", seed=seed, final=0.9)
        run(model="vitbnffn", seed=seed, final=0.9)
    (result,) = verdict(part()).parts
    assert result.verdict == "INCONCLUSIVE"
    assert result.judged.high == -result.judged.low == result.effect.high == 1 / 9_800  # test images there


def test_no_runs_of_an_arm(run, part, verdict):
    run(model="vit")
    result = verdict(part())
    assert result.verdict == result.parts[0].verdict == "NOT RUN" and result.parts[0].effect.n == 0
    assert result_texts(result.parts[0]) == ("–", "–", "–", "–")
    assert result.missing == ["vitbn train -m x=1 seed=0,1,2"]


def test_parts_make_the_claim(planted, part, verdict):
    planted(0.03)
    yes, no, open_ = part(), part(expect="less"), part(expect="greater", than=0.03)
    assert verdict(yes, yes).verdict == "SUPPORTED"
    assert verdict(yes, open_).verdict == "INCONCLUSIVE"
    assert verdict(yes, open_, no).verdict == "REFUTED"


def test_parts_share_the_chance_of_refuting_a_true_claim(planted, part, verdict):
    planted(-0.011)  # wholly below 0 at 99 %, not at 99.5 %
    assert verdict(part()).verdict == verdict(part(), part()).verdict == "REFUTED"
    four = verdict(*[part()] * 4)
    assert four.verdict == "INCONCLUSIVE" and "99.5 %" in four.sharing and not verdict(part()).sharing
    assert four.parts[0].notes == ("outside at 99 % but not at 99.5 %, which it takes to refute one of 4 parts",)
    assert verdict(*[part(expect="less")] * 4).verdict == "SUPPORTED", "all must be, so nothing is shared"


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
