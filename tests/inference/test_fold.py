import copy
import itertools

import pytest
import torch
from torch import nn

from tests import foreign
from tests.conftest import TINY
from tests.inference.conftest import scramble
from vitbn.errors import InputError
from vitbn.inference import fold as folding
from vitbn.inference.fold import fold, fold_proven, largest_difference
from vitbn.models.placements import Slot, complete, named
from vitbn.models.sites import sites
from vitbn.models.surgery import replace_norms
from vitbn.models.vit import VisionTransformer
from vitbn.norms import NORMS, ScalarBatchNorm, TokenBatchNorm, set_progress

IMAGES = torch.rand(7, 1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
# which Linear takes up the norm of each slot
INTO = {
    "embed_in": "embedding.project", "embed_out": "embedding.project", "attn_in": "attention.to_qkv",
    "qk": "attention.to_qkv", "attn_out": "attention.to_out", "ffn_in": "ffn.fc1", "ffn_hidden": "ffn.fc1",
    "ffn_act": "ffn.fc2", "ffn_out": "ffn.fc2", "final": "head",
}  # fmt: skip


def network(placement, **options):
    torch.manual_seed(0)
    net = VisionTransformer(**{**TINY, **options}, placement=placement).double()
    set_progress(net, 1)
    return scramble(net).eval()


def assert_same_function(net, folded):
    with torch.no_grad():
        torch.testing.assert_close(net(IMAGES), folded(IMAGES), rtol=0, atol=1e-10)


BESIDE_A_LINEAR = [slot for slot in Slot if slot not in ("attn_post", "ffn_post")]
FOLDING = [kind for kind, norm in NORMS.items() if norm.folds]


@pytest.mark.parametrize("slot", BESIDE_A_LINEAR)
@pytest.mark.parametrize(
    ("kind", "pool", "bias"),
    [*itertools.product(("batch", "batch_scalar"), ("cls", "mean"), (False, True)),
     *((kind, "cls", False) for kind in FOLDING if kind not in ("batch", "batch_scalar"))],
)  # fmt: skip
def test_every_batch_norm_in_every_slot_folds_exactly(slot, kind, pool, bias):
    net = network({**named("vit"), slot: kind}, pool=pool, qkv_bias=bias)
    result = fold(net)
    assert_same_function(net, result.net)
    folded = [step for step in result.plan if step.into]
    copies = 1 if slot in ("embed_in", "embed_out", "final") else 2 * TINY["depth"] if slot == "qk" else TINY["depth"]
    assert [step.site.slot for step in folded] == [slot] * copies
    assert all(step.kind == kind and step.into.endswith(INTO[slot]) for step in folded)
    assert result.placement == {**complete(named("vit")), slot: "none"}
    assert result.qkv_bias == (bias or slot in ("attn_in", "qk"))
    assert not any(isinstance(m, (TokenBatchNorm, ScalarBatchNorm)) for m in result.net.modules())


def test_behind_a_residual_sum_a_norm_stays():
    result = fold(network({"attn_post": "batch", "ffn_post": "batch"}))
    told = {(step.into, step.how) for step in result.plan if step.kind == "batch"}
    assert told == {(None, "no Linear stands beside it")}


def test_a_norm_that_is_still_part_layernorm_stays():
    net = network({"ffn_in": "prep_batch"})
    set_progress(net, 0.5)
    assert not any(step.into for step in fold(net).plan)


@pytest.mark.parametrize("kind", ["batch", "batch_scalar"])
def test_all_slots_at_once(kind):
    net = network(dict.fromkeys(BESIDE_A_LINEAR, kind))
    result = fold(net)
    assert_same_function(net, result.net)
    assert all(step.into for step in result.plan) and set(result.placement.values()) == {"none"}


def test_one_head_without_projection_takes_attn_out_into_the_values():
    net = network({"attn_in": "batch", "attn_out": "batch"}, heads=1, dim_head=TINY["dim"])
    result = fold(net)
    assert_same_function(net, result.net)
    assert {step.into for step in result.plan if step.site.slot == "attn_out"} == {
        "blocks.0.attention.to_qkv", "blocks.1.attention.to_qkv",
    }  # fmt: skip


def test_a_folded_network_is_what_the_constructor_makes_of_its_options():
    result = fold(network(named("vitbn")))
    again = VisionTransformer(**TINY, placement=result.placement, qkv_bias=result.qkv_bias).double().eval()
    again.load_state_dict(result.net.state_dict())
    with torch.no_grad():
        assert torch.equal(again(IMAGES), result.net(IMAGES))


def test_layer_norms_stay_and_the_plan_says_why():
    net = network(named("vit"))
    result = fold(net)
    assert len(result.plan) == 3 + 2 * TINY["depth"]
    assert all(step.into is None and step.how == folding.STAYS for step in result.plan)
    before, after = net.state_dict(), result.net.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_the_plan_of_vitbnffn_lists_every_norm_in_the_order_of_the_data():
    plan = fold(network(named("vitbnffn"))).plan
    assert [(step.site.path, step.into) for step in plan] == [
        ("embedding.in_norm", None), ("embedding.out_norm", None),
        ("blocks.0.attn_in", None), ("blocks.0.ffn.hidden_norm", "blocks.0.ffn.fc1"),
        ("blocks.1.attn_in", None), ("blocks.1.ffn.hidden_norm", "blocks.1.ffn.fc1"),
        ("final_norm", None),
    ]  # fmt: skip


def test_the_plan_says_where_a_bias_is_made():
    how = {step.site.slot: step.how for step in fold(network(named("vitbn"))).plan}
    assert how["attn_in"] == "scales its inputs and makes its bias" and how["ffn_hidden"] == "scales its outputs"


def test_folding_leaves_the_network_alone_and_a_second_time_changes_nothing():
    net = network(named("vitbn"))
    before = copy.deepcopy(net.state_dict())
    once = fold(net)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    twice = fold(once.net)
    assert twice.plan == () and twice.placement == once.placement
    first, second = once.net.state_dict(), twice.net.state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_float32_networks_stay_float32_and_are_folded_in_float64():
    net = network(named("vitbn"))
    expected = fold(copy.deepcopy(net).float().double()).net.head.weight.float()
    result = fold(net.float())
    assert torch.equal(result.net.head.weight, expected) and result.net.head.weight.dtype == torch.float32


def test_the_proof_is_the_largest_difference_over_all_images():
    net = network(named("vitbn"))
    folded = fold(net).net
    nn.init.zeros_(folded.head.weight)
    images = torch.rand(2_500, 1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    images[-1] *= 100
    with torch.no_grad():
        expected = (net(images) - folded(images)).abs().max().item()
    assert largest_difference(net, folded, images.split(1000)) == pytest.approx(expected, abs=1e-12)
    assert fold_proven(net, IMAGES.split(3))[1] < 1e-10


@pytest.mark.parametrize("harm", [lambda var: var.fill_(1e-30), lambda var: var.fill_(float("nan"))])
def test_a_folding_that_is_not_exact_is_refused(harm):
    net = network(named("vitbn")).float()
    net.embedding.in_norm.eps = 1e-30
    harm(net.embedding.in_norm.running_var)
    with pytest.raises(InputError, match=r"folding changes a logit by .*more than 0.0001; use --no-fold"):
        fold_proven(net, [IMAGES.float()])


def everywhere(net, kind):
    """In every slot beside a Linear, or that could be."""
    return scramble(replace_norms(net, {site.slot: kind for site in sites(net) if site.slot != "ffn_post"})).eval()


@pytest.mark.parametrize("name", foreign.NETWORKS)
@pytest.mark.parametrize("kind", ["batch", "batch_scalar"])
def test_networks_of_other_libraries_fold_exactly(name, kind):
    net = everywhere(foreign.NETWORKS[name](), kind)
    images = IMAGES.expand(-1, 3, -1, -1)
    result = fold(net)
    torch.testing.assert_close(foreign.logits(result.net, images), foreign.logits(net, images), rtol=0, atol=1e-10)
    assert all(step.into and step.kind == kind for step in result.plan)
    assert len(result.plan) == sum(bool(site.linears) for site in sites(net))
    assert not any(isinstance(m, (TokenBatchNorm, ScalarBatchNorm)) for m in result.net.modules())


def test_the_plan_names_all_that_read_a_norm_and_says_where_none_does():
    plan = {step.site.path: step for step in fold(everywhere(foreign.huggingface(qkv_bias=False), "batch")).plan}
    inner = "vit.layers.0.attention"
    step = plan["vit.layers.0.layernorm_before"]
    assert step.into == f"{inner}.q_proj, {inner}.k_proj, {inner}.v_proj"
    assert step.how == "scales its inputs and makes its bias"
    *_, last = fold(everywhere(foreign.timm(num_classes=0), "batch")).plan
    assert (last.into, last.how) == (None, folding.ALONE)
    *_, other = fold(foreign.torchvision()).plan
    assert (other.kind, other.how) == ("layer", folding.STAYS)


def test_a_network_of_torchs_own_attention_without_bias_gets_one():
    net = foreign.torchvision()
    for block in net.encoder.layers:
        block.self_attention.in_proj_bias = None
    net = everywhere(net, "batch")
    images = IMAGES.expand(-1, 3, -1, -1)
    result = fold(net)
    torch.testing.assert_close(foreign.logits(result.net, images), foreign.logits(net, images), rtol=0, atol=1e-10)
    assert {step.how for step in result.plan if step.site.slot == "attn_in"} == {"scales its inputs and makes its bias"}
