import json

import pytest

from vitbn.analysis.confounds import confounds, studied_keys, tally
from vitbn.analysis.records import read_run


@pytest.fixture
def pair(run):
    """Two runs of equal seed, ViT and ViTBNFFN; keys change the second."""
    return lambda **second: (read_run(run(model="vit")), read_run(run(**({"model": "vitbnffn"} | second))))


def test_a_fair_pair_has_no_confound(pair):
    assert confounds(*pair()) == []


def test_a_bias_in_one_arm_only_is_caught_three_times(pair):
    lines = confounds(*pair(qkv_bias=True))
    assert "configuration model.qkv_bias: False / True" in lines
    assert "parameters in one arm only: blocks.0.attention.qkv.bias" in lines
    assert any(line.startswith("parameter counts: 893,164 / 903,") for line in lines) and len(lines) == 3


def test_any_other_setting_is_caught_and_paths_are_not(pair):
    assert confounds(*pair(batch_size=64, study="elsewhere", runs="/tmp", log_every=5)) == [
        "configuration batch_size: 100 / 64"
    ]


def test_what_is_studied_may_differ(pair):
    first, second = pair(model="vit", lr=0.005)
    assert confounds(first, second, ("lr",)) == []
    assert confounds(first, second, ()) == ["configuration lr: 0.003 / 0.005"]


def test_norms_may_differ_only_where_the_placement_is_studied(pair):
    lines = confounds(*pair(), studied=("lr",))
    assert any("norm" in line or "placement" in line for line in lines)
    assert "parameters in one arm only: blocks.0.ffn_hidden.weight, blocks.0.ffn_in.weight" in lines


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"order": "other"}, "order of the training images: o0 / other"),
        ({"val": "other"}, "evaluation (draw of the validation images): v / other"),
        ({"weights": {"head.weight": "other"}}, "initial weights of equal name: head.weight"),
    ],
)
def test_fingerprints(run, change, line):
    first, folder = read_run(run(model="vit")), run(model="vitbnffn")
    path = folder / "result.json"
    content = json.loads(path.read_text())
    content["fingerprint"] |= change
    path.write_text(json.dumps(content))
    assert line in confounds(first, read_run(folder))


def test_other_seeds_may_have_other_weights_and_order(run):
    assert confounds(read_run(run(seed=0)), read_run(run(seed=1)), ("seed",)) == []


def test_versions_and_hardware(run):
    first = read_run(run())
    second = read_run(run(model="vitbnffn", result={"versions": {"torch": "2.11"}, "hardware": "GPU"}))
    assert confounds(first, second) == [
        "version of torch: 2.14.1 / 2.11",
        "hardware: a laptop, 2 threads / GPU",
    ]


def test_a_diverged_run_without_fingerprint_and_versions_is_no_confound(run):
    bare = {"fingerprint": None, "versions": None, "hardware": None}
    second = read_run(run(model="vitbnffn", status="diverged", result=bare))
    assert confounds(read_run(run()), second) == []


def test_a_key_that_an_older_run_does_not_have_is_no_confound_while_it_is_null_or_false(run):
    older, newer = read_run(run()), read_run(run(model="vitbnffn", matmul=None, recalibrate_bn=False))
    assert confounds(older, newer) == []
    assert confounds(older, read_run(run(model="vitbnffn", recalibrate_bn=True))) == [
        "configuration recalibrate_bn: absent / True"
    ]


def test_tally_counts_pairs(run):
    pairs = [(read_run(run(seed=s)), read_run(run(model="vitbnffn", seed=s, batch_size=50 + 50 * s))) for s in (0, 1)]
    assert tally(pairs) == {"configuration batch_size: 100 / 50": 1}


def test_studied_keys_bring_the_whole_placement():
    keys = studied_keys({"model.name": "vit", "lr": 1}, {"model.name": "vitbn", "lr": 1})
    assert "model.placement" in keys and "lr" not in keys
    assert studied_keys({"lr": 1}, {"lr": 2}) == ("lr",)
