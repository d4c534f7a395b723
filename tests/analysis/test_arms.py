import math

import pytest

from vitbn.analysis.arms import FinishedRuns, finished, group, paired, placement_pairs
from vitbn.analysis.comparisons import differences, score
from vitbn.analysis.records import read_study


def test_arms_are_placements_times_settings_in_a_fixed_order(run, study):
    for pool in ("cls", "mean"):
        for model in ("vitbn", "vit", "vitbnffn"):
            run(model=model, pool=pool)
    arms = group(read_study(study))
    assert [arm.name for arm in arms] == [
        f"{name} pool={pool}" for name in ("ViT", "ViTBNFFN", "ViTBN") for pool in ("cls", "mean")
    ]
    assert {(a.name, b.name) for a, b in placement_pairs(arms)} == {
        (f"{a} pool={pool}", f"{b} pool={pool}")
        for a, b in (("ViT", "ViTBNFFN"), ("ViT", "ViTBN"), ("ViTBNFFN", "ViTBN"))
        for pool in ("cls", "mean")
    }


def test_seed_depth_and_rate_do_not_part_arms(run, study):
    run(depth=2, lr=0.003, seed=0)
    run(depth=3, lr=0.005, seed=1)
    (arm,) = group(read_study(study))
    assert arm.name == "ViT" and len(arm.at(2, 0.003)) == 1 and arm.at(2, 0.005) == []


def test_a_key_that_older_runs_do_not_have_parts_nothing_while_it_is_null_or_false(run, study):
    run(seed=0)
    run(seed=1, recalibrate_bn=False, matmul=None)
    (arm,) = group(read_study(study))
    assert arm.name == "ViT" and len(arm.runs) == 2
    run(seed=2, recalibrate_bn=True)
    names = {arm.name: len(arm.runs) for arm in group(read_study(study))}
    assert names == {"ViT recalibrate_bn=False": 2, "ViT recalibrate_bn=True": 1}


def test_a_changed_norm_parts_arms(run, study):
    run(model="vitbn")
    run(model="vitbn", norm={"ffn_in": "batch", "ffn_hidden": "none"})
    names = [arm.name for arm in group(read_study(study))]
    assert names == ["ViTBN", "ViTBN norm=vit_batch"]


def test_a_named_placement_keeps_its_name(run, study):
    run(model="vit", norm={"ffn_in": "none", "ffn_hidden": "batch"})
    run(model="dnn_bn")
    assert [arm.name for arm in group(read_study(study))] == ["ViT norm=vitbnffn", "DNN + BN"]


def test_pairs_share_the_seed_and_have_an_outcome(run, study):
    for seed in (0, 1, 2):
        run(model="vit", seed=seed)
    run(model="vitbnffn", seed=1)
    run(model="vitbnffn", seed=2, status="running")
    run(model="vitbnffn", seed=3)
    first, second = group(read_study(study))
    assert [(a.seed, b.seed) for a, b in paired(first.runs, second.runs)] == [(1, 1)]
    assert [found.seed for found in finished(second.runs)] == [1, 3]


def test_diverged_runs_score_as_guesses(run, study):
    run(status="diverged", values=[0.5, 0.6])
    (found,) = read_study(study)
    assert score(found, "val/acc") == 0.1 and score(found, "val/loss") == pytest.approx(math.log(10))
    assert score(found, "val/acc", 2) == 0.6 and score(found, "val/acc", 3) == 0.1


def test_differences_keep_diverged_pairs_and_count_them(run, study):
    for seed in (0, 1):
        run(model="vit", seed=seed, final=0.8, status="diverged" if seed else "done")
        run(model="vitbnffn", seed=seed, final=0.9)
    (row,) = differences(*group(read_study(study)))
    assert row.values == pytest.approx([0.1, 0.8]) and row.diverged == 1


def test_ended_runs_are_found_by_values(run, study):
    for seed in (1, 0):
        run(lr=0.003, depth=4, seed=seed)
    run(lr=0.003, depth=4, seed=2, status="running")
    found = FinishedRuns(read_study(study))
    wanted = {"lr": 0.003, "depth": [3, 4], "norm.ffn_in": "layer"}
    assert [each.seed for each in found.fitting(wanted)] == [each.seed for each in found.fitting({})] == [0, 1]
    assert not found.fitting({"lr": 0.005}) and not found.fitting({"nope": None})
    assert not found.fitting(wanted | {"lr": 0.005})
