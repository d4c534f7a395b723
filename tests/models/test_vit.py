import copy
import inspect

import pytest
import torch
import vit_pytorch
from torch import nn
from torch.nn import functional as F

import vitbn
from tests.conftest import ARTICLE, TINY
from vitbn import ViT, ViTBN, ViTBNFFN
from vitbn.models.init import initialize
from vitbn.models.norms import ScalarBatchNorm, TokenBatchNorm
from vitbn.models.placements import PLACEMENTS, Kind, Slot
from vitbn.models.pos_emb import sincos_1d
from vitbn.models.vit import VisionTransformer


@pytest.mark.parametrize(("model", "count"), [(ViT, 893_164), (ViTBNFFN, 893_932), (ViTBN, 893_932)])
def test_parameter_counts_of_the_article(model, count):
    assert sum(p.numel() for p in model(**ARTICLE).parameters()) == count


def test_options_are_keyword_only_and_named_as_promised():
    parameters = inspect.signature(ViT).parameters
    assert list(parameters) == [*ARTICLE, "placement", "qkv_bias", "norm_eps"]
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters.values())


def test_public_names():
    assert {"ViT", "ViTBN", "ViTBNFFN"} <= set(vitbn.__all__)
    with pytest.raises(AttributeError, match="no attribute 'ViTT'"):
        vitbn.ViTT  # noqa: B018


def norm_classes(net):
    block = net.blocks[0]
    return {
        Slot.embed_in: net.embedding.in_norm, Slot.embed_out: net.embedding.out_norm, Slot.attn_in: block.attn_in,
        Slot.attn_out: block.attn_out, Slot.qk: block.attention.q_norm, Slot.ffn_in: block.ffn_in,
        Slot.ffn_hidden: block.ffn.hidden_norm, Slot.ffn_act: block.ffn.act_norm, Slot.ffn_out: block.ffn_out,
        Slot.final: net.final_norm,
    }  # fmt: skip


TYPES = {
    Kind.none: nn.Identity,
    Kind.layer: nn.LayerNorm,
    Kind.batch: TokenBatchNorm,
    Kind.batch_scalar: ScalarBatchNorm,
}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (ViT, {"embed_in": "layer", "embed_out": "layer", "attn_in": "layer", "ffn_in": "layer", "final": "layer"}),
        (
            ViTBNFFN,
            {"embed_in": "layer", "embed_out": "layer", "attn_in": "layer", "ffn_hidden": "batch", "final": "layer"},
        ),
        (
            ViTBN,
            {"embed_in": "batch", "embed_out": "batch", "attn_in": "batch", "ffn_hidden": "batch", "final": "batch"},
        ),
    ],
)
def test_which_norm_stands_where(model, expected):
    found = {slot: type(norm) for slot, norm in norm_classes(model(**TINY)).items()}
    assert found == {slot: TYPES[Kind(expected.get(slot, "none"))] for slot in Slot}


