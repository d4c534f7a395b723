"""Every kind of effect, on studies with planted effects."""

import math

import pytest

from vitbn.analysis.formatting import effect_texts, expectation
from vitbn.analysis.instruments import COLUMNS
from vitbn.analysis.looks import look_level
from vitbn.analysis.stats import share_interval

VIT, BN = {"model.name": "vit"}, {"model.name": "vitbnffn"}
NOISE = (0.0, 0.002, -0.001, 0.001)  # per seed, of the difference


def test_a_tiny_effect_is_called_tiny(planted, part, verdict):
    planted(0.004, seeds=5)
    (result,) = verdict(part()).parts
    assert result.verdict == "SUPPORTED" and "smallest worth calling one" in result.notes[0]


def test_level(planted, part, verdict):
    planted(0.03)
    assert verdict(part("level", "greater", b={}, than=0.7)).verdict == "SUPPORTED"
    assert verdict(part("level", "less", b={}, than=0.7)).verdict == "REFUTED"
    result = verdict(part("level", "greater", b={}, than=0.84)).parts[0]
    assert result.verdict == "INCONCLUSIVE" and result.effect.estimate == pytest.approx(0.84 + 0.001 / 3)


def test_metric_at_an_epoch(run, part, verdict):
    for seed in range(3):
        run(model="vit", seed=seed, values=[0.3, 0.9 + NOISE[seed]], epochs=2)
        run(model="vitbnffn", seed=seed, values=[0.5 + NOISE[seed], 0.8], epochs=2)
    assert verdict(part(epoch=1)).verdict == "SUPPORTED"
    assert verdict(part(epoch=2)).verdict == "REFUTED"
    missing_epoch = verdict(part(epoch=3)).parts[0]
    assert missing_epoch.effect.n == 0 and "3 seeds lack val/acc" in missing_epoch.notes[0]


def test_mean_over_training_steps(run, part, verdict):
    for seed in range(3):
        run(model="vit", seed=seed, steps=[2.0, 1.0 + NOISE[seed], 9.0])
        run(model="vitbnffn", seed=seed, steps=[1.0, 0.4, 99.0])
    keys = {"metric": "train/loss", "steps": (1, 2), "margin": 0.35}
    result = verdict(part(expect="far_less", **keys))
    assert result.verdict == "SUPPORTED" and result.parts[0].effect.estimate == pytest.approx(-0.8, abs=0.01)
    run(model="vit", seed=3)
    run(model="vitbnffn", seed=3)
    assert "1 seeds lack steps.csv there" in verdict(part(expect="far_less", **keys)).parts[0].notes


def drops(run, vit, bn):
    for seed in range(5):
        for lr, by in ((0.003, (0.0, 0.0)), (0.005, (vit, bn))):
            run(model="vit", seed=seed, lr=lr, final=0.9 - by[0])
            run(model="vitbnffn", seed=seed, lr=lr, final=0.9 - by[1] + (NOISE[seed % 4] if by[1] else 0))


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
def test_difference_of_drops(run, vit, bn, expect, expected, part, verdict):
    drops(run, vit, bn)
    result = verdict(part("drop_difference", expect, a=VIT, b=BN, **ENDS))
    assert result.verdict == expected
    assert result.parts[0].effect.estimate == pytest.approx(vit - bn, abs=0.001)


def test_drop_of_one_arm(run, part, verdict):
    drops(run, 0.13, 0.02)
    assert verdict(part("drop", "less", a=BN, b={}, than=0.05, **ENDS)).verdict == "SUPPORTED"
    assert verdict(part("drop", "less", a=VIT, b={}, than=0.05, **ENDS)).verdict == "REFUTED"


def test_diverged_runs_count_as_guesses_and_are_said(run, part, verdict):
    for seed in range(4):
        run(model="vit", seed=seed, final=0.8)
        run(model="vitbnffn", seed=seed, final=0.85 + NOISE[seed], status="diverged" if seed == 2 else "done")
    (result,) = verdict(part()).parts
    assert result.verdict == "INCONCLUSIVE" and result.effect.n == 4
    assert result.notes[0] == "diverged runs in 1 of 4 seeds, scored as guesses; without these seeds SUPPORTED"


