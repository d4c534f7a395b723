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
from vitbn.models import vit
from vitbn.models.placements import Slot, named
from vitbn.models.vit import VisionTransformer
from vitbn.norms import NORMS, Norm


@pytest.mark.parametrize(("model", "count"), [(ViT, 893_164), (ViTBNFFN, 893_932), (ViTBN, 893_932)])
def test_parameter_counts_of_the_article(model, count):
    assert sum(p.numel() for p in model(**ARTICLE).parameters()) == count


def test_options_are_keyword_only_and_named_as_promised():
    parameters = inspect.signature(ViT).parameters
    assert list(parameters) == [*ARTICLE, "placement", "qkv_bias", "norm_eps"]
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters.values())


def test_public_names():
    assert {"ViT", "ViTBN", "ViTBNFFN"} <= set(vitbn.__all__) and set(vitbn.__all__) <= set(dir(vitbn))
    assert ViT(**TINY, placement="vitbn").placement == ViTBN(**TINY).placement
    with pytest.raises(AttributeError, match="no attribute 'ViTT'"):
        vitbn.ViTT  # noqa: B018


def norm_classes(net):
    block = net.blocks[0]
    return {
        Slot.embed_in: net.embedding.in_norm, Slot.embed_out: net.embedding.out_norm, Slot.attn_in: block.attn_in,
        Slot.attn_out: block.attn_out, Slot.qk: block.attention.q_norm, Slot.ffn_in: block.ffn_in,
        Slot.ffn_hidden: block.ffn.hidden_norm, Slot.ffn_act: block.ffn.act_norm, Slot.ffn_out: block.ffn_out,
        Slot.attn_post: block.attn_post, Slot.ffn_post: block.ffn_post, Slot.final: net.final_norm,
    }  # fmt: skip


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
    assert found == {slot: NORMS[expected.get(slot, "none")].make for slot in Slot}


@pytest.mark.parametrize("slot", list(Slot))
@pytest.mark.parametrize("kind", [kind for kind in NORMS if kind != "none"])
def test_any_kind_in_any_slot_gets_gradients(slot, kind):
    net = VisionTransformer(**TINY, placement={slot: kind})
    F.cross_entropy(net(torch.rand(3, 1, 28, 28)), torch.tensor([0, 1, 2])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert type(norm_classes(net)[slot]) is NORMS[kind].make


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


def assert_left_out_tokens_change_nothing(net, training, monkeypatch):
    images, labels = torch.rand(5, 1, 28, 28, dtype=torch.float64), torch.arange(5)
    narrow = everything(net, images, labels, training)
    with monkeypatch.context() as patch:
        patch.setattr(vit, "first_token", lambda block, x: block(x))
        whole = everything(net, images, labels, training)
    for a, b in zip(narrow, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def network(slot, kind):
    torch.manual_seed(0)
    placement = {**named("vitbnffn" if slot == "attn_in" else "none"), slot: kind}
    return VisionTransformer(**{**TINY, "dim": 16, "dim_head": 12}, placement=placement, qkv_bias=True).double()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("slot", list(Slot))
@pytest.mark.parametrize("kind", ["none", "layer", "batch", "group"])
@pytest.mark.parametrize("merged", [False, True])
def test_tokens_that_nothing_reads_are_not_computed_and_nothing_changes(
    training, slot, kind, merged, merge, monkeypatch
):
    merge(merged)
    assert_left_out_tokens_change_nothing(network(slot, kind), training, monkeypatch)


class MeanFree(nn.Module):
    """Subtracts, in training and in evaluation, the mean over the tokens of the image."""

    def __init__(self, num_features, eps):
        super().__init__()

    def forward(self, x):
        return x - x.mean(-2, keepdim=True)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("slot", list(Slot))
def test_a_new_kind_needs_nothing_but_its_name_and_its_entry(training, slot, monkeypatch):
    """One that mixes tokens may leave everything else at the defaults."""
    monkeypatch.setitem(NORMS, "mine.MeanFree", Norm(MeanFree))
    net = network(slot, "mine.MeanFree")
    assert type(norm_classes(net)[slot]) is MeanFree
    assert_left_out_tokens_change_nothing(net, training, monkeypatch)


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
    net = VisionTransformer(**{**TINY, "pool": pool}, placement=named(placement))
    assert rows_of_last_block(net.train(training)) == rows


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 0}, "patch_size 0: must be at least 1"),
        ({"depth": 0}, "depth 0: must be at least 1"),
        ({"patch_size": 5}, "patch_size 5 does not divide image_size 28"),
        ({"pool": "men"}, "unknown pool 'men'; choose from cls, mean"),
        ({"pos_emb": "rope"}, "unknown pos_emb 'rope'; choose from learn, pe1d"),
        ({"dropout": 1.5}, "dropout probability has to be between 0 and 1, but got 1.5"),
        ({"placement": "vitbm"}, "placement: unknown name 'vitbm'; choose from"),
        ({"placement": {"ffn": "batch"}}, "unknown slot 'ffn'; choose from embed_in, embed_out"),
        (
            {"placement": {"ffn_in": "rmsnorm"}},
            "placement.ffn_in: unknown kind 'rmsnorm'; choose from none, layer, batch",
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


def test_compiled_network_keeps_its_parameter_names():
    net = ViT(**TINY)
    names = list(net.state_dict())
    net.compile()
    assert list(net.state_dict()) == names