@pytest.mark.parametrize("slot", list(Slot))
@pytest.mark.parametrize("kind", [kind for kind in Kind if kind != "none"])
def test_any_kind_in_any_slot_gets_gradients(slot, kind):
    net = VisionTransformer(**TINY, placement={slot: kind})
    F.cross_entropy(net(torch.rand(3, 1, 28, 28)), torch.tensor([0, 1, 2])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert type(norm_classes(net)[slot]) is TYPES[kind]


@pytest.mark.parametrize("model", [ViT, ViTBNFFN, ViTBN])
@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("pos_emb", ["learn", "pe1d"])
def test_every_parameter_gets_a_gradient(model, pool, pos_emb):
    net = model(**{**TINY, "pool": pool, "pos_emb": pos_emb})
    F.cross_entropy(net(torch.rand(4, 1, 28, 28)), torch.arange(4)).backward()
    # a bias just before a BatchNorm cancels: its gradient exists and is zero up to rounding
    dead = [n for n, p in net.named_parameters() if p.grad is None or not (p.grad.any() or n.endswith("bias"))]
    assert dead == []


def everything(net, images, labels, training):
    """Logits, gradients and statistics after one pass."""
    net = copy.deepcopy(net).train(training)
    logits = net(images)
    F.cross_entropy(logits, labels).backward()
    return [logits, *(p.grad for p in net.parameters()), *(b.double() for b in net.buffers())]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("slot", list(Slot))
@pytest.mark.parametrize("kind", [Kind.layer, Kind.batch, Kind.batch_scalar])
@pytest.mark.parametrize("route", ["standard", "merged"])
def test_tokens_that_nothing_reads_are_not_computed_and_nothing_changes(training, slot, kind, route, monkeypatch):
    torch.manual_seed(0)
    placement = {**PLACEMENTS["vitbnffn" if slot == "attn_in" else "none"], slot: kind}
    net = VisionTransformer(**{**TINY, "dim": 16, "dim_head": 12}, placement=placement, qkv_bias=True).double()
    for block in net.blocks:
        block.attention.route = route
    images, labels = torch.rand(5, 1, 28, 28, dtype=torch.float64), torch.arange(5)
    narrow = everything(net, images, labels, training)
    monkeypatch.setattr(VisionTransformer, "_rows_read", lambda self: None)
    for a, b in zip(narrow, everything(net, images, labels, training), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def rows_of_last_block(net):
    """Tokens the last block's attention asks for, its hidden layer activates, and its last Linear sees."""
    block, seen = net.blocks[-1], []
    for module in (block.attention, block.ffn.act, block.ffn.fc2):
        module.register_forward_hook(lambda m, args, out: seen.append(out.shape[1]))
    net(torch.rand(4, 1, 28, 28))
    return tuple(seen)


@pytest.mark.parametrize(
    ("placement", "pool", "training", "rows"),
    [
        ("vit", "cls", True, (1, 1, 1)),
        ("vit", "mean", True, (17, 17, 17)),
        ("vitbnffn", "cls", True, (17, 1, 1)),
        ("vitbnffn", "cls", False, (1, 1, 1)),
        ("vitbn", "cls", True, (17, 17, 17)),
        ("vitbn", "cls", False, (1, 1, 1)),
    ],
)
def test_how_many_tokens_the_last_block_computes(placement, pool, training, rows):
    net = VisionTransformer(**{**TINY, "pool": pool}, placement=PLACEMENTS[placement])
    assert rows_of_last_block(net.train(training)) == rows


def test_active_dropout_is_drawn_for_all_tokens():
    assert rows_of_last_block(ViT(**{**TINY, "dropout": 0.1})) == (17, 17, 17)
    assert rows_of_last_block(ViT(**{**TINY, "dropout": 0.1}).eval()) == (1, 1, 1)


@pytest.mark.parametrize("model", [ViT, ViTBNFFN, ViTBN])
def test_evaluation_does_not_depend_on_the_rest_of_the_batch(model):
    torch.manual_seed(0)
    net = model(**TINY).double()
    images = torch.rand(6, 1, 28, 28, dtype=torch.float64)
    net(images)  # moves the running statistics away from their start
    net.eval()
    with torch.no_grad():
        together = net(images)
        alone = torch.cat([net(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_training_mode_of_batchnorm_does_depend_on_the_batch():
    torch.manual_seed(0)
    net, images = ViTBNFFN(**TINY), torch.rand(6, 1, 28, 28)
    assert not torch.allclose(net(images)[:1], net(images[:1]), atol=1e-3)


def test_vit_is_vit_pytorchs():
    """Same tensors, same logits as the usual implementation, patches in row-major order included."""
    torch.manual_seed(0)
    shared = {k: v for k, v in TINY.items() if k not in ("pos_emb",)}
    theirs = vit_pytorch.ViT(**shared).double().eval()
    ours = ViT(**TINY).double().eval()
    # theirs are registered in the order the data passes them, except CLS, positions and the final norm
    by_shape = dict(theirs.named_parameters())
    state = {
        "embedding.cls": by_shape.pop("cls_token"),
        "embedding.positions.table": by_shape.pop("pos_embedding"),
    }
    state |= {f"final_norm.{part}": by_shape.pop(f"transformer.norm.{part}") for part in ("weight", "bias")}
    names = [name for name, _ in ours.named_parameters() if name not in state]
    order = sorted(names, key=flow_order)
    state |= dict(zip(order, by_shape.values(), strict=True))
    ours.load_state_dict({k: v.detach().reshape(dict(ours.named_parameters())[k].shape) for k, v in state.items()})
    images = torch.rand(5, 1, 28, 28, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=1e-12)


def flow_order(name):
    """Position of our parameter in the order of vit-pytorch's."""
    steps = ["embedding.in_norm", "embedding.project", "embedding.out_norm", "blocks", "final_norm", "head"]
    inside = ["attn_in", "to_qkv", "to_out", "ffn_in", "fc1", "fc2"]
    step = next(i for i, s in enumerate(steps) if name.startswith(s))
    block = int(name.split(".")[1]) if step == 3 else 0
    part = next((i for i, s in enumerate(inside) if s in name), 0) if step == 3 else 0
    return step, block, part, name.endswith("bias")


@pytest.mark.parametrize("kind", ["batch2d", "batch1d"])
def test_token_batchnorm_is_the_articles(kind):
    """(B, N, D) as (B, D, N, 1) through BatchNorm2d, outputs, gradients and running statistics."""
    torch.manual_seed(0)
    x = torch.randn(5, 7, 6, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    ours = TokenBatchNorm(6).double()
    if kind == "batch2d":
        theirs = nn.BatchNorm2d(6).double()
        # contiguous, because torch 2.14's CPU backward of BatchNorm2d is wrong for a transposed (B, D, N, 1)
        expected = theirs(y.transpose(1, 2)[..., None].contiguous())[..., 0].transpose(1, 2)
    else:
        theirs = nn.BatchNorm1d(6).double()
        expected = theirs(y.transpose(1, 2)).transpose(1, 2)
    weight = torch.randn_like(expected)
    (ours(x) * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=0, atol=1e-14)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=0, atol=1e-14)


@pytest.mark.parametrize("norm", [TokenBatchNorm, ScalarBatchNorm])
def test_batchnorm_gradients_are_those_of_finite_differences(norm):
    torch.manual_seed(0)
    layer, x = norm(4).double(), torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_scalar_batchnorm_normalises_the_whole_tensor():
    torch.manual_seed(0)
    norm = ScalarBatchNorm(4).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = 3 + 2 * torch.randn(5, 7, 4, dtype=torch.float64)
    expected = (x - x.mean()) / (x.var(unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(norm.running_mean, 0.1 * x.mean()[None], rtol=0, atol=1e-14)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * x.var()[None], rtol=0, atol=1e-14)
    norm.eval()
    expected = (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-12)


def test_sincos_table():
    table = sincos_1d(17, 8)
    for n in (0, 1, 16):
        for k in range(1, 5):
            angle = torch.tensor(n * 10000 ** (-k / 4), dtype=torch.float64)
            torch.testing.assert_close(table[n, k - 1].double(), angle.sin(), rtol=0, atol=1e-6)
            torch.testing.assert_close(table[n, k + 3].double(), angle.cos(), rtol=0, atol=1e-6)


def test_pe1d_is_a_buffer_that_is_not_trained():
    net = ViT(**{**TINY, "pos_emb": "pe1d"})
    assert "embedding.positions.table" in dict(net.named_buffers())
    assert sum(p.numel() for p in ViT(**TINY).parameters()) - sum(p.numel() for p in net.parameters()) == 17 * 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 5}, "patch_size 5 does not divide image_size 28"),
        ({"pool": "men"}, "unknown pool 'men'; choose from cls, mean"),
        ({"pos_emb": "rope"}, "unknown pos_emb 'rope'; choose from learn, pe1d"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"placement": {"ffn": "batch"}}, "unknown slot 'ffn'; choose from embed_in, embed_out"),
        (
            {"placement": {"ffn_in": "rms"}},
            "placement.ffn_in: unknown kind 'rms'; choose from none, layer, batch",
        ),
        ({"pos_emb": "pe1d", "dim": 15}, "needs an even dim, got 15"),
    ],
)
def test_unknown_options_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        ViT(**{**TINY, **change})


def test_wrong_images_are_named():
    with pytest.raises(ValueError, match=r"expected images of shape \(B, 1, 28, 28\), got \(2, 3, 28, 28\)"):
        ViT(**TINY)(torch.rand(2, 3, 28, 28))


def test_every_kind_has_a_constructor():
    from vitbn.models.norms import KINDS

    assert set(KINDS) == set(Kind)
    assert all(set(placement) <= set(Slot) for placement in PLACEMENTS.values())


def test_models_of_one_seed_share_what_they_have_in_common():
    arms = {model: model(**TINY) for model in (ViT, ViTBNFFN, ViTBN)}
    for net in arms.values():
        initialize(net, seed=3)
    reference = dict(arms[ViT].named_parameters())
    for net in arms.values():
        shared = [n for n, p in net.named_parameters() if n in reference and reference[n].shape == p.shape]
        assert len(shared) > 20
        assert all(torch.equal(dict(net.named_parameters())[n], reference[n]) for n in shared)


def test_initial_weights_follow_seed_name_and_torchs_distribution():
    a, b, other = (ViT(**ARTICLE) for _ in range(3))
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    for net, seed in ((a, 0), (b, 0), (other, 1)):
        initialize(net, seed)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.head.weight, other.head.weight)
    first, second = a.blocks[0].ffn.fc1.weight, a.blocks[1].ffn.fc1.weight
    assert not torch.equal(first, second)
    bound = 1 / 64**0.5  # nn.Linear: U(-1/sqrt(fan_in), 1/sqrt(fan_in))
    assert first.abs().max() <= bound and first.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert a.embedding.positions.table.std().item() == pytest.approx(1, rel=0.1)


def test_compiled_network_keeps_its_parameter_names():
    net = ViT(**TINY)
    names = list(net.state_dict())
    net.compile()
    assert list(net.state_dict()) == names
