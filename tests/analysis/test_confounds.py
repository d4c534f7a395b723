import json

import pytest

from vitbn.analysis.confounds import confounds, studied_keys, tally
from vitbn.analysis.records import read_run
from vitbn.store.labels import PLACEMENT


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


@pytest.mark.parametrize(
    ("second", "line"),
    [
        ({"versions": {"python": "3.12.3", "torch": "2.11"}}, "version of torch: 2.14.1 / 2.11"),
        ({"versions": {"torch": "2.14.1"}}, "version of python: 3.12.3 / not recorded"),
        ({"hardware": "a GPU"}, "hardware: a laptop, 2 threads / a GPU"),
        ({"hardware": "a laptop, 1 threads"}, "hardware: a laptop, 2 threads / a laptop, 1 threads"),
        ({"hardware": None}, "hardware: a laptop, 2 threads / not recorded"),
        ({"vitbn": "0.2.0"}, "vitbn: not recorded / 0.2.0"),
        ({"matmul": "medium"}, "matmul_precision: not recorded / medium"),
        ({"cuda_graph": True}, "cuda_graph: not recorded / True"),
    ],
)
def test_everything_recorded_of_the_environment_is_compared(run, second, line):
    pair = read_run(run()), read_run(run(model="vitbnffn", result=second))
    assert confounds(*pair) == [line]


def test_a_run_that_was_resumed_elsewhere_says_what_changed_after_which_step(run):
    parts = [{"from_step": 0, "hardware": "a laptop, 1 threads", "torch": "2.14.1"}]
    parts += [{"from_step": 40, "hardware": "a laptop, 2 threads", "torch": "2.14.1"}]
    first, second = read_run(run(result={"parts": parts})), read_run(run(model="vitbnffn"))
    words = "a laptop, 1 threads after step 0; a laptop, 2 threads after step 40"
    assert confounds(first, second) == [f"parts of a resumed run: {words} / one"]
    assert confounds(first, read_run(run(model="vitbnffn", study="b", result={"parts": parts}))) == []


@pytest.mark.parametrize("name", ["matmul", "matmul_precision"])
def test_a_precision_that_only_the_results_tell_is_caught_and_what_did_not_happen_is_not(run, name):
    first = read_run(run(result={name: "medium", "cuda_graph": False}))
    second = read_run(run(model="vitbnffn", result={"matmul": "highest"}))
    assert confounds(first, second) == ["matmul_precision: medium / highest"]


def test_a_precision_that_the_configuration_tells_is_caught_once(run):
    first, second = (
        read_run(run(model=model, matmul_precision=precision, result={"matmul_precision": precision}))
        for model, precision in (("vit", "medium"), ("vitbnffn", "highest"))
    )
    assert confounds(first, second) == ["matmul_precision: medium / highest"]
    assert confounds(first, second, (*PLACEMENT, "matmul_precision")) == []


def test_an_older_run_of_the_default_precision_equals_a_newer_one(run):
    older = read_run(run(matmul=None, result={"matmul": "highest"}))
    recorded = {"matmul_precision": "highest", "precision": "32-true"}
    assert confounds(older, read_run(run(model="vitbnffn", matmul_precision="highest", result=recorded))) == []
    recorded["precision"] = "bf16-true"  # what a GPU that has no other made of it
    assert confounds(older, read_run(run(model="vitbnffn", result=recorded, study="b"))) == [
        "precision: not recorded / bf16-true"
    ]


def test_what_came_out_is_no_confound(run):
    second = run(model="vitbnffn", final=0.95, result={"seconds": 900, "epochs": 9, "label": "stuck"})
    assert confounds(read_run(run()), read_run(second)) == []


def test_a_run_that_recorded_nothing_is_not_called_equal(run):
    bare = {"fingerprint": None, "versions": None, "hardware": None}
    second = read_run(run(model="vitbnffn", status="diverged", result=bare))
    assert confounds(read_run(run()), second) == [
        "fingerprint (weights, order, evaluation): recorded / not recorded",
        "environment (matmul precision, versions, hardware): recorded / not recorded",
    ]


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