def test_share_of_diverged_runs(run, part, verdict):
    for seed in range(20):
        run(model="vitbnffn", seed=seed)
        run(model="vit", seed=seed, status="diverged" if seed % 4 else "done")
    often = {"expect": "greater", "than": 0.25, "metric": "", "b": {}}
    assert verdict(part("diverged_share", a=BN, **often)).verdict == "REFUTED"
    result = verdict(part("diverged_share", a=VIT, **often)).parts[0]
    assert result.verdict == "SUPPORTED" and result.notes == ("15 of 20 runs diverged, 20 seeds",)


def test_a_seed_is_one_observation_of_a_share(run, part, verdict):
    for seed in range(5):
        for depth in range(1, 5):
            run(model="vitbnffn", depth=depth, seed=seed, status="diverged" if seed == 0 or depth == 1 else "done")
    run(model="vitbnffn", depth=1, seed=5)  # of a seed that lacks the other depths
    share = part("diverged_share", a=BN | {"depth": [1, 2, 3, 4]}, b={}, than=0.25, metric="")
    (result,) = verdict(share).parts
    assert result.verdict == "INCONCLUSIVE" and (result.effect.estimate, result.effect.n) == (0.4, 5)
    assert result.effect == share_interval([1, 0.25, 0.25, 0.25, 0.25]) == share_interval([1, 1, 0, 0, 0])
    assert result.judged == share_interval([1, 1, 0, 0, 0], look_level())
    assert result.notes == ("8 of 20 runs diverged, 5 seeds",)


def test_share_needs_seeds_not_only_runs(run, part, verdict):
    for depth in range(1, 21):
        run(model="vitbnffn", depth=depth)
    (result,) = verdict(part("diverged_share", a=BN, b={}, than=0.25, metric="")).parts
    assert result.verdict == "INCONCLUSIVE" and result.effect.n == 1


def depths(run, effects, lr=0.003):
    for depth, effect in effects.items():
        for seed in range(3):
            run(model="vit", depth=depth, lr=lr, seed=seed, final=0.8)
            run(model="vitbnffn", depth=depth, lr=lr, seed=seed, final=0.8 + effect + NOISE[seed] / 10)


def critical(part, low, high, kind="critical_depth", expect="reached", **keys):
    tried = {"depth": list(range(low, high + 1))}
    return part(kind, expect, a=BN | {"lr": 0.003} | tried, b=VIT | {"lr": 0.003} | tried, **keys)


@pytest.mark.parametrize(
    ("effects", "expected", "estimate"),
    [
        ({4: -0.02, 5: 0.0, 6: 0.1, 7: 0.1}, "SUPPORTED", 6),
        ({4: -0.02, 5: 0.1, 6: 0.0, 7: -0.1}, "REFUTED", math.inf),
        ({4: -0.02, 5: 0.0, 6: 0.0, 7: 0.0105}, "INCONCLUSIVE", 7),
    ],
)
def test_critical_depth(run, effects, expected, estimate, part, verdict):
    depths(run, effects)
    (result,) = verdict(critical(part, 4, 7)).parts
    assert (result.verdict, result.effect.estimate) == (expected, estimate)


def test_critical_depth_needs_every_depth(run, part, verdict):
    depths(run, {4: -0.02, 6: 0.1, 7: 0.1})
    result = verdict(critical(part, 4, 7))
    assert result.verdict == "NOT RUN" and result.missing == ["vitbn train -m x=1 seed=0,1,2"]


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
def test_critical_depth_falls(run, slow, fast, expected, part, verdict):
    depths(run, slow, lr=0.003)
    depths(run, fast, lr=0.005)
    ends = {"start": {"lr": 0.003, "depth": list(slow)}, "end": {"lr": 0.005, "depth": list(fast)}}
    (result,) = verdict(part("critical_depth_fall", "falls", **ends)).parts
    assert result.verdict == expected and "at lr 0.003" in result.notes[0]


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [
        ([0.1, -0.05, 0.02, 0.08], "REFUTED"),  # ahead at first
        ([0.0, -0.05, 0.02, 0.08], "INCONCLUSIVE"),  # it may be
        ([-0.1, -0.05, 0.05, 0.1], "SUPPORTED"),
        ([0.1, 0.1, 0.1, 0.1], "REFUTED"),
        ([-0.1, 0.1, 0.05, -0.1], "REFUTED"),
        ([-0.1, -0.1, 0.0, 0.001], "INCONCLUSIVE"),
    ],
)
def test_overtakes(run, ahead, expected, part, verdict):
    for seed in range(3):
        run(model="vit", seed=seed, values=[0.7] * 4, epochs=4)
        run(model="vitbnffn", seed=seed, values=[0.7 + by + NOISE[seed] for by in ahead], epochs=4)
    assert verdict(part("overtakes", "inside")).verdict == expected


