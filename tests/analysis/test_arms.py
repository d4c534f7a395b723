from vitbn.analysis.arms import FinishedRuns, finished, group, looks, paired, placement_pairs
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


def test_of_many_placements_each_is_paired_with_the_first_alone(run, study):
    for kind in ("none", "batch", "rms", "dyt", "group"):
        run(model="vit", norm={"qk": kind})
    pairs = placement_pairs(group(read_study(study)))
    assert len(pairs) == 4 and {first.name for first, _ in pairs} == {"ViT"}


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


def test_finished_runs_are_found_by_values(run, study):
    for seed in (1, 0):
        run(lr=0.003, depth=4, seed=seed)
    run(lr=0.003, depth=4, seed=2, status="running")
    found = FinishedRuns(read_study(study))
    wanted = {"lr": 0.003, "depth": [3, 4], "norm.ffn_in": "layer"}
    assert [each.seed for each in found.fitting(wanted)] == [each.seed for each in found.fitting({})] == [0, 1]
    assert not found.fitting({"lr": 0.005}) and not found.fitting({"nope": None})
    assert not found.fitting(wanted | {"lr": 0.005})


def test_a_placement_looks_the_same_in_every_setting(run, study):
    for pool in ("cls", "mean"):
        for model in ("vit", "vitbnffn"):
            run(model=model, pool=pool)
    styles = looks(group(read_study(study)))
    assert list(styles) == ["ViT", "ViTBNFFN"] and styles["ViT"]["color"] != styles["ViTBNFFN"]["color"]


def test_true_is_no_one(run, study):
    run(depth=1)
    finished = FinishedRuns(read_study(study))
    assert len(finished.fitting({"depth": 1})) == 1 and not finished.fitting({"depth": True})
