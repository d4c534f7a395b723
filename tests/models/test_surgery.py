"""Real classes of each library; where one can be had, the oracle is our own network with the same weights."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests import foreign
from tests.conftest import TINY
from vitbn import VisionTransformer, ViT, replace_norms
from vitbn.errors import InputError
from vitbn.models.attach import norm_at
from vitbn.models.attention import Attention
from vitbn.models.merged_attention import MergedAttention
from vitbn.models.placements import Slot, complete
from vitbn.models.sites import sites
from vitbn.norms import ScalarBatchNorm, TokenBatchNorm
from vitbn.weights.translate import translate

OURS = {"ours": lambda: foreign.scattered(ViT(**{**TINY, "channels": 3, "num_classes": 3}))}
NETWORKS = {**foreign.NETWORKS, **OURS}
LIBRARIES = ["timm", "Hugging Face", "torchvision", "vit-pytorch"]
every_network = pytest.mark.parametrize("name", NETWORKS)
IMAGES = torch.rand(6, 3, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
KINDS = {"batch": TokenBatchNorm, "layer": nn.LayerNorm, "batch_scalar": ScalarBatchNorm, "none": nn.Identity}


def offered(net):
    return list(dict.fromkeys(site.slot for site in sites(net)))


def standing(net, slot):
    return [norm_at(net, site) for site in sites(net) if site.slot == slot]


def logits(net):
    out = net(IMAGES)
    return getattr(out, "logits", out)


@every_network
def test_a_norm_replaced_by_itself_changes_no_logit(name):
    net = NETWORKS[name]()
    with_layernorm = [slot for slot in offered(net) if isinstance(standing(net, slot)[0], nn.LayerNorm)]
    assert {"attn_in", "ffn_in", "final"} <= set(with_layernorm)
    before, modules = logits(net), dict(net.named_modules())
    replace_norms(net, dict.fromkeys(with_layernorm, "layer"))
    assert torch.equal(logits(net), before)
    assert dict(net.named_modules()) == modules


@every_network
def test_every_slot_takes_every_kind_and_the_data_pass_it(name):
    net = NETWORKS[name]().train()
    places = tuple(f"{site.path}." for site in sites(net))
    names = {path for path in net.state_dict() if not path.startswith(places)}
    for slot in offered(net):
        for kind in ("batch", "layer", "batch_scalar"):
            replace_norms(net, {slot: kind})
            norms, reached = standing(net, slot), []
            for norm in norms:
                norm.register_forward_hook(lambda norm, *_: reached.append(norm))  # noqa: B023
            assert {type(norm) for norm in norms} == {KINDS[kind]}
            assert logits(net).shape == (6, 3) and reached == norms
            assert names <= set(net.state_dict())  # nothing else has a new name
        replace_norms(net, {slot: "none"})
        assert {type(norm) for norm in standing(net, slot)} == {nn.Identity}
    assert set(net.state_dict()) == names and logits(net).shape == (6, 3)


def translated(net, placement):
    """Our network with the weights of another library's."""
    _, state, options = translate(net.state_dict(), Path("weights"))
    kinds = complete({**options["placement"], **placement})
    eps = next(module.eps for module in net.modules() if isinstance(module, nn.LayerNorm))
    own = VisionTransformer(**{**foreign.SIZE, "qkv_bias": options["qkv_bias"], "placement": kinds, "norm_eps": eps})
    own.double()
    gone = {f"{site.path}.{part}" for site in sites(own) if site.slot in placement for part in ("weight", "bias")}
    lacking, unknown = own.load_state_dict({n: v for n, v in state.items() if n not in gone}, strict=False)
    assert not unknown and {n.rpartition(".")[0] for n in lacking} <= {n.rpartition(".")[0] for n in gone}
    return own


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("slot", list(Slot))
def test_a_slot_is_the_same_place_as_in_our_network(name, slot):
    net = foreign.NETWORKS[name]().train()
    if slot not in offered(net):
        assert slot == "attn_post" or (name, slot) in (("torchvision", "qk"), ("vit-pytorch", "ffn_post"))
        return
    own = translated(net, {slot: "batch"}).train()
    replace_norms(net, {slot: "batch"})
    theirs, ours = logits(net), logits(own)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-9)
    theirs.square().sum().backward()
    ours.square().sum().backward()
    for norm, expected in zip(standing(net, slot), standing(own, slot), strict=True):
        torch.testing.assert_close(norm.running_mean, expected.running_mean, rtol=0, atol=1e-10)
        torch.testing.assert_close(norm.running_var, expected.running_var, rtol=1e-9, atol=0)
        torch.testing.assert_close(norm.weight.grad, expected.weight.grad, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(logits(net.eval()), logits(own.eval()), rtol=0, atol=1e-9)


@every_network
def test_replaced_networks_train(name):
    net = replace_norms(NETWORKS[name]().train(), {"ffn_in": "none", "ffn_hidden": "batch", "attn_in": "batch"})
    optimizer, labels = torch.optim.AdamW(net.parameters(), lr=3e-3), torch.arange(6) % 3
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(logits(net), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(norm.weight.grad is not None for norm in standing(net, "ffn_hidden"))


@every_network
def test_calibrated_where_nothing_stood_nothing_changes(name):
    net = NETWORKS[name]()
    before = logits(net)
    empty = [slot for slot in offered(net) if isinstance(standing(net, slot)[0], nn.Identity)]
    for kind in ("batch", "batch_scalar"):
        changed = replace_norms(copy.deepcopy(net), dict.fromkeys(empty, kind), calibrate=[IMAGES[:4], IMAGES[4:]])
        assert type(standing(changed, empty[-1])[0]) is KINDS[kind]
        torch.testing.assert_close(logits(changed), before, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["batch", "batch_scalar"])
def test_a_calibrated_norm_is_the_least_squares_line_on_its_own_input(kind):
    net = foreign.timm()
    calibrated = replace_norms(copy.deepcopy(net), {"attn_in": kind}, calibrate=[(IMAGES[:4], "labels"), IMAGES[4:]])
    inputs = []
    for norm in standing(calibrated, "attn_in"):
        norm.register_forward_hook(lambda norm, args, out: inputs.append((norm, args[0], out)))
    with torch.no_grad():
        calibrated(IMAGES)
        for original, (norm, x, out) in zip(standing(net, "attn_in"), inputs, strict=True):
            x, y, target = (part.flatten(0, 1) for part in (x, out, original(x)))
            mean, var = (x.mean(0), x.var(0, unbiased=False)) if kind == "batch" else (x.mean(), x.var(unbiased=False))
            torch.testing.assert_close(norm.running_mean, mean.view(-1), rtol=0, atol=1e-12)
            torch.testing.assert_close(norm.running_var, var.view(-1), rtol=1e-12, atol=0)
            for feature in (0, 7, 15):
                design = torch.stack([x[:, feature], torch.ones(len(x))], 1)
                line = design @ torch.linalg.lstsq(design, target[:, feature, None]).solution
                torch.testing.assert_close(y[:, feature], line[:, 0], rtol=0, atol=1e-9)


def test_calibration_is_in_evaluation_mode():
    net = foreign.timm(proj_drop_rate=0.5, drop_path_rate=0.5)
    placement = {"attn_in": "batch", "ffn_hidden": "batch"}
    expected = replace_norms(copy.deepcopy(net), placement, calibrate=[IMAGES])
    trained = replace_norms(net.train(), placement, calibrate=[IMAGES])
    assert all(module.training for module in trained.modules())
    assert torch.equal(logits(trained.eval()), logits(expected))


def test_where_calibration_fails_the_network_stays_as_it_was():
    net = replace_norms(foreign.timm(), {"ffn_hidden": "layer"})
    modules = dict(net.named_modules())
    with pytest.raises(InputError, match=r"^calibrate: no inputs; give a list or a loader"):
        replace_norms(net, {"attn_in": "batch", "ffn_hidden": "batch"}, calibrate=iter([IMAGES]))
    assert dict(net.named_modules()) == modules
    with pytest.raises(AssertionError, match="match model"):
        replace_norms(net, {"attn_in": "batch"}, calibrate=[IMAGES[..., 1:]])
    assert dict(net.named_modules()) == modules and not any(module.training for module in modules.values())


def test_modes_types_and_eps_are_those_of_the_network():
    net = foreign.timm(init_values=0.1)
    net.blocks[0].attn.eval()
    modes = {path: module.training for path, module in net.train().named_modules()}
    replace_norms(net, {"attn_in": "batch", "ffn_hidden": "batch"}, calibrate=[IMAGES])
    assert all(net.get_submodule(path).training == mode for path, mode in modes.items())
    norms = standing(net, "attn_in") + standing(net, "ffn_hidden")
    assert {(norm.training, norm.eps, norm.weight.dtype) for norm in norms} == {(True, 1e-6, torch.float64)}
    assert replace_norms(net.eval(), {"qk": "layer"}).blocks[0].attn.q_norm.training is False
    half = replace_norms(foreign.huggingface().bfloat16(), {"attn_in": "layer", "qk": "layer", "ffn_hidden": "batch"})
    assert standing(half, "qk")[0].weight.dtype == torch.bfloat16 and standing(half, "qk")[0].eps == 1e-12
    assert standing(half, "ffn_hidden")[0].running_var.dtype == torch.float32
    assert half(IMAGES.bfloat16()).logits.dtype == torch.bfloat16
    meta = replace_norms(foreign.timm().to("meta"), {"ffn_hidden": "batch"})
    assert standing(meta, "ffn_hidden")[0].running_mean.is_meta


def test_replacing_twice_changes_nothing_more():
    net = replace_norms(foreign.vit_pytorch(), {"ffn_act": "batch", "qk": "layer"})
    modules = dict(net.named_modules())
    before = logits(net.train())
    replace_norms(net, {"ffn_act": "batch", "qk": "layer"})
    assert dict(net.named_modules()) == modules and torch.equal(logits(net), before)


def test_a_kind_with_other_options_keeps_the_weights():
    net = replace_norms(foreign.timm(), {"ffn_hidden": {"kind": "ghost_batch", "virtual": 2}}).train()
    logits(net)
    (first, _), state = standing(net, "ffn_hidden"), copy.deepcopy(net.state_dict())
    replace_norms(net, {"ffn_hidden": {"kind": "ghost_batch", "virtual": 3}})
    (norm, _) = standing(net, "ffn_hidden")
    assert norm is not first and norm.virtual == 3
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    replace_norms(net, {"ffn_hidden": {"virtual": 3, "kind": "ghost_batch"}})
    assert standing(net, "ffn_hidden")[0] is norm
    net.blocks[0].norm1 = nn.RMSNorm(16, eps=1e-6).double()
    net.blocks[0].norm1.weight.data.fill_(3)
    assert (standing(replace_norms(net, {"attn_in": "rms"}), "attn_in")[0].weight == 3).all()


def test_the_name_of_a_placement_says_it_for_all_slots():
    net = replace_norms(foreign.torchvision(), "vitbnffn")
    kinds = {slot: type(standing(net, slot)[0]) for slot in offered(net)}
    layers = dict.fromkeys(("embed_in", "embed_out", "attn_in", "final"), nn.LayerNorm)
    assert kinds == {slot: {**layers, "ffn_hidden": TokenBatchNorm}.get(slot, nn.Identity) for slot in kinds}
    with pytest.raises(ValueError, match=r"^placement: unknown name 'vitbm'; choose from "):
        replace_norms(net, "vitbm")


@pytest.mark.parametrize("kind", ["batch_renorm", "ghost_batch", "power"])
def test_relatives_of_batchnorm_are_calibrated_too(kind):
    net = foreign.timm()
    changed = replace_norms(copy.deepcopy(net), {"ffn_hidden": kind, "qk": kind}, calibrate=[IMAGES])
    torch.testing.assert_close(logits(changed), logits(net), rtol=0, atol=1e-9)


def test_copies_pickles_and_state_dicts_hold_the_norms(tmp_path):
    placement = dict.fromkeys(offered(foreign.huggingface()), "batch")
    net = replace_norms(foreign.huggingface(), placement).train()
    logits(net)
    fresh = replace_norms(foreign.huggingface(), placement)
    fresh.load_state_dict(net.state_dict())
    expected = logits(net.eval())
    for other in (fresh, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(logits(other.eval()), expected)
        assert standing(other, "ffn_hidden")[0] is not standing(net, "ffn_hidden")[0]


def test_our_own_network_is_as_if_it_had_been_made_so():
    options = {**TINY, "channels": 3, "placement": {"attn_in": "layer", "final": "layer"}}
    net = replace_norms(VisionTransformer(**options), {"qk": "layer", "ffn_hidden": "batch", "final": "none"})
    made = VisionTransformer(**{**options, "placement": {"qk": "layer", "ffn_hidden": "batch", "final": "none"}})
    made.load_state_dict(net.state_dict())
    images = IMAGES.float()
    assert net.placement == made.placement and str(net) == str(made)
    assert torch.equal(net(images), made(images))
    assert {type(block.attention) for block in net.blocks} == {Attention}
    replace_norms(net, {"qk": "none"})
    assert {type(block.attention) for block in net.blocks} == {MergedAttention}


def test_bad_input_is_one_line_and_changes_nothing():
    net = foreign.torchvision()
    modules = dict(net.named_modules())
    cases = [
        ({"attn_in": "batch", "qk": "layer"},
         "slot 'qk': VisionTransformer has no place for it; it has embed_in, embed_out, attn_in, attn_out, ffn_in"),
        ({"attn_in": "batch", "ffn": "layer"}, "placement: unknown slot 'ffn'; choose from embed_in"),
        ({"attn_in": "batch", "final": "bach"}, "placement.final: unknown kind 'bach'; choose from none, layer, batch"),
    ]  # fmt: skip
    for placement, words in cases:
        with pytest.raises(ValueError, match=f"^{words}") as caught:
            replace_norms(net, placement)
        assert "\n" not in str(caught.value)
    assert dict(net.named_modules()) == modules
    with pytest.raises(InputError, match=r"^ModuleList: where norms stand is known of vitbn's"):
        replace_norms(nn.ModuleList(), {"attn_in": "batch"})


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARIES)
def test_replaced_networks_can_be_exported(name):
    net = NETWORKS[name]()
    replace_norms(net, dict.fromkeys(offered(net), "batch"), calibrate=[IMAGES])
    program = torch.export.export(net, (IMAGES,), strict=False)
    out = program.module()(IMAGES)
    torch.testing.assert_close(getattr(out, "logits", out), logits(net), rtol=0, atol=1e-9)


def test_batchnorm_with_an_identity_beside_it_is_calibrated_too():
    net = foreign.timm()
    expected = logits(replace_norms(copy.deepcopy(net), {"attn_in": "batch"}, calibrate=[IMAGES]))
    found = replace_norms(copy.deepcopy(net), {"attn_in": {"kind": "rep_batch", "eta": 0.5}}, calibrate=[IMAGES])
    torch.testing.assert_close(logits(found), expected, rtol=0, atol=1e-9)
    beginning = replace_norms(copy.deepcopy(net), {"attn_in": "prep_batch"}, calibrate=[IMAGES])
    torch.testing.assert_close(logits(beginning), logits(net), rtol=0, atol=1e-4)  # at first it is LayerNorm


@pytest.mark.parametrize("kind", ["batch", "rep_batch", "prep_batch", "batch_scalar"])
def test_where_nothing_stood_a_calibrated_norm_changes_nothing(kind):
    net, x = ViT(**TINY).eval(), torch.randn(64, 1, 28, 28)
    before = net(x)
    replace_norms(net, {"ffn_hidden": kind, "attn_out": kind}, calibrate=[x])
    torch.testing.assert_close(net.eval()(x), before, rtol=1e-4, atol=1e-4)


def test_calibrating_skips_an_empty_batch_and_refuses_what_is_not_finite():
    x = torch.randn(64, 1, 28, 28)
    net = ViT(**TINY)
    one, other = (replace_norms(copy.deepcopy(net), "vit_batch", calibrate=batches) for batches in ([x], [x[:0], x]))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    net = ViT(**TINY)
    with pytest.raises(InputError, match="calibrate: what comes to slot embed_in is not finite"):
        replace_norms(net, "vit_batch", calibrate=[x, x * float("nan")])
    assert isinstance(net.blocks[0].attn_in, nn.LayerNorm)
