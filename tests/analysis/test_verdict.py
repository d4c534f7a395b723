"""Every branch of the rule, on studies with planted effects."""

import math

import pytest

from vitbn.analysis.arms import FinishedRuns
from vitbn.analysis.claims import Claim, Part, judge, region
from vitbn.analysis.records import read_study
from vitbn.analysis.stats import Interval
from vitbn.analysis.verdict import judge_claim, missing

VIT, BN = {"model.name": "vit"}, {"model.name": "vitbnffn"}
NOISE = (0.0, 0.002, -0.001, 0.001)  # per seed, of the difference


def part(kind="difference", expect="greater", a=BN, b=VIT, **keys):
    defaults = {
        "id": "p", "statement": "", "metric": "val/acc", "smallest_effect": 0.01, "margin": 0.05,
        "train": "x=1", "start": {}, "end": {}, "epoch": None, "steps": None, "than": 0.0, "figure": "",
    }  # fmt: skip
    return Part(kind=kind, expect=expect, a=a, b=b, **(defaults | keys))


def verdict(study, *parts, seeds=3):
    claim = Claim("c", "", "", "article", seeds, list(parts))
    return judge_claim(claim, FinishedRuns(read_study(study)))


@pytest.fixture
def planted(run):
    """ViT at 0.90 and ViTBNFFN `effect` above it, at equal seeds."""

    def plant(effect, seeds=3, **keys):
        for seed in range(seeds):
            run(model="vit", seed=seed, final=0.8 + 0.01 * seed, **keys)
            run(model="vitbnffn", seed=seed, final=0.8 + 0.01 * seed + effect + NOISE[seed % 4], **keys)

    return plant


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
def test_difference(planted, study, effect, expect, expected):
    planted(effect)
    result = verdict(study, part(expect=expect))
    assert result.verdict == expected and result.missing == []
    # the seeds' own spread of 0.01 cancels: paired, not pooled
    assert result.parts[0].effect.estimate == pytest.approx(effect + 0.001 / 3)
    assert result.parts[0].effect.high - result.parts[0].effect.low < 0.01


def test_fewer_than_three_seeds_decide_nothing(planted, study):
    planted(0.05, seeds=2)
    result = verdict(study, part())
    assert result.verdict == "INCONCLUSIVE" and result.parts[0].effect.n == 2
    assert result.missing == ["python train.py -m x=1 seed=2"]


def test_what_to_do_next(planted, study):
    planted(0.03, seeds=4)
    supported = verdict(study, part())
    assert (supported.advice, supported.commands) == ("reproduce with", ["python train.py -m x=1 seed=0,1,2,3"])
    open_ = verdict(study, part(than=0.03))
    assert (open_.missing, open_.advice) == ([], "undecided, more seeds narrow the intervals")
    assert open_.commands == ["python train.py -m x=1 seed=4,5,6"]
    assert verdict(study, part(), seeds=6).commands == ["python train.py -m x=1 seed=4,5"]


def test_no_runs_of_an_arm(run, study):
    run(model="vit")
    result = verdict(study, part())
    assert result.verdict == "INCONCLUSIVE" and result.parts[0].effect.n == 0
    assert result.missing == ["python train.py -m x=1 seed=0,1,2"]


def test_judge_at_the_edges():
    inside = Interval(0.01, 0.0, 0.02, 3, "t")
    assert judge(inside, (0.0, math.inf)) == "INCONCLUSIVE"
    assert judge(Interval(0.0, 0.0, 0.0, 3, "t"), (0.0, math.inf)) == "REFUTED", "equal is not ahead"
    assert judge(Interval(0.0, None, None, 1, ""), (-1, 1)) == "INCONCLUSIVE"
    assert judge(inside, (-1, 1), seeds=2) == "INCONCLUSIVE"
    assert region(part(expect="equal", than=0.5)) == (0.49, 0.51)