def test_confounds_are_said_beside_the_verdict(run, part, verdict):
    for seed in range(3):
        run(model="vit", seed=seed, qkv_bias=True)
        run(model="vitbnffn", seed=seed, final=0.95)
    (result,) = verdict(part()).parts
    assert "confound: configuration model.qkv_bias: False / True (3 of 3 pairs)" in result.notes


@pytest.mark.parametrize("precision", [{"result": {"matmul": "medium"}}, {"matmul_precision": "medium"}])
def test_another_matmul_precision_is_said_and_changes_no_verdict(run, precision, part, verdict):
    for seed in range(3):
        run(model="vit", seed=seed, **precision)
        run(model="vitbnffn", seed=seed, final=0.95, result={"matmul": "highest"})
    (result,) = verdict(part()).parts
    line = "confound: matmul_precision: highest / medium (3 of 3 pairs)"
    assert result.verdict == "SUPPORTED" and result.notes == (line,)
    (result,) = verdict(part("overtakes", "inside")).parts
    assert result.notes == (line,)


def test_confounds_are_said_beside_a_critical_depth(run, part, verdict):
    depths(run, {4: -0.02, 5: 0.1})
    for depth in (4, 5):
        run(model="vit", depth=depth, seed=3, batch_size=50)
        run(model="vitbnffn", depth=depth, seed=3, final=0.95)
    for result in (
        verdict(critical(part, 4, 5)).parts[0],
        verdict(
            part("critical_depth_fall", "falls", start={"lr": 0.003, "depth": [4]}, end={"lr": 0.003, "depth": [5]}),
        ).parts[0],
    ):
        assert "confound: configuration batch_size: 100 / 50 (2 of 8 pairs)" in result.notes


def test_other_budgets_are_other_runs(planted, part, verdict):
    planted(0.03, epochs=2)
    ten = {"epochs": 10}
    assert verdict(part(a=BN | ten, b=VIT | ten)).parts[0].effect.n == 0


def with_instruments(folder, gap, growth=(1.0, 2.0)):
    """Gap of means after epoch 1; variances that enter the first and the last block at the end."""
    lines = [f"10,1,blocks.0,attn_in,mean gap,{gap}", f"20,2,blocks.0,attn_in,variance,{growth[0]}",
             f"20,2,blocks.1,attn_in,variance,{growth[1]}"]  # fmt: skip
    (folder / "instruments.csv").write_text("\n".join([COLUMNS, *lines]) + "\n")


def test_what_was_measured_after_the_first_epoch_may_predict_the_end(run, part, verdict):
    predicts = part("correlation", "less", b={}, predictor="mean gap")
    run(model="vitbnffn", seed=10, final=0.9)
    assert verdict(predicts).parts[0].verdict == "NOT RUN"  # without instruments.csv
    for seed in range(10):
        with_instruments(run(model="vitbnffn", seed=seed, final=0.9 - 0.01 * seed), gap=0.1 * (1 + seed))
    (found,) = verdict(predicts).parts
    assert found.verdict == "SUPPORTED" and found.effect.n == 10 and found.effect.estimate == pytest.approx(-1)
    assert found.notes == ("10 runs of 10 seeds",)
    assert expectation(predicts) == "a: rank correlation of mean gap with val/acc < 0"


def test_measurements_are_compared_as_metrics_are(run, part, verdict):
    for seed in range(3):
        with_instruments(run(model="vit", seed=seed), 0, growth=(1, 8 + 0.1 * seed))
        with_instruments(run(model="vitbnffn", seed=seed), 0, growth=(1, 2 + 0.01 * seed))
    (found,) = verdict(part("difference", "less", metric="variance growth")).parts
    assert found.verdict == "SUPPORTED" and found.effect.estimate == pytest.approx(-2, abs=0.05)
    (level,) = verdict(part("level", "less", b={}, metric="variance growth", than=1.5)).parts
    assert level.verdict == "SUPPORTED" and effect_texts(level.part, level.effect)[0] == "1.01"