def test_parts_make_the_claim(planted, study):
    planted(0.03)
    yes, no, open_ = part(), part(expect="less"), part(expect="greater", than=0.03)
    assert verdict(study, yes, yes).verdict == "SUPPORTED"
    assert verdict(study, yes, open_).verdict == "INCONCLUSIVE"
    assert verdict(study, yes, open_, no).verdict == "REFUTED"


def test_a_tiny_effect_is_called_tiny(planted, study):
    planted(0.004)
    (result,) = verdict(study, part()).parts
    assert result.verdict == "SUPPORTED" and "smallest worth calling one" in result.notes[0]


def test_level(planted, study):
    planted(0.03)
    assert verdict(study, part("level", "greater", b={}, than=0.7)).verdict == "SUPPORTED"
    assert verdict(study, part("level", "less", b={}, than=0.7)).verdict == "REFUTED"
    result = verdict(study, part("level", "greater", b={}, than=0.84)).parts[0]
    assert result.verdict == "INCONCLUSIVE" and result.effect.estimate == pytest.approx(0.84 + 0.001 / 3)


def test_metric_at_an_epoch(run, study):
    for seed in range(3):
        run(model="vit", seed=seed, values=[0.3, 0.9 + NOISE[seed]], epochs=2)
        run(model="vitbnffn", seed=seed, values=[0.5 + NOISE[seed], 0.8], epochs=2)
    assert verdict(study, part(epoch=1)).verdict == "SUPPORTED"
    assert verdict(study, part(epoch=2)).verdict == "REFUTED"
    missing_epoch = verdict(study, part(epoch=3)).parts[0]
    assert missing_epoch.effect.n == 0 and "3 seeds lack val/acc" in missing_epoch.notes[0]


def test_mean_over_training_steps(run, study):
    for seed in range(3):
        run(model="vit", seed=seed, steps=[2.0, 1.0 + NOISE[seed], 9.0])
        run(model="vitbnffn", seed=seed, steps=[1.0, 0.4, 99.0])
    keys = {"metric": "train/loss", "steps": (1, 2), "margin": 0.35}
    result = verdict(study, part(expect="far_less", **keys))
    assert result.verdict == "SUPPORTED" and result.parts[0].effect.estimate == pytest.approx(-0.8, abs=0.01)
    run(model="vit", seed=3)
    run(model="vitbnffn", seed=3)
    assert "1 seeds lack steps.csv there" in verdict(study, part(expect="far_less", **keys)).parts[0].notes


def drops(run, vit, bn):
    for seed in range(3):
        for lr, by in ((0.003, (0.0, 0.0)), (0.005, (vit, bn))):
            run(model="vit", seed=seed, lr=lr, final=0.9 - by[0])
            run(model="vitbnffn", seed=seed, lr=lr, final=0.9 - by[1] + (NOISE[seed] if by[1] else 0))


ENDS = {"start": {"lr": 0.003}, "end": {"lr": 0.005}}


@pytest.mark.parametrize(
    ("vit", "bn", "expect", "expected"),
    [
        (0.13, 0.02, "far_greater", "SUPPORTED"),
        (0.05, 0.04, "far_greater", "REFUTED"),
        (0.05, 0.049, "equal", "SUPPORTED"),
        (0.13, 0.02, "equal", "REFUTED"),
    ],
)
def test_difference_of_drops(run, study, vit, bn, expect, expected):
    drops(run, vit, bn)
    result = verdict(study, part("drop_difference", expect, a=VIT, b=BN, **ENDS))
    assert result.verdict == expected
    assert result.parts[0].effect.estimate == pytest.approx(vit - bn, abs=0.001)


def test_drop_of_one_arm(run, study):
    drops(run, 0.13, 0.02)
    assert verdict(study, part("drop", "less", a=BN, b={}, than=0.05, **ENDS)).verdict == "SUPPORTED"
    assert verdict(study, part("drop", "less", a=VIT, b={}, than=0.05, **ENDS)).verdict == "REFUTED"


def test_diverged_runs_count_as_guesses_and_are_said(run, study):
    for seed in range(4):
        run(model="vit", seed=seed, final=0.8)
        run(model="vitbnffn", seed=seed, final=0.85 + NOISE[seed], status="diverged" if seed == 3 else "done")
    (result,) = verdict(study, part()).parts
    assert result.verdict == "INCONCLUSIVE" and result.effect.n == 4
    assert result.notes[0] == "diverged runs in 1 of 4 seeds, scored as guesses; without these seeds SUPPORTED"


def test_share_of_diverged_runs(run, study):
    for seed in range(20):
        run(model="vitbnffn", seed=seed)
        run(model="vit", seed=seed, status="diverged" if seed % 2 else "done")
    often = {"expect": "greater", "than": 0.25, "metric": "", "b": {}}
    assert verdict(study, part("diverged_share", a=BN, **often)).verdict == "REFUTED"
    result = verdict(study, part("diverged_share", a=VIT, **often)).parts[0]
    assert result.verdict == "SUPPORTED" and result.notes == ("10 of 20 runs diverged, 20 seeds",)


def test_share_needs_seeds_not_only_runs(run, study):
    for depth in range(1, 21):
        run(model="vitbnffn", depth=depth)
    result = verdict(study, part("diverged_share", a=BN, b={}, than=0.25, metric=""))
    assert result.verdict == "INCONCLUSIVE"


def depths(run, effects, lr=0.003):
    for depth, effect in effects.items():
        for seed in range(3):
            run(model="vit", depth=depth, lr=lr, seed=seed, final=0.8)
            run(model="vitbnffn", depth=depth, lr=lr, seed=seed, final=0.8 + effect + NOISE[seed])


def critical(low, high, kind="critical_depth", expect="reached", **keys):
    tried = {"depth": list(range(low, high + 1))}
    return part(kind, expect, a=BN | {"lr": 0.003} | tried, b=VIT | {"lr": 0.003} | tried, **keys)


@pytest.mark.parametrize(
    ("effects", "expected", "estimate"),
    [
        ({4: -0.02, 5: 0.0, 6: 0.1, 7: 0.1}, "SUPPORTED", 6),
        ({4: -0.02, 5: 0.1, 6: 0.0, 7: -0.1}, "REFUTED", math.inf),
        ({4: -0.02, 5: 0.0, 6: 0.0, 7: 0.011}, "INCONCLUSIVE", 7),
    ],
)
def test_critical_depth(run, study, effects, expected, estimate):
    depths(run, effects)
    (result,) = verdict(study, critical(4, 7)).parts
    assert (result.verdict, result.effect.estimate) == (expected, estimate)


def test_critical_depth_needs_every_depth(run, study):
    depths(run, {4: -0.02, 6: 0.1, 7: 0.1})
    result = verdict(study, critical(4, 7))
    assert result.verdict == "INCONCLUSIVE" and result.missing == ["python train.py -m x=1 seed=0,1,2"]


@pytest.mark.parametrize(
    ("slow", "fast", "expected"),
    [
        ({4: 0.0, 5: 0.0, 6: 0.1}, {2: 0.0, 3: 0.1, 4: 0.1}, "SUPPORTED"),
        ({4: 0.0, 5: 0.0, 6: 0.0}, {2: 0.0, 3: 0.1, 4: 0.1}, "SUPPORTED"),  # beyond 6 is above 3 too
        ({2: 0.0, 3: 0.1, 4: 0.1}, {2: 0.0, 3: 0.1, 4: 0.1}, "REFUTED"),
        ({2: 0.0, 3: 0.1, 4: 0.1}, {2: 0.0, 3: 0.0, 4: 0.0}, "REFUTED"),
        ({4: 0.0, 5: 0.0, 6: 0.1}, {2: 0.0, 3: 0.0, 4: 0.0}, "INCONCLUSIVE"),  # 6 against somewhere beyond 4
        ({2: 0.1, 3: 0.1, 4: 0.1}, {2: 0.1, 3: 0.1, 4: 0.1}, "INCONCLUSIVE"),  # both somewhere up to 2
    ],
)
def test_critical_depth_falls(run, study, slow, fast, expected):
    depths(run, slow, lr=0.003)
    depths(run, fast, lr=0.005)
    ends = {"start": {"lr": 0.003, "depth": list(slow)}, "end": {"lr": 0.005, "depth": list(fast)}}
    (result,) = verdict(study, part("critical_depth_fall", "falls", **ends)).parts
    assert result.verdict == expected and "at lr 0.003" in result.notes[0]


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [
        ([-0.1, -0.05, 0.05, 0.1], "SUPPORTED"),
        ([0.1, 0.1, 0.1, 0.1], "REFUTED"),
        ([-0.1, 0.1, 0.05, -0.1], "REFUTED"),
        ([-0.1, -0.1, 0.0, 0.001], "INCONCLUSIVE"),
    ],
)
def test_overtakes(run, study, ahead, expected):
    for seed in range(3):
        run(model="vit", seed=seed, values=[0.7] * 4, epochs=4)
        run(model="vitbnffn", seed=seed, values=[0.7 + by + NOISE[seed] for by in ahead], epochs=4)
    assert verdict(study, part("overtakes", "inside")).verdict == expected


def test_two_runs_of_one_seed_in_an_arm_are_not_guessed_between(planted, run, study):
    planted(0.03)
    run(model="vit", seed=1, norm={"qk": "layer"})
    (result,) = verdict(study, part()).parts
    assert result.verdict == "INCONCLUSIVE" and "two runs of seed 1 fit" in result.notes[0]


def test_confounds_are_said_beside_the_verdict(run, study):
    for seed in range(3):
        run(model="vit", seed=seed, qkv_bias=True)
        run(model="vitbnffn", seed=seed, final=0.95)
    (result,) = verdict(study, part()).parts
    assert "confound: configuration model.qkv_bias: False / True (3 of 3 pairs)" in result.notes


@pytest.mark.parametrize("precision", [{"result": {"matmul": "medium"}}, {"matmul_precision": "medium"}])
def test_another_matmul_precision_is_said_and_changes_no_verdict(run, study, precision):
    for seed in range(3):
        run(model="vit", seed=seed, **precision)
        run(model="vitbnffn", seed=seed, final=0.95, result={"matmul": "highest"})
    (result,) = verdict(study, part()).parts
    line = "confound: matmul_precision: highest / medium (3 of 3 pairs)"
    assert result.verdict == "SUPPORTED" and result.notes == (line,)
    (result,) = verdict(study, part("overtakes", "inside")).parts
    assert result.notes == (line,)


def test_confounds_are_said_beside_a_critical_depth(run, study):
    depths(run, {4: -0.02, 5: 0.1})
    for depth in (4, 5):
        run(model="vit", depth=depth, seed=3, batch_size=50)
        run(model="vitbnffn", depth=depth, seed=3, final=0.95)
    for result in (
        verdict(study, critical(4, 5)).parts[0],
        verdict(
            study,
            part("critical_depth_fall", "falls", start={"lr": 0.003, "depth": [4]}, end={"lr": 0.003, "depth": [5]}),
        ).parts[0],
    ):
        assert "confound: configuration batch_size: 100 / 50 (2 of 8 pairs)" in result.notes


def test_other_budgets_are_other_runs(planted, study):
    planted(0.03, epochs=2)
    ten = {"epochs": 10}
    assert verdict(study, part(a=BN | ten, b=VIT | ten)).parts[0].effect.n == 0


def test_missing_counts_failed_and_running_as_missing_and_diverged_as_there(run, study):
    for seed, status in enumerate(("done", "failed", "diverged", "running", "done")):
        run(model="vit", seed=seed, status=status)
        run(model="vitbnffn", seed=seed)
    claim = Claim("c", "", "", "article", 4, [part()])
    assert missing(claim, FinishedRuns(read_study(study))) == ["python train.py -m x=1 seed=1"]
    claim = Claim("c", "", "", "article", 5, [part(), part(train="y=2"), part(train="")])
    assert missing(claim, FinishedRuns(read_study(study))) == [
        f"python train.py -m {train} seed=1,3" for train in ("x=1", "y=2")
    ]
